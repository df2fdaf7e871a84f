"""Pretexts: what is damaged, what is restored, and how it is scored.

To add one, write its class with a new ``kind``, and list it in ``AnyPretext``.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pretrain.gradient.pretexts.base import Pretext
from pretrain.gradient.pretexts.colorize import Colorize
from pretrain.gradient.pretexts.denoise import Denoise
from pretrain.gradient.pretexts.identity import Identity
from pretrain.gradient.pretexts.mask import Mask
from pretrain.gradient.pretexts.mixed import Mixed

AnyPretext = Annotated[Denoise | Colorize | Mask | Mixed | Identity, Field(discriminator="kind")]

__all__ = ["AnyPretext", "Colorize", "Denoise", "Identity", "Mask", "Mixed", "Pretext"]

"""Pretexts: what is damaged, what is to be restored, how it is scored.

To add one: write its class with a ``kind`` of its own, and name it in ``AnyPretext``.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pretrain.pretexts.base import Pretext
from pretrain.pretexts.colorize import Colorize
from pretrain.pretexts.denoise import Denoise
from pretrain.pretexts.identity import Identity
from pretrain.pretexts.mask import Mask
from pretrain.pretexts.mixed import Mixed

AnyPretext = Annotated[Denoise | Colorize | Mask | Mixed | Identity, Field(discriminator="kind")]

__all__ = ["AnyPretext", "Colorize", "Denoise", "Identity", "Mask", "Mixed", "Pretext"]

"""Corruptions: one small class per file, callable on ``[B 3 H W]`` RGB in [0, 1], batched on the device.

To add one, write a class with its own ``kind`` and name it in ``AnyCorruption``.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common.corruptions.base import Corruption
from common.corruptions.blur import Blur
from common.corruptions.gaussian import Gaussian
from common.corruptions.gray import Gray
from common.corruptions.holes import Holes
from common.corruptions.jpeg import Jpeg
from common.corruptions.salt_pepper import SaltPepper

AnyCorruption = Annotated[Gaussian | SaltPepper | Blur | Jpeg | Gray | Holes, Field(discriminator="kind")]

__all__ = ["AnyCorruption", "Blur", "Corruption", "Gaussian", "Gray", "Holes", "Jpeg", "SaltPepper"]

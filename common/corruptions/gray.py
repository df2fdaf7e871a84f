"""Color removed."""

from __future__ import annotations

from typing import ClassVar, Literal

from kornia.color import rgb_to_grayscale
from torch import Tensor

from common.corruptions.base import Corruption


class Gray(Corruption):
    """Luma (ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B) on all three channels."""

    kind: Literal["gray"] = "gray"
    spared: ClassVar[str] = "without color"

    def __call__(self, images: Tensor) -> Tensor:
        luma: Tensor = rgb_to_grayscale(images)
        return luma.repeat(1, 3, 1, 1)

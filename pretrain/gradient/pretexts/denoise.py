"""Denoising: restore an image from one kind of damage."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from common.corruptions import AnyCorruption, Gaussian, Gray
from common.encoders.base import Encoder
from pretrain.gradient.example import Example
from pretrain.gradient.pretexts.restore import Restore
from pretrain.ruler.restorers import Restorer, for_damage


class Denoise(Restore):
    """``d(f(g(x + noise)), x)`` (Vincent et al. 2008), by default with Gaussian noise of many levels."""

    kind: Literal["denoise"] = "denoise"
    corruption: AnyCorruption = Gaussian()

    @property
    def needs_color(self) -> bool:
        return isinstance(self.corruption, Gray)

    @property
    def spared(self) -> str:
        return self.corruption.spared

    @property
    def noise(self) -> float:
        return self.corruption.noise

    def check(self, encoder: Encoder) -> list[str]:
        return [f"pretext.corruption: {problem}" for problem in self.corruption.check(encoder.image_size)]

    def restorers(self, encoder: Encoder) -> tuple[Restorer, ...]:
        return for_damage([self.corruption], holes_known=False)

    def corrupt(self, images: Tensor, encoder: Encoder) -> Example:
        return Example(input=self.corruption(images), clean=images, target=images)

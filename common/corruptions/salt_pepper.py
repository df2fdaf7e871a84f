"""Salt-and-pepper noise."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor

from common.corruptions.base import Corruption, Range, between, draw


def _some(value: tuple[float, float]) -> tuple[float, float]:
    if value[1] == 0 or value[0] == 1:
        raise ValueError(f"must replace some pixels, and not all of every image, got [{value[0]:g}, {value[1]:g}]")
    return value


class SaltPepper(Corruption):
    """Each pixel is replaced with probability ``amount``, by black or white equally often, in all three channels."""

    kind: Literal["salt_pepper"] = "salt_pepper"
    amount: Annotated[Range, between(0, 1), AfterValidator(_some)] = (0.02, 0.4)
    """Share of replaced pixels, drawn per image: one number, or [lowest, highest]."""

    def __call__(self, images: Tensor) -> Tensor:
        half = draw(self.amount, images).view(-1, 1, 1, 1) / 2
        chance = torch.rand_like(images[:, :1])
        damaged = torch.where(chance < half, 0.0, images)
        return torch.where(chance >= 1 - half, 1.0, damaged)

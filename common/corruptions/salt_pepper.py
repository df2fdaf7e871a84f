"""Salt-and-pepper noise."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from common.corruptions.base import Corruption, Range, between, draw


class SaltPepper(Corruption):
    """Each pixel is replaced with probability ``amount``, by black or white equally often, in all three channels."""

    kind: Literal["salt_pepper"] = "salt_pepper"
    amount: Annotated[Range, between(0, 1)] = (0.02, 0.4)
    """Share of replaced pixels, drawn per image: one number, or [lowest, highest]."""

    def __call__(self, images: Tensor) -> Tensor:
        half = draw(self.amount, images).view(-1, 1, 1, 1) / 2
        chance = torch.rand_like(images[:, :1])
        damaged = torch.where(chance < half, 0.0, images)
        return torch.where(chance >= 1 - half, 1.0, damaged)

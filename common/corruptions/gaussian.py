"""Gaussian noise of a fixed or a log-normal level."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from common.corruptions.base import Corruption


class Gaussian(Corruption):
    """``x + σ ε`` with ``ε ~ N(0, 1)``; σ is in units of [0, 1], and the result is never clipped.

    ``sigma`` fixes σ. Without it, ``ln σ ~ N(log_mean, log_std)`` per image (Karras et al. 2022, EDM, section 5:
    mean -1.2, deviation 1.2 for images in [-1, 1]; in [0, 1] σ is half as large, so the mean is lower by ln 2).
    """

    kind: Literal["gaussian"] = "gaussian"
    sigma: float | None = Field(None, ge=1e-6, le=100)
    """Standard deviation of the noise, for pixels in [0, 1]; null draws one per image."""
    log_mean: float = Field(-1.9, ge=-12, le=4)
    """Mean of ln σ, where σ is drawn."""
    log_std: float = Field(1.2, ge=0, le=3)
    """Standard deviation of ln σ, where σ is drawn."""

    @property
    def noise(self) -> float:
        return math.inf if self.sigma is None else self.sigma

    def __call__(self, images: Tensor) -> Tensor:
        return images + self.levels(images) * torch.randn_like(images)

    def levels(self, images: Tensor) -> Tensor:
        """σ of each image, ``[B 1 1 1]``."""
        shape = (len(images), 1, 1, 1)
        if self.sigma is not None:
            return images.new_full(shape, self.sigma)
        return torch.randn(shape, device=images.device).mul_(self.log_std).add_(self.log_mean).exp_()

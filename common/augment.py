"""Augmentation: a mild random crop and flip per image, batched on the device."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.nn import functional as F

from common.config import Config
from common.pixels import to_float


def _scales(value: tuple[float, float] | None) -> tuple[float, float] | None:
    if value is not None and not 0 < value[0] <= value[1] <= 1:
        raise ValueError("must be [smallest, largest] with 0 < smallest <= largest <= 1, or null for no crop")
    return value


class AugmentConfig(Config):
    """Random resized crop, horizontal flip, color jitter; every parameter is drawn per image.

    Crop and flip are one affine map, sampled once with bilinear interpolation, which is cheaper than kornia's chain of
    two (docs/architecture.md). Like all randomness here, it is drawn on the device from torch's global generator.
    """

    crop: Annotated[tuple[float, float] | None, AfterValidator(_scales)] = (0.6, 1.0)
    """Smallest and largest share of the area to keep (MAE uses 0.2 to 1); null keeps whole images."""
    aspect: float = Field(4 / 3, ge=1, le=4)
    """Largest aspect ratio of a crop, in either direction."""
    flip: bool = True
    """Mirror half of the images; turn it off where left and right matter (digits, text)."""
    jitter: float = Field(0.0, ge=0, le=1)
    """Strength of brightness, contrast and saturation changes: factors in [1 - jitter, 1 + jitter]."""

    def __call__(self, images: Tensor) -> Tensor:
        """Images ``[B 3 H W]``, uint8 0..255 or float 0..1 -> float32 0..1, same shape."""
        images = to_float(images)
        if self.crop is not None:
            images = self._crop(images, self.crop)
        elif self.flip:
            images = torch.where(_coin(images), images.flip(3), images)
        if self.jitter:
            images = self._jitter(images)
        return images

    def _crop(self, images: Tensor, scales: tuple[float, float]) -> Tensor:
        """A box of random area, aspect ratio and position, resized to the full image."""
        count, device = len(images), images.device
        area = torch.empty(count, device=device).uniform_(*scales)
        aspect = torch.empty(count, device=device).uniform_(-1, 1).mul(math.log(self.aspect)).exp().sqrt()
        # half-widths in grid coordinates, where the image spans -1..1; the box stays inside the image
        half_x, half_y = (area.sqrt() * aspect).clamp_max(1), (area.sqrt() / aspect).clamp_max(1)
        shift = torch.empty(2, count, device=device).uniform_(-1, 1)
        sign = torch.where(_coin(images).flatten(), -1.0, 1.0) if self.flip else torch.ones_like(area)
        zero = torch.zeros_like(area)
        affine = torch.stack(
            [half_x * sign, zero, shift[0] * (1 - half_x), zero, half_y, shift[1] * (1 - half_y)], dim=1
        ).view(count, 2, 3)
        grid = F.affine_grid(affine, list(images.shape), align_corners=False)
        # no antialiasing is needed, since a crop is only ever enlarged
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def _jitter(self, images: Tensor) -> Tensor:
        bright, contrast, color = (
            torch.empty(3, len(images), 1, 1, 1, device=images.device).uniform_(-1, 1).mul(self.jitter) + 1
        )
        images = images * bright
        images = torch.lerp(images.mean(dim=(1, 2, 3), keepdim=True), images, contrast)
        return torch.lerp(images.mean(dim=1, keepdim=True), images, color).clamp(0, 1)


WHOLE = AugmentConfig(crop=None, flip=False)  # images as they are


def _coin(images: Tensor) -> Tensor:
    return torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5

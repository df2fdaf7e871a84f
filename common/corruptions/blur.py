"""Gaussian blur."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor

from common.corruptions.base import Corruption, Range, between, draw


class Blur(Corruption):
    """Convolution with a Gaussian whose standard deviation ``sigma``, in pixels, is drawn per image."""

    kind: Literal["blur"] = "blur"
    spared: ClassVar[str] = "of one color"
    sigma: Annotated[Range, between(0.1, 50)] = (0.4, 2.0)
    """Standard deviation in pixels, drawn per image: one number, or [lowest, highest]."""

    def __call__(self, images: Tensor) -> Tensor:
        sigma = draw(self.sigma, images)
        # three standard deviations each way, but a mirrored border must be narrower than the image
        reach = min(math.ceil(3 * self.sigma[1]), min(images.shape[2:]) - 1)
        with torch.autocast(images.device.type, enabled=False):
            blurred: Tensor = gaussian_blur2d(images.float(), 2 * reach + 1, sigma[:, None].expand(-1, 2))
        return blurred

"""JPEG compression."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from common.corruptions.base import Corruption, Range, between, draw

# Quantization tables of ITU-T T.81, annex K, tables K.1 (luminance) and K.2 (chrominance)
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *(((99,) * 8,) * 4),
)
# RGB -> Y Cb Cr, the JFIF matrix (ITU-R BT.601)
YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)


class Jpeg(Corruption):
    """JPEG artefacts at ``quality`` 1..100, drawn per image (4:2:0 chroma, baseline tables).

    kornia's codec is differentiable: its soft rounding leaks a little of every discarded coefficient, which a network
    could learn to amplify. This one rounds exactly, is closer to libjpeg, and is several times faster.
    """

    kind: Literal["jpeg"] = "jpeg"
    spared: ClassVar[str] = "of one color"
    quality: Annotated[Range, between(1, 100)] = (5, 50)
    """Quality, 1 to 100, drawn per image: one number, or [lowest, highest]."""

    def __call__(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return compress(images.float(), draw(self.quality, images).round())


def compress(images: Tensor, quality: Tensor) -> Tensor:
    """Images ``[B 3 H W]`` in [0, 1] and integer qualities ``[B]`` in 1..100 -> decompressed images in [0, 1]."""
    height, width = images.shape[2:]
    # a macroblock of 4:2:0 JPEG is 16 pixels wide
    padded = F.pad(images, (0, -width % 16, 0, -height % 16), mode="replicate")
    mix = images.new_tensor(YCBCR)
    levels = padded.mul(255).flatten(2)  # 0..255
    ycc = (mix @ levels).view_as(padded)
    # libjpeg's scaling: below quality 50 the tables grow as 1 / quality, above it they shrink linearly
    percent = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).view(-1, 1, 1, 1, 1, 1)
    luma = _quantize(ycc[:, :1] - 128, LUMINANCE, percent) + 128
    chroma = _quantize(F.avg_pool2d(ycc[:, 1:], 2), CHROMINANCE, percent)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    decoded: Tensor = torch.linalg.inv(mix) @ torch.cat([luma, chroma], dim=1).flatten(2)
    return decoded.view_as(padded)[:, :, :height, :width].div(255).clamp(0, 1)


def _quantize(plane: Tensor, table: tuple[tuple[int, ...], ...], percent: Tensor) -> Tensor:
    """Levels ``[B K H W]`` -> the same after quantizing the cosine transform of every 8x8 block."""
    count, channels, height, width = plane.shape
    steps = ((plane.new_tensor(table) * percent + 50) / 100).floor().clamp(1, 255)
    blocks = plane.view(count, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    cosine = _cosine(plane)
    coefficients = cosine @ blocks @ cosine.T
    blocks = cosine.T @ ((coefficients / steps).round() * steps) @ cosine
    return blocks.transpose(3, 4).reshape(plane.shape)


def _cosine(like: Tensor) -> Tensor:
    """The orthonormal 8-point cosine transform (DCT-II), ``[8 8]``, one row per frequency."""
    place = torch.arange(8, dtype=torch.float32, device=like.device)
    rows = torch.cos((2 * place + 1) * place[:, None] * (math.pi / 16)) / 2
    return torch.cat([rows[:1] / math.sqrt(2), rows[1:]])

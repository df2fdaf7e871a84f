"""Pictures between their forms: uint8 0..255, float 0..1, PNG on disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CHUNK_PIXELS = 1 << 18  # of images that go through a network together where no gradient is asked: 256 of 32 px


def in_chunks(images: Tensor) -> tuple[Tensor, ...]:
    """Images ``[N C H W]`` a few at a time, so that a network's maps of all of them are never in memory together."""
    return torch.split(images, max(1, CHUNK_PIXELS // images.shape[2:].numel()))


def to_float(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 0..1, any shape, on its own device; floats, in [0, 1] already, become float32."""
    return images.float() if images.is_floating_point() else images.float() / 255


def to_uint8(images: Tensor) -> Tensor:
    """Float 0..1 -> uint8 0..255, any shape; rounded, what leaves the range is clipped."""
    return images.detach().float().clamp(0, 1).mul(255).round().byte()


def to_pil(image: Tensor) -> Image.Image:
    """One RGB image ``[3 H W]``, uint8 or float in [0, 1] -> PIL."""
    pixels = to_uint8(image) if image.is_floating_point() else image
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy()))


def save_png(picture: Image.Image, path: str | Path) -> Path:
    """Write ``picture`` as PNG beside ``path``, then rename, so that a half-written file is never seen."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    picture.save(beside, format="PNG")
    beside.replace(path)
    return path

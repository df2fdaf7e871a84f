"""Images in their three forms, uint8 0..255, float 0..1 and PNG, and a bounded number of them at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.files import replacing

CHUNK_PIXELS = 1 << 18  # per forward pass without gradients: 256 images of 32 px


def in_chunks(images: Tensor) -> tuple[Tensor, ...]:
    """Images ``[N C H W]`` in chunks of at most ``CHUNK_PIXELS`` pixels, which bound the memory of a network's maps."""
    return split_rows(images, images.shape[2:].numel(), CHUNK_PIXELS)


def split_rows(rows: Tensor, cost: int, limit: int, most: int | None = None) -> tuple[Tensor, ...]:
    """``rows`` in chunks of the size that ``rows_within`` gives."""
    return torch.split(rows, rows_within(cost, limit, most))


def rows_within(cost: int, limit: int, most: int | None = None) -> int:
    """How many rows that cost ``cost`` each stay within ``limit``: at least one, and no more than ``most``."""
    return max(1, limit // cost if most is None else min(most, limit // cost))


def to_float(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 0..1, any shape, on its own device; floats, in [0, 1] already, become float32."""
    return images.float() if images.is_floating_point() else images.float() / 255


def to_uint8(images: Tensor) -> Tensor:
    """Float 0..1 -> uint8 0..255, any shape; rounded, values outside the range are clipped."""
    return images.detach().float().clamp(0, 1).mul(255).round().byte()


def to_pil(image: Tensor) -> Image.Image:
    """One RGB image ``[3 H W]``, uint8 or float in [0, 1] -> PIL."""
    pixels = to_uint8(image) if image.is_floating_point() else image
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy()))


def save_png(picture: Image.Image, path: str | Path) -> Path:
    """Replace ``path`` by ``picture`` as PNG, atomically; returns the path."""
    path = Path(path)
    with replacing(path) as unfinished:
        picture.save(unfinished, format="PNG")
    return path

"""Small pretexts, and pictures of many sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIDE = 16
PRETEXTS: dict[str, dict[str, Any]] = {
    "denoise": {"kind": "denoise", "corruption": {"kind": "gaussian", "sigma": 0.1}},
    "colorize": {"kind": "colorize", "bins": 8},
    "mask": {"kind": "mask", "ratio": 0.4, "normalize_patches": False},
    "mixed": {"kind": "mixed"},
}
SIZES = {"a.png": (40, 52), "deep/er/b.jpg": (17, 16), "deep/c.png": (9, 33), "deep/d.png": (16, 16)}  # height, width
RunOf = Callable[[str], Path]


def pixels(path: Path) -> Tensor:
    """uint8 ``[3 H W]``."""
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def save(picture: Tensor, path: Path) -> None:
    """uint8 ``[C H W]`` of one or three channels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.permute(1, 2, 0).squeeze(2).numpy()).save(path)

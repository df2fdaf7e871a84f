"""Pictures survive their changes of form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.pixels import save_png, to_float, to_pil, to_uint8

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_every_level_survives_the_way_to_float_and_back() -> None:
    assert torch.equal(to_uint8(to_float(LEVELS)), LEVELS)
    assert to_float(LEVELS).min() == 0
    assert to_float(LEVELS).max() == 1


def test_what_leaves_the_range_is_clipped() -> None:
    assert to_uint8(torch.tensor([-0.5, 0.5, 1.5])).tolist() == [0, 128, 255]


def test_pil_and_png_hold_the_same_pixels(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    path = save_png(to_pil(image), tmp_path / "new" / "picture.png")
    assert np.array_equal(np.array(Image.open(path)), image.permute(1, 2, 0).numpy())
    assert np.array_equal(np.array(to_pil(to_float(image))), image.permute(1, 2, 0).numpy())
    assert [file.name for file in path.parent.iterdir()] == ["picture.png"]

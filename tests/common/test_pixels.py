"""Images survive every change of form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.pixels import save_png, split_rows, to_float, to_pil, to_uint8

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_every_level_survives_the_way_to_float_and_back() -> None:
    assert torch.equal(to_uint8(to_float(LEVELS)), LEVELS)
    assert to_float(LEVELS).min() == 0
    assert to_float(LEVELS).max() == 1


def test_what_leaves_the_range_is_clipped() -> None:
    assert to_uint8(torch.tensor([-0.5, 0.5, 1.5])).tolist() == [0, 128, 255]


@pytest.mark.parametrize(("cost", "limit", "sizes"), [(10, 30, [3, 3, 1]), (10, 29, [2, 2, 2, 1]), (99, 30, [1] * 7)])
def test_rows_are_split_so_that_a_chunk_costs_at_most_the_limit(cost: int, limit: int, sizes: list[int]) -> None:
    rows = torch.arange(14).view(7, 2)
    chunks = split_rows(rows, cost, limit)
    assert [len(chunk) for chunk in chunks] == sizes
    assert torch.equal(torch.cat(chunks), rows)


def test_pil_and_png_hold_the_same_pixels(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    path = save_png(to_pil(image), tmp_path / "new" / "picture.png")
    assert np.array_equal(np.array(Image.open(path)), image.permute(1, 2, 0).numpy())
    assert np.array_equal(np.array(to_pil(to_float(image))), image.permute(1, 2, 0).numpy())
    assert [file.name for file in path.parent.iterdir()] == ["picture.png"]

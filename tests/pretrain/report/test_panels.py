"""Panels show the right pixels in the right place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pretrain.gradient.example import Example
from pretrain.report.panels import EDGE, GAP, LABEL, panel, save_panel, seen


def test_every_image_is_in_its_row_and_column_with_crisp_pixels(photographs: Tensor) -> None:
    clean, damaged, restored = photographs[:4], photographs[4:8], photographs[8:12]
    picture = np.array(panel(Example(damaged, clean, clean), restored))
    for row, images in enumerate((clean, damaged, restored)):
        for column in range(4):
            top, left = EDGE + row * (128 + GAP), EDGE + LABEL + column * (128 + GAP)
            tile = picture[top : top + 128, left : left + 128]
            expected = (images[column] * 255).round().byte().permute(1, 2, 0).numpy()
            assert np.array_equal(tile, expected.repeat(8, axis=0).repeat(8, axis=1))


def test_an_undamaged_image_is_shown_once(photographs: Tensor) -> None:
    example = Example(photographs, photographs, photographs)
    assert panel(example, photographs).height == 2 * EDGE + 2 * 128 + GAP


def test_the_damaged_row_shows_what_the_encoder_saw() -> None:
    clean = torch.full((1, 3, 4, 4), 0.8)
    noisy = clean + torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1)
    assert seen(Example(noisy, clean, clean))[0, :, 0, 0].tolist() == torch.tensor([1.0, 0.0, 0.8]).tolist()
    hidden = torch.zeros(1, 1, 4, 4)
    hidden[..., 0] = 1
    for example in (
        Example(torch.cat([clean, hidden], dim=1), clean, clean),
        Example(clean, clean, clean, weight=hidden, visible=torch.tensor([[1]])),
    ):
        shown = seen(example)
        assert (shown[..., 0] == 0.5).all()
        assert torch.equal(shown[..., 1:], clean[..., 1:])


def test_a_saved_panel_is_the_panel(photographs: Tensor, tmp_path: Path) -> None:
    example = Example(photographs, photographs, photographs)
    path = save_panel(tmp_path / "panels" / "step-1.png", example, photographs, title="denoise, step 1")
    assert np.array_equal(np.array(Image.open(path)), np.array(panel(example, photographs, "denoise, step 1")))

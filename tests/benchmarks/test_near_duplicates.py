"""Copies that are changed as published pictures often are get found; the cases that are not found are known."""

from __future__ import annotations

import pytest
import torch
from near_duplicates import CHANGES, recalls
from torch.nn.functional import interpolate

from common.data import Images
from tests.finetune.toys import BrightSource


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, float]]:
    """Pictures with contrast at all scales, like photographs: half the contrast at half the scale."""
    generator = torch.Generator().manual_seed(0)
    octaves = [
        interpolate(torch.randn(150, 3, side, side, generator=generator), (64, 64), mode="bilinear") / side
        for side in (3, 6, 12, 24)
    ]
    pixels = (128 + 180 * torch.stack(octaves).sum(0)).clamp(0, 255).byte()
    return recalls(Images(BrightSource(150), 64, torch.arange(150), pixels), 150, 150, 0)


MISSED = ("crop 90%", "crop 80%", "crop 70%", "mirrored")


@pytest.mark.parametrize("change", [name for name in CHANGES if name not in MISSED])
def test_a_changed_copy_is_found(found: dict[str, dict[str, float]], change: str) -> None:
    assert found[change]["recall"] >= 0.95


@pytest.mark.parametrize("change", MISSED[1:])
def test_much_of_an_image_cut_off_and_its_mirror_image_are_not(found: dict[str, dict[str, float]], change: str) -> None:
    """So no text may promise it: results and guides say which copies are found."""
    assert found[change]["recall"] < 0.5

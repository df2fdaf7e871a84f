"""Augmentation is mild, per image, exact where it changes nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from common.augment import AugmentConfig

BYTES = torch.randint(0, 256, (16, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_nothing_switched_on_only_converts_to_float() -> None:
    augmented = AugmentConfig(crop=None, flip=False)(BYTES)
    assert augmented.dtype == torch.float32
    assert torch.equal(augmented, BYTES.float() / 255)


def test_flip_mirrors_about_half_the_images() -> None:
    torch.manual_seed(0)
    many = BYTES.repeat(20, 1, 1, 1)
    plain = many.float() / 255
    augmented = AugmentConfig(crop=None)(many)
    same = (augmented == plain).flatten(1).all(dim=1)
    mirrored = (augmented == plain.flip(3)).flatten(1).all(dim=1)
    assert (same ^ mirrored).all()
    assert 0.4 < mirrored.float().mean() < 0.6


def test_a_crop_of_everything_is_the_image_itself() -> None:
    augmented = AugmentConfig(crop=(1.0, 1.0), aspect=1, flip=False)(BYTES)
    assert torch.allclose(augmented, BYTES.float() / 255, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(smallest=st.floats(0.05, 1.0), aspect=st.floats(1, 4), seed=st.integers(0, 100))
def test_a_crop_reads_a_box_inside_the_image_of_the_stated_area(smallest: float, aspect: float, seed: int) -> None:
    # the image holds its own coordinates, so that what comes out says where it was read
    side = 64
    ramp = (torch.arange(side) + 0.5) / side
    coordinates = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side), torch.zeros(side, side)])
    torch.manual_seed(seed)
    read = AugmentConfig(crop=(smallest, 1.0), aspect=aspect, flip=False)(coordinates.repeat(8, 1, 1, 1))
    half = 0.5 / side
    assert read[:, :2].min() >= half - 1e-4
    assert read[:, :2].max() <= 1 - half + 1e-4
    middle = side // 2
    wide = (read[:, 0, middle, middle + 8] - read[:, 0, middle, middle - 8]) * side / 16
    high = (read[:, 1, middle + 8, middle] - read[:, 1, middle - 8, middle]) * side / 16
    # clamping a long box to the image can only make it smaller
    assert (wide * high <= 1 + 1e-3).all()
    if aspect == 1:
        assert (wide * high >= smallest - 1e-3).all()
    assert (wide * high >= smallest / aspect - 1e-3).all()


def test_is_a_function_of_the_global_seed() -> None:
    augment = AugmentConfig(jitter=0.4)
    torch.manual_seed(5)
    first = augment(BYTES)
    torch.manual_seed(5)
    assert torch.equal(augment(BYTES), first)
    assert not torch.equal(augment(BYTES), first)


def test_every_image_gets_a_crop_of_its_own() -> None:
    augmented = AugmentConfig(flip=False)(BYTES[:1].repeat(8, 1, 1, 1))
    assert len(augmented.flatten(1).unique(dim=0)) == 8


def test_jitter_keeps_the_range_and_leaves_gray_images_gray() -> None:
    gray = BYTES[:, :1].repeat(1, 3, 1, 1)
    augmented = AugmentConfig(crop=None, flip=False, jitter=0.8)(gray)
    assert augmented.min() >= 0
    assert augmented.max() <= 1
    assert torch.allclose(augmented[:, 0], augmented[:, 2], atol=1e-6)
    assert not torch.allclose(augmented, gray.float() / 255, atol=0.01)


@pytest.mark.parametrize("crop", [(0, 1), (0.8, 0.5), (0.5, 1.2)])
def test_wrong_crop_scales_are_refused(crop: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="smallest <= largest"):
        AugmentConfig(crop=crop)

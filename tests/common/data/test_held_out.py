"""Held-out images are chosen once, by the seed, and never learned from."""

from __future__ import annotations

import logging

import pytest
import torch

from common.data import Images, build_source, load_images
from common.data.held_out import hold_out
from common.data.patches import PatchesSource
from tests.toys import RandomSource, noise_images


def test_rows_are_shared_out_by_the_seed() -> None:
    images = noise_images(1000)
    training, held = hold_out(images, 0.02, 3)
    assert held is not None
    assert len(held) == 32
    rows = torch.cat([training.kept, held.kept])
    assert torch.equal(rows.sort().values, images.kept)
    assert torch.equal(training.kept, training.kept.sort().values)
    assert images.pixels is not None
    assert held.pixels is not None
    assert torch.equal(held.pixels, images.pixels[held.kept])
    again, other = hold_out(images, 0.02, 3)[1], hold_out(images, 0.02, 4)[1]
    assert again is not None
    assert other is not None
    assert torch.equal(again.kept, held.kept)
    assert not torch.equal(other.kept, held.kept)


@pytest.mark.parametrize(
    ("length", "share", "count"),
    [(99, 0.02, None), (1000, 0.0, None), (100, 0.02, 10), (319, 0.02, 31), (1600, 0.02, 32), (1700, 0.02, 34)],
)
def test_of_few_images_a_tenth_is_held_out_or_none(length: int, share: float, count: int | None) -> None:
    images = noise_images(length)
    training, held = hold_out(images, share, 0)
    assert (None if held is None else len(held)) == count
    assert len(training) == length - (count or 0)


def test_few_images_are_said_to_be_too_few_once(caplog: pytest.LogCaptureFixture) -> None:
    """All contestants of a study learn from the same images."""
    with caplog.at_level(logging.INFO, logger="retouch"):
        for count in (61, 62, 61, 61):
            hold_out(noise_images(count), 0.02, 0)
    spec = noise_images(61).source.spec
    assert caplog.messages == [
        f"{spec}: none of {count} images are held out: there are fewer than 100" for count in (61, 62)
    ]


def test_as_many_as_are_looked_at_are_held_out_at_most() -> None:
    source = RandomSource(10)
    held = hold_out(Images(source, 8, torch.arange(500_000), checked=True), 0.02, 0)[1]
    assert held is not None
    assert len(held) == 2048
    held = hold_out(Images(source, 224, torch.arange(500_000), checked=True), 0.02, 0)[1]
    assert held is not None
    assert len(held) == 445


def test_generated_images_are_new_ones_and_training_keeps_its_own() -> None:
    images = load_images(build_source("shapes"), 16, limit=40)
    training, held = hold_out(images, 0.02, 0)
    assert training is images
    assert held is not None
    assert held.kept.tolist() == list(range(40, 104))
    more = load_images(build_source("shapes"), 16, limit=104)
    assert more.pixels is not None
    assert torch.equal(held.rows(torch.arange(64)), more.pixels[40:])


def test_patches_of_one_image_stay_together() -> None:
    source = PatchesSource(RandomSource(200, 20), each=5, side=8)
    training, held = hold_out(Images(source, 8, torch.arange(len(source)), checked=True), 0.05, 0)
    assert held is not None
    assert len(held) == 100
    assert not set((training.kept // 5).tolist()) & set((held.kept // 5).tolist())

"""Patches of photographs: crisp, reproducible, and of other places for testing than for training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import Subset, load_images
from common.data.photos import LARGEST, REGIONS, SIDE, PhotosSource, cut, photographs

ROWS = st.lists(st.integers(0, 2**31), min_size=1, max_size=40)


@settings(max_examples=15, deadline=None)
@given(rows=ROWS, seed=st.integers(0, 2**31), split=st.sampled_from(["train", "test"]), side=st.integers(1, 40))
def test_a_patch_does_not_depend_on_its_batch(rows: list[int], seed: int, split: str, side: int) -> None:
    together = cut(seed, split, np.array(rows), side)
    assert together.shape == (len(rows), 3, side, side)
    apart = [PhotosSource(split, 1, seed, side).image(row).numpy() for row in rows]
    assert np.array_equal(together, np.stack(apart))


@pytest.mark.parametrize("split", ["train", "test"])
def test_patches_are_cut_from_their_own_region_at_natural_resolution(split: str) -> None:
    loaded = load_images(PhotosSource(split, 20), 12)
    assert loaded.pixels is not None
    region = photographs()[..., REGIONS[split]]
    windows = np.lib.stride_tricks.sliding_window_view(region, (12, 12), axis=(2, 3))
    for patch in loaded.pixels.numpy():
        # all places whose first pixel fits, then those of them whose patch is the same
        which, top, left = np.nonzero((region[:, :, :-11, :-11] == patch[:, :1, :1]).all(1))
        assert (windows[which, :, top, left] == patch).all((1, 2, 3)).any()


def test_training_and_test_share_no_pixel() -> None:
    columns = np.arange(photographs().shape[3])
    assert not set(columns[REGIONS["train"]]) & set(columns[REGIONS["test"]])
    assert columns[REGIONS["train"]].size == 3 * columns[REGIONS["test"]].size == 480


def test_patches_reach_every_corner_of_both_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    # a photograph whose pixels say where they are: its number, and their row and column in its region
    places = np.zeros((2, 3, 427, 640), np.int64)
    places[:, 0] = np.arange(2)[:, None, None]
    places[:, 1], places[:, 2] = np.arange(427)[:, None], np.arange(640)
    monkeypatch.setattr("common.data.photos.photographs", lambda: places)
    corners = cut(0, "test", np.arange(20_000), 12)[:, :, 0, 0]
    assert np.bincount(corners[:, 0]).min() > 9_500
    for axis, first, last in ((1, 0, 427 - 12), (2, 480, 640 - 12)):
        assert (corners[:, axis].min(), corners[:, axis].max()) == (first, last)


def test_seeds_and_splits_give_other_patches() -> None:
    rows = np.arange(8)
    sets = [cut(seed, split, rows, SIDE) for seed in (0, 1) for split in ("train", "test")]
    assert len({patch.tobytes() for patches in sets for patch in patches}) == 32


def test_length_is_any_and_a_longer_set_begins_with_the_shorter() -> None:
    source = PhotosSource("train", 10)
    longer = load_images(source, 12, limit=14)
    assert len(longer) == 14
    assert torch.equal(longer.rows(torch.arange(10)), load_images(source, 12).rows(torch.arange(10)))


def test_a_subset_is_crisp_too() -> None:
    part = Subset(PhotosSource("train", 10), torch.tensor([7, 2]), "some")
    chosen = load_images(PhotosSource(), 12, limit=8).rows(torch.tensor([7, 2]))
    assert torch.equal(load_images(part, 12).rows(torch.arange(2)), chosen)


def test_patches_larger_than_the_test_region_are_enlarged() -> None:
    for split in ("train", "test"):
        source = PhotosSource(split, 2)
        assert source.at(LARGEST + 64).image(0).shape == (3, LARGEST, LARGEST)
        assert load_images(source, LARGEST + 64).rows(torch.arange(2)).shape == (2, 3, LARGEST + 64, LARGEST + 64)


def test_the_fingerprint_follows_everything_that_changes_a_pixel() -> None:
    sources = [
        PhotosSource(),
        PhotosSource("test"),
        PhotosSource(seed=1),
        PhotosSource(side=12),
        PhotosSource(length=3),
    ]
    assert len({source.fingerprint for source in sources}) == len(sources)
    assert PhotosSource().at(12).fingerprint == PhotosSource(side=12).fingerprint

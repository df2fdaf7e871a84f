from __future__ import annotations

import pytest
import torch

from common.data import Subset, build_source, find_duplicates, load_images, warn_of_duplicates


def test_byte_identical_rows_are_found_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    train = build_source("shapes:train:40")
    test = Subset(train, torch.tensor([39, 50, 3, 60, 3]), "mixed")  # 50 and 60 lie beyond the training rows
    ours, theirs = load_images(test, 32), load_images(train, 32)
    assert find_duplicates(ours, theirs).tolist() == [0, 2, 4]
    assert warn_of_duplicates(ours, theirs) == 3
    assert "3 of 5 test images are identical to training images" in caplog.text


def test_one_changed_pixel_is_another_image(caplog: pytest.LogCaptureFixture) -> None:
    train = load_images(build_source("shapes:train:5"), 32)
    test = load_images(build_source("shapes:train:5"), 32)
    assert test.pixels is not None
    test.pixels[:, 2, 31, 31] ^= 1
    assert warn_of_duplicates(test, train) == 0
    assert not caplog.records

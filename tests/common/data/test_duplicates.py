"""Exact and near-duplicates: found where they are planted, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from common.data import Images, Source, Subset, build_source, load_images
from common.data import duplicates as module
from common.data.duplicates import Pair, Prints, difference_hash, exact_rows, fingerprints, near_pairs
from tests.finetune.toys import BrightSource


def images_of(pixels: Tensor) -> Images:
    source: Source = BrightSource(len(pixels))
    return Images(source, pixels.shape[2], torch.arange(len(pixels)), pixels)


def pictures(count: int, seed: int) -> Tensor:
    """Smooth random pictures, uint8 ``[n 3 32 32]``: no two alike."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return (255 * interpolate(coarse, (32, 32), mode="bilinear")).byte()


def test_byte_identical_rows_are_found() -> None:
    train = build_source("shapes:train:40")
    test = Subset(train, torch.tensor([39, 50, 3, 60, 3]), "mixed")  # 50 and 60 are beyond the training rows
    ours, theirs = (fingerprints(load_images(source, 32)) for source in (test, train))
    assert exact_rows(ours, theirs).tolist() == [0, 2, 4]
    pairs = near_pairs(ours, theirs)
    assert pairs is not None
    assert [pair for pair in pairs if pair.alike == 1] == [Pair(0, 39, 1), Pair(2, 3, 1), Pair(4, 3, 1)]


def test_one_changed_pixel_is_another_image_but_nearly_the_same() -> None:
    train = pictures(5, 0)
    test = train.clone()
    test[:, 2, 31, 31] ^= 1
    ours, theirs = fingerprints(images_of(test)), fingerprints(images_of(train))
    assert not len(exact_rows(ours, theirs))
    pairs = near_pairs(ours, theirs)
    assert pairs is not None
    assert sorted((pair.test, pair.other) for pair in pairs) == [(row, row) for row in range(5)]
    assert all(0.99 < pair.alike < 1 for pair in pairs)


def test_darker_noisier_gray_and_smaller_copies_are_found_and_nothing_else() -> None:
    train = pictures(400, 1)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(-12, 13, train[:4].shape, generator=generator)
    smaller = interpolate(adaptive_avg_pool2d(train[:4].float(), 16), (32, 32), mode="bilinear").byte()
    gray = (train[:4] * torch.tensor(module.LUMA).view(3, 1, 1)).sum(1, keepdim=True).byte().expand(-1, 3, -1, -1)
    copies = [(train[:4] * 0.6).byte(), (train[:4] + noise).clamp(0, 255).byte(), gray, smaller]
    test = torch.cat([*copies, pictures(100, 2)])
    pairs = near_pairs(fingerprints(images_of(test)), fingerprints(images_of(train)))
    assert pairs is not None
    assert sorted((pair.test, pair.other) for pair in pairs) == [(row, row % 4) for row in range(16)]
    assert [pair.alike for pair in pairs] == sorted((pair.alike for pair in pairs), reverse=True)


def test_hash_of_a_ramp_and_of_one_color() -> None:
    ramp = torch.linspace(0, 1, 9).expand(1, 1, 8, 9)
    assert difference_hash(ramp).all()
    assert not difference_hash(ramp.flip(3)).any()
    half = torch.cat([ramp[..., :5], ramp[..., :4].flip(3)], dim=3)
    assert difference_hash(half).view(8, 8).float().mean(0).tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert not difference_hash(torch.ones(1, 1, 16, 16)).any()


def test_images_of_one_color_are_alike_only_if_they_are_the_same() -> None:
    plain = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 8, 8).contiguous()
    pairs = near_pairs(fingerprints(images_of(plain[:2])), fingerprints(images_of(plain[1:])))
    assert pairs == [Pair(1, 0, 1.0)]


@pytest.mark.parametrize("rows", [1, 3, 256])
def test_pairs_do_not_depend_on_how_many_are_compared_at_once(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train = pictures(60, 3)
    ours, theirs = fingerprints(images_of(train[::2])), fingerprints(images_of(train))
    whole = near_pairs(ours, theirs)
    monkeypatch.setattr(module, "ROWS", rows)
    monkeypatch.setattr(module, "PIECE", rows)
    assert near_pairs(ours, theirs) == whole
    assert whole is not None
    assert len(whole) == 30


def test_images_that_all_look_alike_are_not_called_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    n = 300
    same = Prints(torch.arange(n), [bytes([k % 256, k // 256]) for k in range(n)], torch.zeros(n, 64, dtype=torch.bool),
                  torch.arange(256, dtype=torch.uint8).expand(n, -1))  # fmt: skip
    assert near_pairs(same, same) is None  # 90,000 candidates of 90,000 pairs
    few = Prints(same.rows[:50], same.exact[:50], same.hashes[:50], same.thumbnails[:50])
    assert len(near_pairs(few, few) or []) == 2500

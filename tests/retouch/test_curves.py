"""The cost of sparsity: the points of the curves are ordered as theory predicts, and are drawn."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from common.data import build_source, load_images
from common.encoders.storage import NONZERO_BYTES
from common.pixels import to_float
from common.solvers import omp
from pretrain.linear.sparse_coding import random_rows
from retouch import curves
from retouch.curves import BUDGETS, COLORS, L0, L1, Point, centered_rows, save_curves, sparsity_curves


@pytest.fixture(scope="module")
def rows() -> Tensor:
    """200 patches of photographs, ``[200 192]``."""
    images = load_images(build_source("photos"), 8, limit=200)
    return centered_rows(to_float(images.rows(torch.arange(200))))


@pytest.fixture(scope="module")
def dictionary(rows: Tensor) -> Tensor:
    """64 of the patches as atoms, ``[192 64]``."""
    return random_rows(rows, 64, seed=0).T.contiguous()


@pytest.fixture(scope="module")
def points(rows: Tensor, dictionary: Tensor) -> list[Point]:
    return sparsity_curves(rows, dictionary)


def along(points: list[Point], method: str) -> list[Point]:
    return [point for point in points if point.method == method]


def test_each_row_is_centered_by_its_own_mean(rows: Tensor) -> None:
    assert rows.shape == (200, 192)
    torch.testing.assert_close(rows.mean(1), torch.zeros(200), atol=1e-6, rtol=0)


def test_every_penalty_gives_a_point(points: list[Point]) -> None:
    assert [len(along(points, method)) for method in COLORS] == [len(L1), len(L0), len(BUDGETS)]
    for point in points:
        assert 0 <= point.error <= 1 + 1e-6
        assert 0 <= point.nonzeros <= 64
        assert point.bytes == NONZERO_BYTES * point.nonzeros
    assert [point.setting for point in along(points, "L1, FISTA")] == [f"λ {value:g}" for value in L1]


def test_more_atoms_give_less_error(points: list[Point]) -> None:
    for k, (fewer, more) in zip(BUDGETS, pairwise(along(points, "L0, matching pursuit")), strict=False):
        assert fewer.nonzeros <= k
        assert fewer.nonzeros < more.nonzeros
        assert fewer.error > more.error


@pytest.mark.parametrize("method", ["L1, FISTA", "L0, hard thresholding"])
def test_a_stronger_penalty_leaves_fewer_non_zeros_and_more_error(method: str, points: list[Point]) -> None:
    for weaker, stronger in pairwise(along(points, method)):
        assert stronger.nonzeros < weaker.nonzeros or weaker.nonzeros == 0
        assert stronger.error > weaker.error or weaker.error == pytest.approx(1)


def test_no_code_of_matching_pursuit_exceeds_its_budget(rows: Tensor, dictionary: Tensor) -> None:
    for k in BUDGETS:
        assert int((omp(rows, dictionary, k) != 0).sum(1).max()) <= k


def test_a_budget_beyond_the_dictionary_is_skipped(
    rows: Tensor, dictionary: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "L1", ())
    monkeypatch.setattr(curves, "L0", ())
    points = sparsity_curves(rows[:20], dictionary[:, :10].contiguous())
    assert [point.setting for point in along(points, "L0, matching pursuit")] == ["k 1", "k 2", "k 4", "k 8"]


def test_the_picture_opens_at_its_size(points: list[Point], tmp_path: Path) -> None:
    path = save_curves(tmp_path / "deep" / "sparsity.png", points, "What sparsity costs")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.size == (1080, 690)
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20) or []}
    for color in COLORS.values():
        assert tuple(bytes.fromhex(color[1:])) in colors
    assert [file.name for file in path.parent.iterdir()] == ["sparsity.png"]

"""Discriminant analysis from sums over cells, against scikit-learn's over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from finetune.dense.fitting import Moments, discriminant

CPU = torch.device("cpu")


def cells_of(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Cells ``[n 3]`` far from zero, and their pixels of three classes ``[n 3]``: mixed, some without any."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 3, (n, 3), generator=generator)
    counts[::7] = 0
    cells = torch.randn(n, 3, generator=generator) * torch.tensor([1.0, 20.0, 0.1]) + torch.tensor([50.0, -3.0, 0.2])
    return cells + counts * torch.tensor([0.5, -3.0, 0.02]), counts


def moments_of(cells: Tensor, counts: Tensor, center: Tensor) -> Moments:
    found = Moments.none(cells.shape[1], counts.shape[1], CPU)
    for some in (slice(0, 50), slice(50, None)):
        found.add_(cells[some], counts[some], center)
    return found


def as_maps(cells: Tensor) -> Tensor:
    """Cells ``[n D]`` as maps of one cell each."""
    return cells[:, :, None, None]


@pytest.mark.parametrize("center", [(0.0, 0.0, 0.0), (50.0, -3.0, 0.2)])
def test_a_cell_with_its_counts_stands_for_its_pixels(center: tuple[float, ...]) -> None:
    cells, counts = cells_of(200)
    rows = cells.double().repeat_interleave(counts.sum(1), 0).numpy()
    classes = torch.cat([torch.arange(3).repeat_interleave(one) for one in counts]).numpy()
    reference = LinearDiscriminantAnalysis(solver="lsqr").fit(rows, classes)
    fit = discriminant(moments_of(cells, counts, torch.tensor(center)), torch.tensor(center), [1e-9, 1.0])
    found = fit.scores(as_maps(cells))[0, :, :, 0, 0] + fit.shares(1.0)
    expected = reference.decision_function(cells.double().numpy())
    np.testing.assert_allclose(
        found - found.mean(1, keepdim=True), expected - expected.mean(1, keepdims=True), atol=2e-3
    )


def test_strength_shrinks_standardized_features() -> None:
    cells, counts = cells_of(300)
    center = cells.mean(0)
    rows = cells.double().repeat_interleave(counts.sum(1), 0)
    classes = torch.cat([torch.arange(3).repeat_interleave(one) for one in counts])
    x = (rows - rows.mean(0)) / rows.std(0, correction=0)
    means = torch.stack([x[classes == number].mean(0) for number in range(3)], 1)  # [D C]
    inner = x - means.T[classes]
    weight = torch.linalg.solve(inner.T @ inner / len(x) + 0.3 * torch.eye(3), means)
    bias = -0.5 * (means * weight).sum(0)
    fit = discriminant(moments_of(cells, counts, center), center, [0.3])
    test = (cells.double() - rows.mean(0)) / rows.std(0, correction=0)
    np.testing.assert_allclose(fit.scores(as_maps(cells))[0, :, :, 0, 0], test @ weight + bias, atol=1e-3)


def test_parts_can_be_taken_out_again() -> None:
    cells, counts = cells_of(200)
    center = cells.mean(0)
    whole, part = moments_of(cells, counts, center), moments_of(cells[:80], counts[:80], center)
    rest = moments_of(cells[80:], counts[80:], center)
    left = discriminant(whole - part, center, [0.1])
    direct = discriminant(rest, center, [0.1])
    np.testing.assert_allclose(left.weight, direct.weight, rtol=1e-4)
    both = discriminant(part + rest, center, [0.1])
    np.testing.assert_allclose(both.weight, discriminant(whole, center, [0.1]).weight, rtol=1e-4)


def test_a_class_without_pixels_is_never_the_answer_and_a_constant_feature_says_nothing() -> None:
    cells, counts = cells_of(200)
    counts[:, 1] = 0
    cells[:, 2] = 0.2
    fit = discriminant(moments_of(cells, counts, cells.mean(0)), cells.mean(0), [1e-3])
    strange = cells.clone()
    strange[:, 2] = 1e6
    for prior in (0.0, 1.0):
        said = [(fit.scores(as_maps(one))[0, :, :, 0, 0] + fit.shares(prior)).argmax(1) for one in (cells, strange)]
        assert set(said[0].tolist()) == {0, 2}
        assert torch.equal(*said)


def test_the_share_of_a_class_counts_by_the_prior() -> None:
    cells, counts = cells_of(200)
    fit = discriminant(moments_of(cells, counts, cells.mean(0)), cells.mean(0), [1e-3])
    share = counts.sum(0) / counts.sum()
    np.testing.assert_allclose(fit.shares(0.5), 0.5 * share.log(), rtol=1e-5)
    assert fit.shares(0.0).tolist() == [0, 0, 0]


@pytest.mark.parametrize("prior", [0.0, 0.5, 1.0])
def test_one_map_of_features_gives_the_same_scores_with_the_shares_in_it(prior: float) -> None:
    cells, counts = cells_of(200)
    counts[:, 2] = 0  # a class without pixels is never the answer, and its score is a number
    center = cells.mean(0)
    fit = discriminant(moments_of(cells, counts, center), center, [0.1])
    weight, bias = fit.folded(prior)
    expected = fit.scores(as_maps(cells))[0, :, :, 0, 0] + fit.shares(prior)
    found = cells @ weight + bias
    torch.testing.assert_close(found[:, :2], expected[:, :2], rtol=1e-4, atol=1e-3)
    assert (found.argmax(1) < 2).all()
    assert found.softmax(1)[:, 2].max() < 1e-12
    assert found[:, 2].abs().max() < found[:, :2].abs().max() + 31  # it does not hide differences of the others

"""Preconditioners against plain linear algebra, and the span against the features themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from finetune.solvers.gram import column_mean
from finetune.solvers.preconditioner import Preconditioner, Span, few_rows

CURVATURE, L2 = torch.tensor([[0.1], [0.4]]).double(), torch.tensor([1e-3, 1e-1]).double()


def decaying(n: int, F: int) -> Tensor:
    """Features with eigenvalues that decay as 1/k² and a mean away from zero; float64."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(F, F, generator=generator).double()).Q
    return torch.randn(n, F, generator=generator).double() / torch.arange(1, F + 1) @ turn + 2


def direct(features: Tensor, gradient: Tensor) -> Tensor:
    """``(s A + λ I)⁻¹`` times a gradient ``[g C F]``."""
    A = torch.cov(features.T, correction=0)
    eye = torch.eye(len(A), dtype=A.dtype)
    solved = [torch.linalg.solve(s * A + l2 * eye, g.T).T for s, l2, g in zip(CURVATURE, L2, gradient, strict=True)]
    return torch.stack(solved)


def test_a_full_preconditioner_is_the_inverse() -> None:
    features, gradient = decaying(90, 12), torch.randn(2, 3, 12).double()
    torch.testing.assert_close(Preconditioner.of(features).apply(gradient, CURVATURE, L2), direct(features, gradient))


def test_principal_directions_are_nearly_the_inverse_where_features_are_correlated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("finetune.solvers.preconditioner.LARGEST_WHOLE", 30)
    monkeypatch.setattr("finetune.solvers.preconditioner.PRINCIPAL", 20)
    features = decaying(300, 60)
    preconditioner = Preconditioner.of(features)
    assert preconditioner.vectors is not None
    assert preconditioner.vectors.shape == (60, 20)
    torch.testing.assert_close(preconditioner.vectors.T @ preconditioner.vectors, torch.eye(20).double())
    spectrum = torch.linalg.eigvalsh(torch.cov(features.T, correction=0)).flip(0)
    torch.testing.assert_close(preconditioner.values.flip(0)[:10], spectrum[:10], rtol=0.01, atol=0)
    assert preconditioner.rest == pytest.approx(float(spectrum.sum() - preconditioner.values.sum()) / 40, rel=1e-6)
    gradient = torch.randn(2, 3, 60, generator=torch.Generator().manual_seed(1)).double()
    expected = direct(features, gradient)
    error = (preconditioner.apply(gradient, CURVATURE, L2) - expected).norm() / expected.norm()
    assert float(error) < 0.1  # without the principal directions it would be near 1


def test_a_preconditioner_draws_no_global_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.solvers.preconditioner.LARGEST_WHOLE", 5)
    before = torch.get_rng_state()
    first, second = Preconditioner.of(decaying(50, 10)), Preconditioner.of(decaying(50, 10))
    assert torch.equal(first.values, second.values)
    assert torch.equal(torch.get_rng_state(), before)


def test_few_rows_are_fewer_than_features_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert few_rows(torch.empty(5, 6))
    assert not few_rows(torch.empty(6, 6))
    monkeypatch.setattr("finetune.solvers.preconditioner.LARGEST_WHOLE", 4)
    assert not few_rows(torch.empty(5, 6))


def test_the_span_keeps_distances_logits_and_norms() -> None:
    features = decaying(20, 50)
    mean = column_mean(features)
    span = Span(features, mean)
    Z = span.coordinates
    assert Z.shape == (20, 19)  # the mean takes one dimension
    torch.testing.assert_close(torch.cdist(Z, Z), torch.cdist(features, features))
    torch.testing.assert_close(Z.mean(0), torch.zeros(19).double())
    torch.testing.assert_close(Z.T @ Z / 20, span.preconditioner.values.diag())
    w = torch.randn(2, 19, 3).double()
    weight = span.weight_of(w)
    torch.testing.assert_close((features - mean) @ weight, Z @ w)
    torch.testing.assert_close(weight.norm(dim=(1, 2)), w.norm(dim=(1, 2)))
    torch.testing.assert_close(span.coordinates_of(weight), w)
    # the same in another precision, from what was solved once
    single = span.of(features.float())
    torch.testing.assert_close(single.coordinates, Z.float(), rtol=0, atol=0)
    torch.testing.assert_close(single.weight_of(w.float()).double(), weight, rtol=1e-4, atol=1e-4)


def test_the_spans_preconditioner_is_the_inverse() -> None:
    span = Span(features := decaying(12, 40), column_mean(features))
    gradient = torch.randn(2, 3, 11).double()
    torch.testing.assert_close(span.preconditioner.apply(gradient, CURVATURE, L2), direct(span.coordinates, gradient))


def rare(n: int, F: int) -> Tensor:
    """Standardized features; the last is non-zero in three neighboring rows, and a stride skips most of them."""
    features = torch.randn(n, F, generator=torch.Generator().manual_seed(5)).double()
    features[:, -1] = 0
    features[101:104, -1] = torch.tensor([1.0, 2.0, 3.0]).double()
    return (features - features.mean(0)) / features.std(0, correction=0)


def eigenvalue_along(preconditioner: Preconditioner, direction: Tensor) -> float:
    assert preconditioner.vectors is not None
    return float((direction @ preconditioner.vectors).square() @ preconditioner.values)


def test_a_sample_keeps_the_curvature_of_rare_features() -> None:
    features = rare(4000, 6)
    preconditioner = Preconditioner.of(features)  # from 48 rows
    axis = torch.eye(6).double()
    for one in axis:  # the truth is 1 for each; outlying rows count for less
        assert 0.05 < eigenvalue_along(preconditioner, one) < 3
    lacking = features.clone()
    lacking[:, -1] = 0
    assert eigenvalue_along(Preconditioner.of(lacking), axis[-1]) == pytest.approx(0, abs=1e-9)


def test_one_outlying_row_does_not_hide_the_others() -> None:
    features = rare(2000, 5)[:, :4].contiguous()
    usual = Preconditioner.of(features)
    features[7] = torch.tensor([1.0, 1.0, 1.0, 1.0]).double() * 1e5
    direction = torch.full((4,), 0.5).double()
    whole = float((features @ direction).var(correction=0))
    counted = eigenvalue_along(Preconditioner.of(features), direction)
    assert counted < 0.02 * whole  # at most 16 of 2,000 average rows
    assert usual.values.min() > 0.5


def test_a_preconditioner_covers_rows_like_its_own_but_not_features_that_it_lacked() -> None:
    features = rare(1200, 6)
    assert Preconditioner.of(features).covers(features)
    assert Preconditioner.of(features[:, :5]).covers(features[::2, :5])
    lacking = features.clone()
    lacking[:, -1] = 0
    assert not Preconditioner.of(lacking).covers(features)


def test_a_sample_has_about_the_size_asked_for_and_is_drawn_without_random_numbers() -> None:
    features = decaying(5000, 4)
    before = torch.get_rng_state()
    first, second = Preconditioner.of(features), Preconditioner.of(features)
    assert torch.equal(first.values, second.values)
    assert torch.equal(torch.get_rng_state(), before)
    exact = torch.linalg.eigvalsh(torch.cov(features.T, correction=0))
    more = Preconditioner.of(features, effort=40)
    torch.testing.assert_close(first.values[-1], exact[-1], rtol=0.5, atol=0)
    torch.testing.assert_close(more.values, exact, rtol=0.1, atol=0)

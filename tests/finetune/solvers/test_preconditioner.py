"""Preconditioners against plain linear algebra, and the span against the features themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from finetune.solvers.gram import column_mean
from finetune.solvers.preconditioner import Preconditioner, Span, few_rows

CURVATURE, L2 = torch.tensor([0.1, 0.4]).double(), torch.tensor([1e-3, 1e-1]).double()


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
    torch.testing.assert_close(span.coordinates_of(weight[0]), w[0])


def test_the_spans_preconditioner_is_the_inverse() -> None:
    span = Span(features := decaying(12, 40), column_mean(features))
    gradient = torch.randn(2, 3, 11).double()
    torch.testing.assert_close(span.preconditioner.apply(gradient, CURVATURE, L2), direct(span.coordinates, gradient))

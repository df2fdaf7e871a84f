"""CCA against a generalized eigenproblem in float64 and against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cross_decomposition import CCA
from torch import Tensor

from pretrain.linear.cca import cca
from pretrain.linear.moments import CrossMoments
from pretrain.linear.projection import Projection


def views(n: int = 300, d1: int = 6, d2: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two views ``[n d1]``, ``[n d2]`` that share two latent variables, each with its own noise."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shared = draw(n, 2)
    x = shared @ draw(2, d1) + draw(n, d1) @ draw(d1, d1) + 4
    y = shared @ draw(2, d2) + 0.5 * draw(n, d2) - 7
    return x, y


def moments_of(x: Tensor, y: Tensor) -> CrossMoments:
    moments = CrossMoments(x.shape[1], y.shape[1])
    moments.add(x, y)
    return moments


def correlations_of(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of column k of one with column k of the other."""
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0))


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 1.0])
def test_equals_the_generalized_eigenproblem(ridge: float) -> None:
    x, y = views()
    to_x, to_y, correlations = cca(moments_of(x, y), 3, ridge=ridge)
    cxx, cyy = np.cov(x.numpy().T), np.cov(y.numpy().T)
    cxy = np.cov(x.numpy().T, y.numpy().T)[:6, 6:]
    cxx += ridge * np.trace(cxx) / 6 * np.eye(6)
    cyy += ridge * np.trace(cyy) / 4 * np.eye(4)
    # [0 Cxy; Cyx 0] (a, b) = ρ [Cxx 0; 0 Cyy] (a, b)
    left = np.block([[np.zeros((6, 6)), cxy], [cxy.T, np.zeros((4, 4))]])
    values, vectors = scipy.linalg.eigh(left, scipy.linalg.block_diag(cxx, cyy))
    torch.testing.assert_close(correlations, torch.from_numpy(values[::-1][:3].copy()), rtol=1e-9, atol=1e-11)
    pairs = torch.from_numpy(vectors[:, ::-1][:, :3].T.copy()) * 2**0.5  # their halves share a norm of 1
    fitted = torch.cat([to_x.weight, to_y.weight], dim=1)
    torch.testing.assert_close(fitted, pairs * (fitted * pairs).sum(1, keepdim=True).sign(), rtol=1e-7, atol=1e-9)


def test_equals_sklearns() -> None:
    x, y = views()
    to_x, to_y, correlations = cca(moments_of(x, y), 4, ridge=0)
    reference = CCA(4, scale=False, max_iter=10_000, tol=1e-14).fit(x.numpy(), y.numpy())
    theirs_x, theirs_y = (torch.from_numpy(codes) for codes in reference.transform(x.numpy(), y.numpy()))
    torch.testing.assert_close(correlations_of(theirs_x, theirs_y), correlations, rtol=1e-6, atol=1e-6)
    for ours, theirs in ((to_x.encode(x), theirs_x), (to_y.encode(y), theirs_y)):
        same = correlations_of(ours, theirs).abs()
        torch.testing.assert_close(same, torch.ones_like(same), rtol=0, atol=1e-5)


def test_codes_have_the_correlations_returned() -> None:
    x, y = views()
    to_x, to_y, correlations = cca(moments_of(x, y), 4, ridge=0)
    a, b = to_x.encode(x), to_y.encode(y)
    torch.testing.assert_close(correlations_of(a, b), correlations)
    torch.testing.assert_close(torch.cov(a.T), torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.cov(b.T), torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-9)
    assert (correlations.diff() <= 0).all()


@given(seed=st.integers(0, 999), ridge=st.floats(1e-6, 10.0))
@settings(max_examples=25, deadline=None)
def test_a_ridge_only_lowers_correlations_and_ignores_scale(seed: int, ridge: float) -> None:
    x, y = views(40, 5, 3, seed)
    plain, strong = cca(moments_of(x, y), 3, ridge=0)[2], cca(moments_of(x, y), 3, ridge=ridge)
    assert (strong[2] <= plain + 1e-12).all()
    assert (strong[2] <= correlations_of(strong[0].encode(x), strong[1].encode(y)) + 1e-12).all()
    torch.testing.assert_close(cca(moments_of(1e3 * x, 1e-3 * y), 3, ridge=ridge)[2], strong[2])


def test_decoding_is_least_squares() -> None:
    x, y = views()
    to_x, to_y, _ = cca(moments_of(x, y), 2, ridge=0.1)
    for projection, rows in ((to_x, x), (to_y, y)):
        codes = projection.encode(rows)
        best = torch.linalg.lstsq(codes, rows - rows.mean(0)).solution.T
        torch.testing.assert_close(projection.back, best, rtol=1e-9, atol=1e-9)
        for k in range(2):
            one = torch.linalg.lstsq(codes[:, k : k + 1], rows - rows.mean(0))
            lost = (codes[:, k : k + 1] @ one.solution - (rows - rows.mean(0))).square().sum()
            share = 1 - lost / (rows - rows.mean(0)).square().sum()
            torch.testing.assert_close(projection.explained[k], share)


def test_a_ridge_allows_views_that_vary_in_few_directions() -> None:
    x, y = views()
    x = torch.cat([x, x[:, :2], torch.ones(300, 1)], dim=1)
    with pytest.raises(ValueError, match="the covariance of the first view is singular"):
        cca(moments_of(x, y), 2, ridge=0)
    few, other = views(5, 8, 6)
    fits: list[tuple[Projection, Projection, Tensor]] = [
        cca(moments_of(x, y), 4),
        cca(moments_of(few, other), 4),
    ]
    for to_x, to_y, correlations in fits:
        for tensor in (to_x.weight, to_x.back, to_x.explained, to_y.weight, to_y.back, correlations):
            assert torch.isfinite(tensor).all()
    assert (fits[1][2] > 0.9).all()  # more columns than pairs: noise correlates, and only a larger ridge lowers it
    assert cca(moments_of(few, other), 4, ridge=100.0)[2].max() < 0.2


def test_signs_are_fixed_per_pair() -> None:
    x, y = views()
    to_x, to_y, _ = cca(moments_of(x, y), 3)
    assert (to_x.weight.gather(1, to_x.weight.abs().argmax(1, keepdim=True)) > 0).all()
    assert (correlations_of(to_x.encode(x), to_y.encode(y)) > 0).all()


def test_mistakes_are_refused() -> None:
    x, y = views()
    for components in (0, 5):
        with pytest.raises(ValueError, match=f"components is {components}; 300 pairs of 6 and 4 columns allow 1 to 4"):
            cca(moments_of(x, y), components)
    with pytest.raises(ValueError, match="ridge must be at least 0, got -1"):
        cca(moments_of(x, y), 2, ridge=-1)
    with pytest.raises(ValueError, match="the second view does not vary"):
        cca(moments_of(x, torch.ones_like(y)), 2)

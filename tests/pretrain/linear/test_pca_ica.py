"""PCA and ICA against scikit-learn's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA, FastICA
from torch import Tensor

from pretrain.linear.ica import ica
from pretrain.linear.moments import Moments
from pretrain.linear.pca import pca, whitened_codes
from pretrain.linear.projection import Projection


def moments_of(rows: Tensor) -> Moments:
    moments = Moments(rows.shape[1])
    moments.add(rows)
    return moments


def sample(n: int, d: int, seed: int = 0) -> Tensor:
    """Rows ``[n d]``, correlated, with a mean that is not zero."""
    generator = torch.Generator().manual_seed(seed)
    draw: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    return torch.randn(n, d, **draw) @ torch.randn(d, d, **draw) + 3 * torch.randn(d, **draw)


def mixture(n: int = 4000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three independent sources ``[n 3]`` of variance 1, and seven mixtures of them ``[n 7]``."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(n, 3, generator=generator, dtype=torch.float64) - 0.5
    laplace = -u[:, 0].sign() * (1 - 2 * u[:, 0].abs()).log()
    sources = torch.stack([laplace, u[:, 1], u[:, 2].sign() * u[:, 2].square()], dim=1)
    sources = (sources - sources.mean(0)) / sources.std(0, correction=0)
    return sources, sources @ torch.randn(3, 7, generator=generator, dtype=torch.float64) + 2


def aligned(codes: Tensor, reference: Tensor) -> Tensor:
    """``codes`` ``[n h]`` with columns in the order and sign of ``reference`` by correlation."""
    h = codes.shape[1]
    correlation = torch.corrcoef(torch.cat([reference, codes], dim=1).T)[:h, h:]
    order = correlation.abs().argmax(1)
    assert sorted(order.tolist()) == list(range(h))
    return codes[:, order] * correlation[torch.arange(h), order].sign()


def test_the_axes_of_a_hand_computed_case() -> None:
    rows = torch.tensor([[3.0, 1.0], [-3.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
    fitted = pca(moments_of(rows), 2)
    torch.testing.assert_close(fitted.weight, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(fitted.explained, torch.tensor([0.9, 0.1], dtype=torch.float64))
    torch.testing.assert_close(fitted.mean, torch.tensor([0.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize(("n", "d"), [(40, 6), (12, 30)], ids=["tall", "wide"])
def test_codes_of_few_rows_are_those_of_scikit_learn(n: int, d: int) -> None:
    rows = sample(n, d)
    reference = torch.from_numpy(PCA(5, whiten=True, svd_solver="full").fit_transform(rows.numpy()))
    codes = whitened_codes(rows, 5)
    torch.testing.assert_close(codes * (codes * reference).sum(0).sign(), reference, rtol=1e-6, atol=1e-7)


def test_few_rows_have_no_more_codes_than_directions_in_which_they_vary() -> None:
    flat = sample(20, 3) @ torch.randn(3, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert whitened_codes(flat, 9).shape == (20, 3)
    with pytest.raises(ValueError, match="all 4 rows are the same"):
        whitened_codes(torch.ones(4, 7), 2)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize(("n", "d"), [(200, 10), (12, 30)], ids=["tall", "wide"])
def test_pca_equals_sklearns(n: int, d: int, whiten: bool) -> None:
    rows = sample(n, d)
    fitted = pca(moments_of(rows), 6, whiten=whiten)
    reference = PCA(6, whiten=whiten, svd_solver="full").fit(rows.numpy())
    codes = torch.from_numpy(reference.transform(rows.numpy()))
    sign = (codes * fitted.encode(rows)).sum(0).sign()
    torch.testing.assert_close(fitted.encode(rows), codes * sign, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        fitted.decode(codes * sign), torch.from_numpy(reference.inverse_transform(codes.numpy()))
    )
    torch.testing.assert_close(fitted.explained, torch.from_numpy(reference.explained_variance_ratio_))


@given(seed=st.integers(0, 999), components=st.integers(1, 5), whiten=st.booleans())
@settings(max_examples=25, deadline=None)
def test_pca_codes_are_uncorrelated_and_decode_to_the_rows(seed: int, components: int, whiten: bool) -> None:
    rows = sample(40, 5, seed)
    fitted = pca(moments_of(rows), components, whiten=whiten)
    covariance = torch.cov(fitted.encode(rows).T).reshape(components, components)
    torch.testing.assert_close(covariance, covariance.diagonal().diag(), rtol=0, atol=1e-8)
    if whiten:
        torch.testing.assert_close(covariance, torch.eye(components, dtype=torch.float64))
    lost = (fitted.decode(fitted.encode(rows)) - rows).square().sum() / (rows - rows.mean(0)).square().sum()
    torch.testing.assert_close(lost, 1 - fitted.explained.sum(), rtol=0, atol=1e-10)
    largest = fitted.weight.gather(1, fitted.weight.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


def test_no_rows_give_no_codes() -> None:
    assert pca(moments_of(sample(20, 4)), 2).encode(torch.zeros(0, 4)).shape == (0, 2)


def test_pca_refuses_what_the_rows_cannot_give() -> None:
    moments = moments_of(sample(5, 8))
    for components in (0, 5):
        with pytest.raises(ValueError, match=f"components is {components}; 5 rows of 8 columns allow 1 to 4"):
            pca(moments, components)
    with pytest.raises(ValueError, match="allow no component at all"):
        pca(Moments(3), 1)
    with pytest.raises(ValueError, match="all 6 rows are the same"):
        pca(moments_of(torch.ones(6, 2)), 1)
    flat = sample(50, 2) @ torch.ones(2, 4, dtype=torch.float64)
    assert pca(moments_of(flat), 3).explained[1:].max() < 1e-12
    with pytest.raises(ValueError, match="vary in only 1 directions: cannot whiten"):
        pca(moments_of(flat), 3, whiten=True)


def test_ica_unmixes_independent_sources() -> None:
    sources, rows = mixture()
    fitted = ica(rows, 3, seed=0)
    found = aligned(fitted.encode(rows), sources)
    assert (found - sources).square().mean(0).sqrt().max() < 0.06  # of 1: the error left by 4000 rows
    torch.testing.assert_close(found.std(0, correction=0), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(fitted.decode(fitted.encode(rows)), rows, rtol=0, atol=1e-9)  # all variance is in three
    torch.testing.assert_close(fitted.explained.sum(), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize("components", [2, 3])
def test_ica_equals_sklearns(components: int) -> None:
    rows = mixture()[1]
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = rows + 0.01 * noise
    fitted = ica(rows, components, seed=0, tolerance=1e-12, max_steps=1000)
    reference = FastICA(
        components, whiten="unit-variance", random_state=0, tol=1e-12, max_iter=1000, whiten_solver="svd"
    ).fit(rows.numpy())
    codes = torch.from_numpy(reference.transform(rows.numpy()))
    torch.testing.assert_close(aligned(fitted.encode(rows), codes), codes, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        fitted.decode(fitted.encode(rows)), torch.from_numpy(reference.inverse_transform(codes.numpy()))
    )


def test_each_share_is_what_a_component_explains_alone() -> None:
    rows = sample(300, 6)
    for fitted in (pca(moments_of(rows), 4, whiten=True), ica(rows, 4, seed=0, max_steps=5)):
        centered = rows - rows.mean(0)
        for k in range(4):
            alone = centered - fitted.encode(rows)[:, k : k + 1] @ fitted.back[:, k : k + 1].T
            share = 1 - alone.square().sum() / centered.square().sum()
            torch.testing.assert_close(fitted.explained[k], share)


def test_ica_is_the_same_for_the_same_seed() -> None:
    rows = mixture(500)[1]

    def tensors(fitted: Projection) -> list[Tensor]:
        return [fitted.mean, fitted.weight, fitted.back, fitted.explained]

    once, again, other = (tensors(ica(rows, 3, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not torch.equal(once[1], other[1])


def test_ica_takes_rows_whose_first_column_is_constant() -> None:
    sources, rows = mixture()
    rows[:, 0] = 0.0
    found = aligned(ica(rows, 3, seed=0).encode(rows), sources)
    assert (found - sources).square().mean(0).sqrt().max() < 0.06


def test_ica_says_if_it_did_not_converge() -> None:
    assert not ica(mixture()[1], 3, seed=0).shortfall
    assert "stopped after 1 steps" in ica(mixture()[1], 3, seed=0, max_steps=1, tolerance=1e-12).shortfall


def test_ica_refuses_what_the_rows_cannot_give() -> None:
    rows = mixture(100)[1]
    with pytest.raises(ValueError, match="components is 8; 100 rows of 7 columns allow 1 to 7"):
        ica(rows, 8, seed=0)
    with pytest.raises(ValueError, match="vary in only 3 directions"):
        ica(rows, 4, seed=0)
    with pytest.raises(ValueError, match="not finite"):
        ica(rows / 0, 2, seed=0)
    with pytest.raises(ValueError, match="must be positive"):
        ica(rows, 2, seed=0, max_steps=0)

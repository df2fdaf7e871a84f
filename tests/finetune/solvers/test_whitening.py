"""Whitening against scikit-learn's PCA, in each of the ways in which it is computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from finetune.solvers import whitening as module
from finetune.solvers.whitening import Whitening


def correlated(n: int, F: int) -> torch.Tensor:
    """Features whose directions have standard deviations from 1 down to 0.01."""
    generator = torch.Generator().manual_seed(n)
    scales = torch.logspace(0, -2, F)
    turn = torch.linalg.qr(torch.randn(F, F, generator=generator)).Q
    return (torch.randn(n, F, generator=generator) * scales) @ turn + torch.randn(F, generator=generator)


@pytest.mark.parametrize(("n", "F", "whole"), [(300, 12, 4096), (40, 90, 4096), (400, 60, 30)])
def test_it_is_whitened_pca_up_to_signs(n: int, F: int, whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_WHOLE", whole)  # the last case takes subspace iteration
    features, new = correlated(n + 20, F).split([n, 20])
    found = Whitening.of(features, 5)
    reference = PCA(5, whiten=True, svd_solver="full").fit(features.double().numpy())
    expected = reference.transform(new.double().numpy()) * np.sqrt(n / (n - 1))  # it divides by n - 1
    ours = found.apply(new).double().numpy()
    signs = np.sign((ours * expected).sum(0))
    np.testing.assert_allclose(ours * signs, expected, atol=1e-3)
    torch.testing.assert_close(found.first(2).apply(new), found.apply(new)[:, :2])


def test_no_more_components_than_directions_that_vary() -> None:
    generator = torch.Generator().manual_seed(0)
    three = torch.randn(50, 3, generator=generator) @ torch.randn(3, 10, generator=generator)
    white = Whitening.of(three, 8).apply(three)
    assert white.shape == (50, 3)
    torch.testing.assert_close(white.T @ white / 50, torch.eye(3), atol=1e-3, rtol=0)
    few = Whitening.of(three[:3], 8).apply(three)  # three rows have two directions around their mean
    assert few.shape == (50, 2)
    assert bool(few.isfinite().all())


def test_constant_features_have_no_component() -> None:
    assert Whitening.of(torch.ones(9, 4), 4).apply(torch.ones(2, 4)).shape == (2, 0)

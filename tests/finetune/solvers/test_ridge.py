"""Closed-form ridge against scikit-learn, with more rows than features and with fewer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.linear_model import Ridge

from finetune.solvers.ridge import fit_ridge

L2 = (1e-6, 1e-3, 1e-1, 10.0)


@pytest.mark.parametrize(("n", "F"), [(200, 12), (30, 80)], ids=["tall", "wide"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_strength_equals_sklearns(n: int, F: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(n, F, generator=generator, dtype=torch.float64) + 0.5
    labels = torch.randint(0, 3, (n,), generator=generator)
    one_hot = torch.nn.functional.one_hot(labels, 3).double()
    fit = fit_ridge(features.to(dtype), labels, 3, L2)
    close: dict[str, Any] = {"rtol": 1e-7, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 2e-4}
    for index, l2 in enumerate(L2):
        reference = Ridge(alpha=n * l2, solver="svd").fit(features.numpy(), one_hot.numpy())
        weight, bias = torch.from_numpy(reference.coef_.T.copy()), torch.from_numpy(reference.intercept_.copy())
        torch.testing.assert_close(fit.weight[index].double(), weight, **close)
        torch.testing.assert_close(fit.bias[index].double(), bias, **close)
        error = (features @ weight + bias - one_hot).square().sum() / n + l2 * weight.square().sum()
        torch.testing.assert_close(
            fit.objective[index], error, rtol=1e-3 if dtype == torch.float32 else 1e-8, atol=1e-6
        )


@pytest.mark.parametrize(("n", "F"), [(500, 60), (60, 200)], ids=["tall", "wide"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_strengths_one_by_one_equal_all_at_once(
    n: int, F: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(n, F, generator=generator) @ torch.diag(torch.logspace(0, -3, F))
    labels = torch.randint(0, 4, (n,), generator=generator)
    together = fit_ridge(features.to(dtype), labels, 4, L2)
    monkeypatch.setattr("finetune.solvers.ridge.WIDE", 1)
    monkeypatch.setattr("finetune.solvers.ridge.MANY_ROWS", 1)
    monkeypatch.setattr("finetune.solvers.gram.COLUMNS", 17)
    one_by_one = fit_ridge(features.to(dtype), labels, 4, L2)
    close: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(one_by_one.weight, together.weight, **close)
    torch.testing.assert_close(one_by_one.objective, together.objective, **close)


@pytest.mark.parametrize("l2", [1e-6, 1e-8])
def test_one_by_one_is_accurate_below_float32_rounding(l2: float, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(1500, 40, generator=generator) @ torch.randn(40, 200, generator=generator)  # of rank 40
    labels = torch.randint(0, 5, (1500,), generator=generator)
    reference = fit_ridge(features.double(), labels, 5, [l2]).objective
    monkeypatch.setattr("finetune.solvers.ridge.WIDE", 100)
    torch.testing.assert_close(fit_ridge(features, labels, 5, [l2]).objective, reference, rtol=1e-3, atol=0)


def test_large_means_do_not_degrade_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20_000, 8, generator=generator)
    labels = (features[:, 0] + 0.1 * torch.randn(20_000, generator=generator) > 0).long()
    plain = fit_ridge(features, labels, 2, [1e-4])
    moved = fit_ridge(features + 100, labels, 2, [1e-4])
    torch.testing.assert_close(moved.weight, plain.weight, rtol=1e-3, atol=1e-4)


def test_two_copies_of_a_feature_share_its_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(100, 1, generator=generator, dtype=torch.float64)
    labels = (features[:, 0] > 0).long()
    fit = fit_ridge(features.expand(-1, 2).contiguous(), labels, 2, [1e-3])
    torch.testing.assert_close(fit.weight[0, 0], fit.weight[0, 1])

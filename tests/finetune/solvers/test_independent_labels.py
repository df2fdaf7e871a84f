"""Any number of labels per row: both solvers against scikit-learn's fits of one label after the other."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

from finetune.solvers.logistic import fit_logistic, objective
from finetune.solvers.preconditioner import Preconditioner
from finetune.solvers.ridge import fit_ridge

L2 = (1.0, 1e-2, 1e-4)


def tagged(n: int, F: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Correlated features, and labels from common to rare that follow them with noise: bool ``[n 3]``."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, F, generator=generator).double() @ torch.randn(F, F, generator=generator).double() + 1
    noise = 2 * torch.randn(n, 3, generator=generator).double()
    outputs = (features - 1) @ torch.randn(F, 3, generator=generator).double() / F**0.5 + noise
    least = outputs.quantile(torch.tensor([0.4, 0.7, 0.95]).double(), dim=0).diagonal()
    return features, outputs > least


@pytest.mark.parametrize(("n", "F"), [(300, 8), (60, 100)], ids=["tall", "wide"])
def test_each_label_has_the_logistic_regression_of_scikit_learn(n: int, F: int) -> None:
    features, labels = tagged(n, F)
    fit = fit_logistic(features, labels, 3, L2, tolerance=1e-12)
    assert all(fit.converged)
    for place, l2 in enumerate(L2):
        models = [
            LogisticRegression(C=1 / (n * l2), solver="newton-cg", tol=1e-10, max_iter=2000).fit(features, labels[:, k])
            for k in range(3)
        ]
        weight = torch.stack([torch.from_numpy(model.coef_[0]) for model in models], 1)
        bias = torch.tensor([float(model.intercept_[0]) for model in models]).double()
        reference = objective(features, labels, weight[None], bias[None], [l2])
        assert fit.objective[place] <= reference[0] * (1 + 1e-8)
        torch.testing.assert_close(fit.weight[place], weight, rtol=1e-3, atol=1e-3 * float(weight.abs().max()))
        outputs = features @ fit.weight[place] + fit.bias[place]
        torch.testing.assert_close(fit.outputs(features)[place], outputs)


def test_the_objective_is_the_loss_written_out() -> None:
    features, labels = tagged(50, 4)
    weight, bias = torch.randn(1, 4, 3).double(), torch.randn(1, 3).double()
    p = torch.sigmoid(features @ weight[0] + bias[0])
    expected = -torch.where(labels, p, 1 - p).log().sum() / 50 + 0.1 / 2 * weight.square().sum()
    torch.testing.assert_close(objective(features, labels, weight, bias, [0.1])[0], expected)


def test_rare_and_common_labels_take_few_steps_together() -> None:
    """With one curvature for all, the weakest strength would take 77 steps instead of 44."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1000, 60, generator=generator) @ torch.randn(60, 60, generator=generator)
    features = (features - features.mean(0)) / features.std(0)
    outputs = features @ torch.randn(60, 30, generator=generator) / 60**0.5
    outputs += 2 * torch.randn(1000, 30, generator=generator)
    share = torch.logspace(-0.3, -2.3, 30)  # from half of the rows to one in two hundred
    labels = outputs > torch.stack([outputs[:, k].quantile(1 - share[k]) for k in range(30)])
    fit = fit_logistic(features, labels, 30, (1e-1, 1e-2, 1e-3, 1e-4), preconditioner=Preconditioner.of(features))
    assert all(fit.converged)
    assert max(fit.steps) < 60


def test_a_label_that_no_row_has_does_no_harm() -> None:
    features, labels = tagged(200, 6)
    known = fit_logistic(features, labels, 3, [1e-2], tolerance=1e-10)
    more = torch.cat([labels, torch.zeros(200, 1, dtype=torch.bool)], 1)
    fit = fit_logistic(features, more, 4, [1e-2], tolerance=1e-10)
    torch.testing.assert_close(fit.weight[0, :, :3], known.weight[0], rtol=1e-3, atol=1e-4)
    assert bool((fit.outputs(features)[0, :, 3] < -5).all())


@pytest.mark.parametrize(("n", "F"), [(200, 12), (30, 80)], ids=["tall", "wide"])
def test_ridge_equals_scikit_learn(n: int, F: int) -> None:
    features, labels = tagged(n, F)
    fit = fit_ridge(features, labels, 3, L2)
    for place, l2 in enumerate(L2):
        reference = Ridge(alpha=n * l2, solver="svd").fit(features.numpy(), labels.double().numpy())
        torch.testing.assert_close(fit.weight[place], torch.from_numpy(reference.coef_.T.copy()), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(fit.bias[place], torch.from_numpy(reference.intercept_.copy()), rtol=1e-6, atol=1e-8)
        error = (fit.outputs(features)[place] - labels.double()).square().sum() / n
        torch.testing.assert_close(fit.objective[place], error + l2 * fit.weight[place].square().sum())


@pytest.mark.parametrize("labels", [torch.zeros(5, 2), torch.zeros(4, 3, dtype=torch.bool)])
def test_other_shapes_and_types_are_refused(labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"bool \[n L\]"):
        fit_ridge(torch.randn(5, 3), labels, 3, [1.0])

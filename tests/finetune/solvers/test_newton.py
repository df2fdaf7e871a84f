"""Newton steps know the true curvature: compared with the dense Hessian, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from finetune.solvers.lbfgs import IndependentProblems, Problems
from finetune.solvers.logistic import fit_logistic
from finetune.solvers.newton import end
from finetune.solvers.preconditioner import Preconditioner
from tests.finetune.solvers.problems import problem, sklearn_objective

N, F, C = 30, 4, 3
L2 = 0.01


def made(*, independent: bool, size: float = 1.0) -> tuple[Problems, Tensor]:
    """A problem at random weights, and its objective's point ``[C F+1]``."""
    g = torch.Generator().manual_seed(0)
    features = torch.randn(N, F, generator=g, dtype=torch.float64) + 1
    point = size * torch.randn(C, F + 1, generator=g, dtype=torch.float64)
    kind: type[Problems] = IndependentProblems if independent else Problems
    labels = torch.rand(C, N, generator=g) > 0.5 if independent else torch.randint(C, (N,), generator=g)
    mean, l2 = features.mean(0), torch.tensor([L2], dtype=torch.float64)
    weight, bias = point[None, :, :-1], point[None, :, -1]
    return kind(features, labels, weight, bias, l2, mean, Preconditioner.of(features), history=5), point


def hessian(problems: Problems, point: Tensor) -> Tensor:
    """``[C(F+1) C(F+1)]``, by differentiating twice."""

    def value(flat: Tensor) -> Tensor:
        weight, bias = flat.view(C, F + 1)[:, :-1], flat.view(C, F + 1)[:, -1]
        logits = (problems.features - problems.mean) @ weight.T + bias
        if problems.labels.ndim == 2:
            targets = problems.labels.T.double()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / N
        else:
            loss = torch.nn.functional.cross_entropy(logits, problems.labels)
        return loss + L2 / 2 * weight.square().sum()

    found: Tensor = torch.autograd.functional.hessian(value, point.flatten())
    return found


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("size", [1.0, 8.0])  # 8: most rows are fitted
def test_products_with_the_hessian_are_those_of_the_dense_one(independent: bool, size: float) -> None:
    problems, point = made(independent=independent, size=size)
    here = problems.evaluate(problems.product(point[None]))
    direction = torch.randn(1, C, F + 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = hessian(problems, point) @ direction.flatten()
    assert torch.allclose(
        problems.hessian_product(here, direction, problems.l2).flatten(), expected, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("independent", [False, True])
def test_a_start_far_away_ends_where_the_gradient_is_zero(independent: bool) -> None:
    problems, _ = made(independent=independent)
    end(problems, 1e-14, 500)
    assert problems.converged == [True]
    point = torch.cat([problems.weight, problems.centered_bias[:, :, None]], dim=2)
    _, gradient = problems.penalized(problems.evaluate(problems.product(point)), point, problems.l2)
    assert float(gradient.abs().max()) < 1e-7


def test_a_bias_that_all_classes_share_stays_as_it_is() -> None:
    # no objective depends on it, so rounding alone would move it, without bounds
    features, labels = problem("rare", 40, 30, 3, seed=1)
    features[:, 0] = 3.0
    fit = fit_logistic(features.float(), labels, 3, [1e-5], tolerance=1e-6)
    assert float(fit.bias.sum(1).abs()) < 0.01 * float(fit.bias.abs().max())


def test_what_could_not_be_finished_has_not_converged_and_is_no_worse() -> None:
    problems, point = made(independent=False)
    before, _ = problems.penalized(problems.evaluate(problems.product(point[None])), point[None], problems.l2)
    end(problems, 1e-14, 3)
    assert problems.converged == [False]
    assert problems.steps == [3]
    after = torch.cat([problems.weight, problems.centered_bias[:, :, None]], dim=2)
    value, _ = problems.penalized(problems.evaluate(problems.product(after)), after, problems.l2)
    assert value < before


@pytest.mark.parametrize(("seed", "dtype"), [(35, torch.float32), (8, torch.float32), (8, torch.float64)])
def test_fitted_rows_far_out_do_not_hide_what_is_left(seed: int, dtype: torch.dtype) -> None:
    features, labels = problem("outlying_rows", 40, 30, 3, seed=seed)
    fit = fit_logistic(features.to(dtype), labels, 3, [1e-5], tolerance=1e-6)
    assert fit.converged == (True,)
    assert float(fit.objective[0]) < (1 + 1e-5) * sklearn_objective(features, labels, 3, 1e-5)

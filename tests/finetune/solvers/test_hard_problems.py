"""The solvers on features that break shortcuts: rare, heavy-tailed, collinear, constant, badly scaled, many classes."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import Tensor

from finetune.probes import Linear, Rows, Standardizer
from finetune.probes.linear import CHOOSING, FINAL
from finetune.solvers.logistic import LogisticFit, fit_logistic, objective
from finetune.solvers.preconditioner import Preconditioner
from finetune.solvers.ridge import fit_ridge
from tests.finetune.solvers.problems import FAMILIES, digits, problem, sklearn_model, sklearn_objective

CLOSE = 1e-4  # relative excess over scikit-learn's minimum

families = st.sampled_from(sorted(FAMILIES))
strengths = st.floats(-5, -0.5).map(lambda exponent: 10**exponent)
seeds = st.integers(0, 2**16)
few_examples = settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def excess(fit: LogisticFit, features: Tensor, labels: Tensor, classes: int) -> float:
    """Of the largest objective, relative to scikit-learn's."""
    found = objective(features.double(), labels, fit.weight.double(), fit.bias.double(), fit.l2).tolist()
    minima = [sklearn_objective(features, labels, classes, l2) for l2 in fit.l2]
    return max(mine / theirs for mine, theirs in zip(found, minima, strict=True)) - 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
@few_examples
@given(n=st.integers(30, 500), F=st.integers(2, 40), classes=st.integers(2, 6), l2=strengths, seed=seeds)
def test_every_family_reaches_sklearns_minimum(
    family: str, dtype: torch.dtype, n: int, F: int, classes: int, l2: float, seed: int
) -> None:
    features, labels = problem(family, n, F, classes, seed)
    fit = fit_logistic(features.to(dtype), labels, classes, [l2], tolerance=FINAL if dtype == torch.float32 else 1e-8)
    assert fit.converged == (True,)
    assert excess(fit, features, labels, classes) < CLOSE


@pytest.mark.parametrize("family", FAMILIES)
@settings(few_examples, max_examples=3)
@given(n=st.integers(60, 500), F=st.integers(2, 40), l2=strengths, seed=seeds)
def test_a_refit_that_starts_at_a_coarse_fit_of_fewer_rows_reaches_sklearns_minimum(
    family: str, n: int, F: int, l2: float, seed: int
) -> None:
    features, labels = problem(family, n, F, 4, seed)
    rows = torch.arange(n) % 10 > 0
    coarse = fit_logistic(features[rows].float(), labels[rows], 4, [3 * l2, 10 * l2], tolerance=CHOOSING)
    fit = fit_logistic(features.float(), labels, 4, [l2], start=coarse.near(l2), tolerance=FINAL)
    assert fit.converged == (True,)
    assert excess(fit, features, labels, 4) < CLOSE


def test_the_probe_that_is_tested_is_the_minimum_where_rows_are_far_out() -> None:
    features, labels = problem("outlying_rows", 40, 30, 3, seed=16)  # without confirmation, 1% above the minimum
    rows = Rows(features.float(), labels, 3, partial(Preconditioner.of, features.float()))
    tested = Linear(kind="logistic").fit(rows, [{"l2": 1e-5}], final=True)
    assert isinstance(tested.fit, LogisticFit)
    assert excess(tested.fit, features, labels, 3) < CLOSE


@settings(few_examples, max_examples=2)
@given(family=families, n=st.integers(60, 150), classes=st.integers(50, 60), l2=st.floats(1e-4, 1e-2), seed=seeds)
def test_many_classes_of_which_some_are_absent_reach_sklearns_minimum(
    family: str, n: int, classes: int, l2: float, seed: int
) -> None:
    features, labels = problem(family, n, 5, classes, seed)
    labels[labels % 7 == 3] = 0  # absent
    fit = fit_logistic(features, labels, classes, [l2], tolerance=1e-8)
    assert fit.converged == (True,)
    assert excess(fit, features, labels, classes) < CLOSE
    assert set(fit.predict(features)[0].tolist()) <= set(labels.tolist())


@few_examples
@given(family=families, n=st.integers(80, 300), l2=strengths, seed=seeds, scale=st.sampled_from([1e-3, 1.0, 30.0]))
@pytest.mark.parametrize("max_steps", [1, 3, 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_fit_ends_above_its_start(
    dtype: torch.dtype, max_steps: int, family: str, n: int, l2: float, seed: int, scale: float
) -> None:
    features, labels = problem(family, n, 12, 3, seed)
    features = features.to(dtype)
    generator = torch.Generator().manual_seed(seed)
    weight = scale * torch.randn(12, 3, generator=generator, dtype=torch.float64).to(dtype)
    bias = torch.randn(3, generator=generator, dtype=torch.float64).to(dtype)
    began = objective(features, labels, weight[None], bias[None], [l2])
    useless = Preconditioner(torch.zeros(12, dtype=dtype), torch.eye(12, dtype=dtype))  # steps are up to 1e5 too long
    for preconditioner in (None, useless):
        fit = fit_logistic(
            features,
            labels,
            3,
            [l2],
            start=(weight, bias),
            preconditioner=preconditioner,
            max_steps=max_steps,
            careful_steps=0,
        )
        assert float(fit.objective) <= float(began) * (1 + 1e-6)
        assert torch.equal(fit.objective, objective(features, labels, fit.weight, fit.bias, [l2]))


@few_examples
@given(family=families, n=st.integers(80, 200), l2=strengths, seed=seeds)
def test_a_warm_start_reaches_the_same_minimum(family: str, n: int, l2: float, seed: int) -> None:
    features, labels = problem(family, n, 10, 3, seed)
    start = 5 * torch.randn(10, 3, generator=torch.Generator().manual_seed(seed)).double(), torch.zeros(3).double()
    cold = fit_logistic(features, labels, 3, [l2], tolerance=1e-9)
    warm = fit_logistic(features, labels, 3, [l2], tolerance=1e-9, start=start)
    torch.testing.assert_close(warm.objective, cold.objective, rtol=1e-5, atol=0)


@few_examples
@given(family=families, n=st.integers(20, 200), F=st.integers(2, 20), seed=seeds)
def test_the_grid_at_once_equals_each_strength_alone(family: str, n: int, F: int, seed: int) -> None:
    features, labels = problem(family, n, F, 3, seed)
    grid = (1e-5, 1e-3, 1e-1)
    together = fit_logistic(features, labels, 3, grid, tolerance=1e-9)
    for index, l2 in enumerate(grid):
        alone = fit_logistic(features, labels, 3, [l2], tolerance=1e-9)
        torch.testing.assert_close(together.objective[index], alone.objective[0], rtol=1e-5, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_principal_directions_reach_sklearns_minimum(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.solvers.preconditioner.LARGEST_WHOLE", 30)
    monkeypatch.setattr("finetune.solvers.preconditioner.PRINCIPAL", 10)
    monkeypatch.setattr("finetune.solvers.preconditioner.PRINCIPAL_ROWS", 100)
    features, labels = problem(family, 700, 40, 3, seed=0)
    fit = fit_logistic(features, labels, 3, [1e-4, 1e-2], tolerance=1e-8)
    assert all(fit.converged)
    assert excess(fit, features, labels, 3) < CLOSE


@pytest.mark.parametrize("n", [50, 1000], ids=["fewer rows than features", "more"])
def test_digits_on_black_reach_sklearns_minimum(n: int) -> None:
    features, labels = digits(n)
    fit = fit_logistic(features.float(), labels, 10, [1e-4, 1e-2], tolerance=FINAL)
    assert all(fit.converged)
    assert excess(fit, features, labels, 10) < CLOSE


def rare_codes() -> tuple[Tensor, Tensor]:
    """Codes of 160 atoms, used by a third down to a 3,000th of 4,000 images, and five classes that depend on them."""
    generator = torch.Generator().manual_seed(3)
    use = torch.logspace(-0.5, -3.5, 160)
    codes = (torch.rand(4000, 160, generator=generator) < use) * (0.3 + torch.rand(4000, 160, generator=generator))
    logits = codes @ torch.randn(160, 5, generator=generator) + 0.3 * torch.randn(4000, 5, generator=generator)
    return Standardizer.of(codes).apply_(codes), logits.argmax(1)


@pytest.mark.parametrize("tolerance", [CHOOSING, FINAL])
def test_the_whole_grid_is_as_accurate_as_sklearn_on_rarely_used_atoms(tolerance: float) -> None:
    features, labels = rare_codes()
    grid = (1e-5, 1e-3)
    fit = fit_logistic(features, labels, 5, grid, tolerance=tolerance, careful_steps=0)
    assert all(fit.converged)
    assert max(fit.steps) < 400
    accuracies = (fit.predict(features) == labels).double().mean(1).tolist()
    for l2, accuracy in zip(grid, accuracies, strict=True):
        theirs = sklearn_model(features, labels, l2, solver="lbfgs", tol=1e-6)
        assert accuracy > theirs.score(features.double().numpy(), labels.numpy()) - 0.01


def test_slow_progress_is_not_taken_for_convergence() -> None:
    # the predicted decrease is already below the tolerance at an excess of 1.4e-3
    features, labels = problem("thresholded", 600, 30, 5, seed=6)
    fit = fit_logistic(features, labels, 5, [1e-5], tolerance=1e-5)
    assert fit.converged == (True,)
    assert excess(fit, features, labels, 5) < 6e-4


def test_a_fit_with_a_useless_preconditioner_is_repeated_until_it_converges() -> None:
    features, labels = rare_codes()
    useless = Preconditioner(torch.zeros(160), torch.eye(160))
    once = fit_logistic(features, labels, 5, [1e-4], preconditioner=useless, max_steps=5, careful_steps=0)
    assert once.unconverged == (0,)
    assert float(once.objective) < math.log(5)
    again = fit_logistic(features, labels, 5, [1e-4], preconditioner=useless, max_steps=5)
    assert again.unconverged == ()
    assert again.weight.dtype == torch.float32
    direct = fit_logistic(features, labels, 5, [1e-4])
    torch.testing.assert_close(again.objective, direct.objective, rtol=1e-3, atol=0)


def test_a_fit_is_repeated_in_its_own_precision_if_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.solvers.logistic.available_memory", lambda: 0)
    features, labels = rare_codes()
    fit = fit_logistic(features, labels, 5, [1e-3], max_steps=2)
    assert fit.converged == (True,)
    direct = fit_logistic(features, labels, 5, [1e-3])
    torch.testing.assert_close(fit.objective, direct.objective, rtol=1e-3, atol=0)


def test_only_the_strengths_that_did_not_converge_are_repeated() -> None:
    features, labels = rare_codes()
    once = fit_logistic(features, labels, 5, [1e-4, 1e-1], max_steps=8, careful_steps=0)
    assert once.converged == (False, True)
    again = fit_logistic(features, labels, 5, [1e-4, 1e-1], max_steps=8)
    assert again.converged == (True, True)
    assert again.steps[1] == once.steps[1]
    assert torch.equal(again.weight[1], once.weight[1])
    assert again.steps[0] > once.steps[0]
    assert again.objective[0] < once.objective[0]


@pytest.mark.parametrize("spoiled", [math.nan, math.inf])
@pytest.mark.parametrize("solver", [fit_logistic, fit_ridge])
def test_features_that_are_not_finite_are_refused(solver: type, spoiled: float) -> None:
    features = torch.ones(6, 3)
    features[2, 1] = spoiled
    with pytest.raises(ValueError, match="finite"):
        solver(features, torch.arange(6) % 2, 2, [1e-2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
@few_examples
@given(n=st.integers(10, 300), F=st.integers(2, 40), l2=st.floats(-4, 1).map(lambda power: 10**power), seed=seeds)
@example(n=200, F=40, l2=1e-3, seed=0)
def test_ridge_reaches_sklearns_minimum_on_every_family(
    family: str, dtype: torch.dtype, n: int, F: int, l2: float, seed: int
) -> None:
    features, labels = problem(family, n, F, 3, seed)
    one_hot = torch.nn.functional.one_hot(labels, 3).double()
    model = Ridge(alpha=n * l2, solver="svd").fit(features.numpy(), one_hot.numpy())
    theirs = torch.from_numpy(model.coef_.T.copy()), torch.from_numpy(model.intercept_.copy())
    fit = fit_ridge(features.to(dtype), labels, 3, [l2])
    mine = fit.weight[0].double(), fit.bias[0].double()
    values = [
        float((features @ weight + bias - one_hot).square().sum() / n + l2 * weight.square().sum())
        for weight, bias in (mine, theirs)
    ]
    assert values[0] <= values[1] * (1 + CLOSE) + 1e-9

"""The grid solver against scikit-learn, against its own gradient, and on hard problems."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from finetune.solvers.lbfgs import Problems
from finetune.solvers.logistic import fit_logistic, objective
from finetune.solvers.preconditioner import Preconditioner

L2 = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
UNUSED = Preconditioner(torch.ones(1))


def correlated(n: int, F: int, C: int, noise: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Correlated features with a constant column and means off zero, and labels that follow them with noise."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, F, generator=generator, dtype=torch.float64)
    features = features @ torch.randn(F, F, generator=generator, dtype=torch.float64) + 1
    features[:, 0] = 3.0
    planted = torch.randn(F, C, generator=generator, dtype=torch.float64)
    logits = features @ planted + noise * torch.randn(n, C, generator=generator, dtype=torch.float64)
    labels = logits.argmax(1)
    labels[:C] = torch.arange(C)  # every class is present
    return features, labels


def sklearn_minimum(features: Tensor, labels: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """Weights ``[F C]`` and bias ``[C]``; with two classes, sklearn keeps only the second: ``[F 1]`` and ``[1]``."""
    model = LogisticRegression(C=1 / (len(labels) * l2), solver="newton-cg", tol=1e-10, max_iter=1000)
    model.fit(features.numpy(), labels.numpy())
    return torch.from_numpy(model.coef_.T.copy()), torch.from_numpy(model.intercept_.copy())


@pytest.mark.parametrize(("n", "F", "C"), [(300, 10, 4), (60, 100, 3), (500, 5, 7)], ids=["tall", "wide", "many"])
def test_every_strength_reaches_sklearns_minimum(n: int, F: int, C: int) -> None:
    features, labels = correlated(n, F, C)
    fit = fit_logistic(features, labels, C, L2, tolerance=1e-12)
    assert all(fit.converged)
    for index, l2 in enumerate(L2):
        weight, bias = sklearn_minimum(features, labels, l2)
        reference = objective(features, labels, weight[None], bias[None], [l2])
        assert fit.objective[index] <= reference[0] * (1 + 1e-8)
        torch.testing.assert_close(fit.weight[index], weight, rtol=1e-3, atol=1e-3 * float(weight.abs().max()))


def test_two_classes_agree_with_sklearns_single_logit() -> None:
    features, labels = correlated(200, 6, 2)
    # sklearn penalizes w once where softmax penalizes w/2 twice: strength l2/2 there is l2 here
    fit = fit_logistic(features, labels, 2, [1e-2], tolerance=1e-12)
    weight, bias = sklearn_minimum(features, labels, 0.5e-2)
    torch.testing.assert_close(fit.weight[0, :, 1] - fit.weight[0, :, 0], weight[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fit.bias[0, 1] - fit.bias[0, 0], bias[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_vanishes_at_the_solution(dtype: torch.dtype) -> None:
    features, labels = correlated(200, 8, 3)
    fit = fit_logistic(features.to(dtype), labels, 3, L2, tolerance=1e-7)
    weight = fit.weight.double().requires_grad_()
    bias = fit.bias.double().requires_grad_()
    per_row = (features @ weight) + bias[:, None]
    loss = torch.nn.functional.cross_entropy(per_row.flatten(0, 1), labels.repeat(len(L2)), reduction="none")
    penalties = weight.square().sum(dim=(1, 2)) * torch.tensor(L2, dtype=torch.float64) / 2
    values = loss.view(len(L2), -1).mean(1) + penalties
    torch.testing.assert_close(fit.objective, values.detach(), rtol=1e-5, atol=0)
    for gradient in torch.autograd.grad(values.sum(), [weight, bias]):
        assert float(gradient.abs().max()) < 2e-3  # it was above 0.3 at zero weights
    assert float(values.detach().max()) < float(torch.tensor(3.0).log())


def test_objective_is_the_formula() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    weight = torch.tensor([[[0.5, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    bias = torch.tensor([[0.0, 0.25]], dtype=torch.float64)
    # logits: (0.5, 0.25) with label 0, (0, 2.25) with label 1; penalty 0.1/2 (0.25 + 1)
    expected = (torch.log(1 + torch.tensor(-0.25).exp()) + torch.log(1 + torch.tensor(-2.25).exp())) / 2 + 0.0625
    assert float(objective(features, torch.tensor([0, 1]), weight, bias, [0.1])[0]) == pytest.approx(float(expected))


def test_separable_data_with_a_tiny_penalty_gives_finite_and_correct_classifiers() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(90) % 3
    features = torch.nn.functional.one_hot(labels, 3).float() * 4 + 0.1 * torch.randn(90, 3, generator=generator)
    fit = fit_logistic(features, labels, 3, [1e-7, 1e-3])
    assert torch.isfinite(fit.weight).all()
    assert (fit.predict(features) == labels).all()
    assert fit.objective[0] < 1e-4


def test_rows_that_are_nearly_fitted_keep_their_digits_in_float32() -> None:
    """Their losses, residuals and curvatures are far below the rounding error of a probability of 1."""
    logits = torch.zeros(1, 3, 4)  # problem, class, row
    logits[0, 0] = torch.tensor([5.0, 12.0, 20.0, -30.0])  # the label is class 0; the last row is quite wrong
    features, labels = torch.ones(4, 1), torch.zeros(4, dtype=torch.long)
    nothing = features.new_zeros(1)
    state = Problems(features, labels, logits.new_zeros(1, 3, 1), logits.new_zeros(1, 3), nothing, nothing, UNUSED, 1)
    exact = logits.double()
    for rows in (slice(0, 3), slice(2, 3), slice(3, 4)):
        state.labels = labels[rows]
        found, p = state.evaluate(logits[:, :, rows]), exact[:, :, rows].softmax(1)
        loss = torch.log1p(exact[:, 1:, rows].sub(exact[:, :1, rows]).exp().sum(1))
        torch.testing.assert_close(found.loss, loss.mean(1), rtol=1e-6, atol=0)
        expected = torch.cat([-p[:, 1:].sum(1, keepdim=True), p[:, 1:]], 1)
        torch.testing.assert_close(found.residual.double(), expected, rtol=1e-5, atol=0)
        off = p[:, 1:].sum(1)
        spread = (off * (2 - off) - p[:, 1:].square().sum(1)).mean(1) / 2
        torch.testing.assert_close(found.curvature[:, 0].double(), spread.clamp_min(1e-6), rtol=1e-5, atol=0)
    weight = logits[:, :, 2:3].transpose(1, 2)  # [G F C]
    value = objective(features[:1], labels[:1], weight, logits.new_zeros(1, 3), [1e-30])
    torch.testing.assert_close(value, torch.log1p(2 * torch.tensor([-20.0]).double().exp()), rtol=1e-6, atol=0)


def test_few_separable_rows_need_no_second_fit_in_float64() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 10, (150,), generator=generator)
    features = torch.randn(150, 600, generator=generator) + 0.5 * torch.randn(10, 600, generator=generator)[labels]
    fit = fit_logistic(features, labels, 10, [1e-5, 1e-4, 1e-3], tolerance=1e-4, careful_steps=0)
    assert fit.converged == (True, True, True)
    exact = fit_logistic(features.double(), labels, 10, fit.l2, tolerance=1e-8)
    torch.testing.assert_close(fit.objective, exact.objective, rtol=1e-3, atol=0)


def test_constant_features_get_no_weight_and_shares_become_the_bias() -> None:
    labels = torch.tensor([0] * 10 + [1] * 30 + [2] * 60)
    fit = fit_logistic(torch.full((100, 2), 0.5, dtype=torch.float64), labels, 3, [1e-3], tolerance=1e-12)
    assert float(fit.weight.abs().max()) < 1e-6
    torch.testing.assert_close(
        fit.bias[0].softmax(0), torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64), atol=1e-4, rtol=0
    )


def test_a_class_without_rows_is_never_predicted() -> None:
    features, labels = correlated(120, 5, 3)
    fit = fit_logistic(features, labels, 4, L2)
    assert not (fit.predict(features) == 3).any()


def test_solving_together_equals_solving_alone() -> None:
    features, labels = correlated(250, 9, 4)
    together = fit_logistic(features, labels, 4, L2, tolerance=1e-12)
    for index, l2 in enumerate(L2):
        alone = fit_logistic(features, labels, 4, [l2], tolerance=1e-12)
        torch.testing.assert_close(together.objective[index], alone.objective[0], rtol=1e-10, atol=0)


def test_order_of_strengths_does_not_matter() -> None:
    features, labels = correlated(150, 6, 3)
    forward = fit_logistic(features, labels, 3, L2)
    backward = fit_logistic(features, labels, 3, L2[::-1])
    torch.testing.assert_close(forward.weight, backward.weight.flip(0))
    assert forward.steps == backward.steps[::-1]


def test_solving_in_groups_gives_the_same_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = correlated(200, 7, 3)
    whole = fit_logistic(features, labels, 3, L2, tolerance=1e-12)
    monkeypatch.setattr("finetune.solvers.logistic.MEMORY", 1)
    grouped = fit_logistic(features, labels, 3, L2, tolerance=1e-12)
    torch.testing.assert_close(whole.objective, grouped.objective, rtol=1e-9, atol=0)


def test_a_principal_preconditioner_gives_the_same_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = correlated(200, 7, 3)
    whole = fit_logistic(features, labels, 3, L2, tolerance=1e-10)
    monkeypatch.setattr("finetune.solvers.preconditioner.LARGEST_WHOLE", 1)
    monkeypatch.setattr("finetune.solvers.preconditioner.PRINCIPAL", 2)
    principal = fit_logistic(features, labels, 3, L2, tolerance=1e-10, max_steps=2000)
    torch.testing.assert_close(whole.objective, principal.objective, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_rows_in_their_span_give_the_same_solution(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = correlated(40, 60, 3)
    features = features.to(dtype)
    features[1] = features[0]  # linearly dependent rows have a smaller span
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    # partly outside the span, which the solution must forget
    start = (1e-3 * torch.randn(60, 3, generator=torch.Generator().manual_seed(2)), torch.zeros(3))
    span = fit_logistic(features, labels, 3, L2[:4], tolerance=tolerance)
    started = fit_logistic(features, labels, 3, L2[:4], tolerance=tolerance, start=start)
    monkeypatch.setattr("finetune.solvers.logistic.few_rows", lambda features: False)
    direct = fit_logistic(features, labels, 3, L2[:4], tolerance=tolerance)
    assert all(span.converged)
    for fit in (span, started):
        exact = dtype == torch.float64
        torch.testing.assert_close(fit.objective, direct.objective, rtol=1e-6 if exact else 1e-3, atol=0)
        if exact:  # the minimum is flat: weights are less well determined
            bound = 1e-2 * float(direct.weight.abs().max())
            torch.testing.assert_close(fit.weight, direct.weight, rtol=0, atol=bound)
            torch.testing.assert_close(fit.bias, direct.bias, rtol=1e-2, atol=1e-2)


def test_identical_rows_predict_the_class_shares() -> None:
    labels = torch.tensor([0, 1, 1, 1])
    fit = fit_logistic(torch.ones(4, 9, dtype=torch.float64), labels, 2, [1e-3], tolerance=1e-12)
    assert float(fit.weight.abs().max()) == 0
    torch.testing.assert_close(
        fit.bias[0].softmax(0), torch.tensor([0.25, 0.75], dtype=torch.float64), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(("n", "F"), [(200, 7), (60, 100)], ids=["tall", "wide"])
def test_starting_from_the_solution_needs_no_step(n: int, F: int) -> None:
    features, labels = correlated(n, F, 3)
    fit = fit_logistic(features, labels, 3, [1e-2], tolerance=1e-10)
    again = fit_logistic(features, labels, 3, [1e-2], start=(fit.weight[0], fit.bias[0]), tolerance=1e-8)
    assert again.steps == (0,)
    torch.testing.assert_close(again.weight, fit.weight)


def test_too_few_steps_are_reported_as_not_converged() -> None:
    features, labels = correlated(200, 7, 3)
    fit = fit_logistic(features, labels, 3, [1e-5], tolerance=1e-10, max_steps=2, careful_steps=0)
    assert fit.converged == (False,)
    assert fit.steps == (2,)
    more = fit_logistic(features, labels, 3, [1e-5], tolerance=1e-10, max_steps=2, careful_steps=3)
    assert (more.converged, more.steps) == ((False,), (5,))
    assert more.objective < fit.objective


@pytest.mark.parametrize(
    ("features", "labels", "classes", "l2", "message"),
    [
        (torch.zeros(3), torch.zeros(3).long(), 2, [1.0], "features"),
        (torch.zeros(3, 2), torch.zeros(4).long(), 2, [1.0], "features"),
        (torch.zeros(3, 2).half(), torch.zeros(3).long(), 2, [1.0], "float32"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), 2, [1.0], "0..1"),
        (torch.zeros(3, 2), torch.zeros(3).long(), 2, [0.0], "positive"),
        (torch.zeros(3, 2), torch.zeros(3).long(), 2, [], "positive"),
    ],
)
def test_invalid_problems_are_refused(
    features: Tensor, labels: Tensor, classes: int, l2: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_logistic(features, labels, classes, l2)

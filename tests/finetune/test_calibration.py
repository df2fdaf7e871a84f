"""One temperature of logits: by hand, by scikit-learn, and what it may not change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from finetune.calibration import UNFITTED, calibrated, confidence, fit_temperature, label_confidence


def noisy(n: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are twice too sure: labels are drawn from the softmax of their half."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (n, classes))
    shares = np.exp(logits / 2 - logsumexp(logits / 2, axis=1, keepdims=True))
    labels = [random.choice(classes, p=share) for share in shares]
    return torch.from_numpy(logits).float(), torch.tensor(labels)


@pytest.mark.parametrize(("n", "right"), [(10, 7), (20, 20), (1000, 900)])
def test_of_answers_that_are_equally_sure_it_gives_the_share_of_right_ones(n: int, right: int) -> None:
    """All logits are (1, 0), so ``1 / T`` is the log-odds of being right, with one image more that is half right."""
    logits = torch.tensor([[1.0, 0.0]]).expand(n, 2)
    labels = (torch.arange(n) >= right).long()
    share = (right + 0.5) / (n + 1)
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(1 / math.log(share / (1 - share)), rel=1e-3)
    assert confidence(logits, temperature).tolist() == pytest.approx([share] * n, abs=1e-3)


def test_of_two_classes_it_is_logistic_regression_through_the_origin() -> None:
    logits, labels = noisy(400, 2)
    n = len(labels)
    # each image with its label, and a part of one more image as either class
    X = np.tile((logits[:, 1] - logits[:, 0]).numpy()[:, None], (3, 1))
    y = np.concatenate([labels.numpy(), np.zeros(n), np.ones(n)])
    weights = np.repeat([1 - 1 / (n + 1), 0.5 / (n + 1), 0.5 / (n + 1)], n)
    model = LogisticRegression(C=1e9, fit_intercept=False, tol=1e-8).fit(X, y, weights)
    assert fit_temperature(logits, labels) == pytest.approx(1 / model.coef_.item(), rel=1e-3)


def test_of_several_classes_no_other_temperature_has_a_smaller_log_loss() -> None:
    logits, labels = noisy(3000, 5)
    z, n = logits.double().numpy(), len(labels)

    def log_loss(temperature: float) -> float:
        scaled = z / temperature
        log_p = scaled - logsumexp(scaled, axis=1, keepdims=True)
        own, all_ = log_p[np.arange(n), labels.numpy()].mean(), log_p.mean()
        return float(-(own * n + all_) / (n + 1))

    def best(low: float, high: float) -> float:
        grid = np.geomspace(low, high, 80)
        return float(grid[np.argmin([log_loss(one) for one in grid])])

    about = best(0.5, 8)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(best(about / 1.05, about * 1.05), rel=2e-3)
    assert found == pytest.approx(2, abs=0.1)  # the logits are twice too sure


@settings(deadline=None, max_examples=20)
@given(st.floats(0.2, 5), st.integers(0, 5))
def test_logits_of_another_scale_have_the_temperature_of_that_scale(scale: float, seed: int) -> None:
    logits, labels = noisy(50, 3, seed)
    assert fit_temperature(logits * scale, labels) == pytest.approx(scale * fit_temperature(logits, labels), rel=1e-2)


def test_answers_that_are_never_right_have_no_confidence() -> None:
    logits, labels = torch.eye(4)[torch.arange(100) % 4] * 5, (torch.arange(100) + 1) % 4
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(100, rel=1e-2)
    assert confidence(logits, temperature).max() < 0.27


def test_without_held_out_images_probabilities_stay_as_they_are() -> None:
    assert fit_temperature(torch.empty(0, 3), torch.empty(0, dtype=torch.int64)) == UNFITTED == 1


def test_errors_are_those_of_the_test_images() -> None:
    """Before, all are sure of 95%; after, of 65%; half are right."""
    before, after, right = torch.full((8,), 0.95), torch.full((8,), 0.65), torch.arange(8) % 2 == 0
    found = calibrated(2.0, 100, before, after, right)
    assert (found.temperature, found.fitted_on) == (2.0, 100)
    assert found.error_before == pytest.approx(0.45)
    assert found.error_after == pytest.approx(0.15)


def test_labels_have_one_temperature_for_all_of_them() -> None:
    """By a grid search over the mean log loss of all answers, with one more image of unknown labels."""
    generator = torch.Generator().manual_seed(0)
    logits = 6 * torch.randn(300, 4, generator=generator)
    labels = torch.rand(300, 4, generator=generator) < (logits / 3).sigmoid()
    target, grid = labels.double() * 300 / 301 + 0.5 / 301, np.exp(np.linspace(np.log(0.5), np.log(20), 4000))
    losses = []
    for temperature in grid:
        shares = (logits.double() / temperature).sigmoid()
        losses.append(float(-(target * shares.log() + (1 - target) * (1 - shares).log()).mean()))
    assert fit_temperature(logits, labels) == pytest.approx(grid[int(np.argmin(losses))], rel=0.01)


def test_the_confidence_of_a_label_is_the_probability_of_the_answer() -> None:
    sure = label_confidence(torch.tensor([[2.0, -2.0, 0.0]]), 2.0)
    torch.testing.assert_close(sure, torch.tensor([[1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-1)), 0.5]]))

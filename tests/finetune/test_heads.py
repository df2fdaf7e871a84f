"""The linear classifier that a probe keeps: standardization folded in, temperature from images it was not fitted on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

from finetune.calibration import fit_temperature
from finetune.features import Features
from finetune.heads import Answered, Head, make_head
from finetune.probes import Answers, Candidates, Linear, Task
from tests.finetune.probes.features import CPU, GOOD, GOOD_SPACE, informative, task_of

L2 = 1e-2
Kind = Literal["logistic", "ridge"]


def uneven(n: int, seed: int) -> tuple[Features, Tensor]:
    """Features of which one is constant, and has no weight, and one is large."""
    features, labels = informative(n, seed)
    features.parts[GOOD][:, 0] = 3.0
    features.parts[GOOD][:, 1] = features.parts[GOOD][:, 1] * 50 + 20
    return features, labels


def data(folds: int, n: int = 200) -> tuple[Features, Tensor, Task, Candidates]:
    features, labels = uneven(n, 0)
    return features, labels, task_of(labels, folds=folds), Candidates(features, [GOOD_SPACE], CPU)


class Fitted(NamedTuple):
    """A probe that was tested: its choice, its answers for the test images, and their labels."""

    make: Callable[[Answered], Head]
    test: Features
    labels: Tensor
    answers: Answers

    def head(self, labels: Tensor | None = None, answers: Tensor | None = None) -> Head:
        """The head, given what is said of the test images: by default what is true."""
        said = Answered(
            self.test, self.labels if labels is None else labels, self.answers.classes if answers is None else answers
        )
        return self.make(said)


def fitted(kind: Kind = "logistic", folds: int = 4) -> Fitted:
    _, _, task, candidates = data(folds)
    probe = Linear(kind=kind, l2=(L2,))
    chosen = probe.choose(candidates, task)
    found = probe.refit(candidates, task, chosen)
    test, labels = uneven(150, 1)
    return Fitted(partial(make_head, probe, candidates, task, chosen, found), test, labels, found.answers(test))


def held_out_by_hand(kind: Kind, features: Features, labels: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """Outputs for the held-out rows of each fold by scikit-learn, standardized by the rows that are fitted on."""
    X = features.parts[GOOD].double().numpy()
    outputs, held = [], []
    for fold in task.folds:
        fit, other = fold.fit.numpy(), fold.held.numpy()
        mean, scale = X[fit].mean(0), X[fit].std(0)
        scale[scale < 1e-6] = np.inf
        rows, y = (X[fit] - mean) / scale, labels[fold.fit].numpy()
        if kind == "ridge":
            model = Ridge(alpha=L2 * len(fit)).fit(rows, np.eye(len(task.classes))[y])
            outputs.append(model.predict((X[other] - mean) / scale))
        else:
            found = LogisticRegression(C=1 / (L2 * len(fit)), tol=1e-8, max_iter=5000).fit(rows, y)
            outputs.append(found.decision_function((X[other] - mean) / scale))
        held.append(labels[fold.held])
    return torch.from_numpy(np.concatenate(outputs)), torch.cat(held)


@pytest.mark.parametrize("folds", [0, 4])
@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_the_temperature_is_of_held_out_images_by_classifiers_fitted_without_them(kind: Kind, folds: int) -> None:
    features, labels, task, candidates = data(folds)
    probe = Linear(kind=kind, l2=(L2,))
    outputs, held = probe.held_out(candidates, task, probe.choose(candidates, task))
    expected, expected_labels = held_out_by_hand(kind, features, labels, task)
    assert torch.equal(held, expected_labels)
    centered = [one.double() - one.double().mean(1, keepdim=True) for one in (outputs, expected)]
    # logistic fits that choices are made on end earlier than those that are tested
    torch.testing.assert_close(*centered, atol=0.3 if kind == "logistic" else 1e-4, rtol=0.02)
    head = fitted(kind, folds).head()
    assert head.calibration is not None
    assert head.calibration.fitted_on == len(held) == task.held
    assert head.calibration.temperature == pytest.approx(fit_temperature(expected, held), rel=0.03)


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_the_folded_head_gives_the_answers_that_were_tested(kind: Kind) -> None:
    one = fitted(kind)
    head = one.head()
    assert torch.equal(head.logits(one.test).argmax(1), one.answers.classes)
    assert not head.weight[0].any()  # the constant feature


def test_logits_are_those_of_the_standardized_features() -> None:
    one = fitted()
    assert one.answers.confidence is not None
    found = one.head().logits(one.test).softmax(1).amax(1)
    torch.testing.assert_close(found, one.answers.confidence, atol=1e-4, rtol=1e-4)


def test_ridge_has_its_temperature_in_its_weights() -> None:
    """Its output is not a log-probability, so its softmax alone would mean nothing."""
    one = fitted("ridge")
    head = one.head()
    assert head.temperature == 1
    assert head.calibration is not None
    assert head.calibration.temperature < 0.5
    assert head.calibration.error_after < head.calibration.error_before
    right = float((one.answers.classes == one.labels).float().mean())
    assert float(head.logits(one.test).softmax(1).amax(1).mean()) == pytest.approx(right, abs=0.15)


def test_test_labels_do_not_change_the_head() -> None:
    found = fitted()
    one, other = found.head(), found.head(labels=found.labels.roll(1))
    assert one.temperature == other.temperature
    assert torch.equal(one.weight, other.weight)
    assert one.calibration != other.calibration


def test_a_head_that_rounding_has_spoiled_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    one = fitted()
    with caplog.at_level(logging.WARNING, "retouch"):
        one.head(answers=(one.answers.classes + 1) % 3)
    assert "predictions differ from the tested classifier on 150 of 150 test images" in caplog.text

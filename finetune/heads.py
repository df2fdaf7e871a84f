"""The chosen linear classifier of a probe as one map of features, with its temperature: what a run keeps of it.

Of several labels per image, each logit is that of one label.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from common.data import Labels
from finetune.calibration import UNFITTED, calibrated, confidence, fit_temperature, label_confidence
from finetune.features import Features
from finetune.pooling import Space
from finetune.probes import Answers, Candidates, Chosen, Fitted, Linear, Task
from finetune.probes.linear import LinearClassifiers
from finetune.records import Calibration
from finetune.solvers.gram import blocks

log = logging.getLogger("retouch")


@dataclass(frozen=True)
class Head:
    """``logits = features @ weight + bias``: features as they are, since their standardization is in these."""

    space: Space
    weight: Tensor  # float32 [F C]
    bias: Tensor  # float32 [C]
    temperature: float = UNFITTED
    calibration: Calibration | None = None  # of masks

    def logits(self, features: Features) -> Tensor:
        """Logits ``[n C]`` of these features, on the CPU."""
        return _logits(features.matrix(self.space), self.weight, self.bias)


def make_head(
    probe: Linear,
    candidates: Candidates,
    task: Task,
    chosen: Chosen,
    fitted: Fitted,
    test: Features,
    test_labels: Labels,
    answers: Answers,
) -> Head:
    """The classifier that was tested, and the temperature of what the same choice gives for held-out images.

    What ridge regression gives is no log-probability: its head is divided by the temperature, and needs none.

    Args:
        test, test_labels, answers: the test images, which only measure what the temperature does.
    """
    weight, bias = folded(fitted)
    logits = _logits(test.matrix(chosen.space), weight, bias)
    _check_same(logits.argmax(1), answers.classes)
    right = logits.argmax(1) == test_labels.values[test.index]
    outputs, labels = probe.held_out(candidates, task, chosen)
    temperature = fit_temperature(outputs, labels)
    before, after = (confidence(logits, divisor) for divisor in (UNFITTED, temperature))
    found = calibrated(temperature, len(labels), before, after, right)
    return _head(probe, chosen, weight, bias, found)


def make_label_head(
    probe: Linear,
    candidates: Candidates,
    task: Task,
    chosen: Chosen,
    fitted: Fitted,
    test: Features,
    truth: Tensor,
    scores: Tensor,
) -> Head:
    """The same of several labels per image; the temperature is one for all labels.

    Args:
        test, truth, scores: the test images, which of the labels they have, bool ``[n L]``, and what the tested
            classifiers gave for them.
    """
    weight, bias = folded(fitted)
    logits = _logits(test.matrix(chosen.space), weight, bias)
    _check_same(logits > 0, scores > 0)
    right = ((logits > 0) == truth).flatten()
    outputs, labels = probe.held_out(candidates, task, chosen)
    temperature = fit_temperature(outputs, labels)
    before, after = (label_confidence(logits, divisor).flatten() for divisor in (UNFITTED, temperature))
    found = calibrated(temperature, len(labels), before, after, right)
    return _head(probe, chosen, weight, bias, found)


def _head(probe: Linear, chosen: Chosen, weight: Tensor, bias: Tensor, found: Calibration) -> Head:
    if probe.kind == "ridge":
        return Head(chosen.space, weight / found.temperature, bias / found.temperature, UNFITTED, found)
    return Head(chosen.space, weight, bias, found.temperature, found)


def folded(fitted: Fitted) -> tuple[Tensor, Tensor]:
    """Weight ``[F C]`` and bias ``[C]``, which give logits of features that are not standardized; float32, on the CPU.

    ``((x - mean) / scale) @ W + b = x @ (W / scale) + (b - (mean / scale) @ W)``; a constant feature has an infinite
    scale, and no weight.
    """
    assert isinstance(fitted.classifiers, LinearClassifiers)
    fit, standardize = fitted.classifiers.fit, fitted.standardize
    weight = fit.weight[0].double() / standardize.scale.double()[:, None]
    bias = fit.bias[0].double() - standardize.mean.double() @ weight + fitted.classifiers.offset
    return weight.float().cpu(), bias.float().cpu()


def _logits(matrix: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.cat([rows @ weight + bias for rows in blocks(matrix)])


def _check_same(mine: Tensor, tested: Tensor) -> None:
    """Warn if rounding made the head another classifier than the one that was tested."""
    differing = int((mine != tested).view(len(tested), -1).any(1).sum())
    if differing > max(1, len(tested) // 1000):
        log.warning(
            "the saved classifier answers %d of %d test images in another way than the tested one: some features vary "
            "too little beside their size for float32; choose other layers or poolings",
            *(differing, len(tested)),
        )

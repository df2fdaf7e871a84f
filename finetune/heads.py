"""The chosen linear classifier of a probe as one linear map of the features, with its temperature: what a run keeps.

With several labels per image, each label has a logit of its own.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from finetune.calibration import UNFITTED, calibrated, fit_temperature
from finetune.features import Features
from finetune.pooling import Space
from finetune.probes import Candidates, Chosen, Fitted, Linear, Task
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
    sure: Tensor | None = (
        None  # float32 [n], or [n L]: the calibrated probability of each tested answer; None for masks
    )

    def logits(self, features: Features) -> Tensor:
        """Logits ``[n C]`` of these features, on the CPU."""
        return _logits(features.matrix(self.space), self.weight, self.bias)


class Answered(NamedTuple):
    """The test images, with what the classifier predicted for them."""

    features: Features
    truth: Tensor  # int64 [n]; several labels per image: bool [n L]
    answers: Tensor  # likewise


def make_head(
    probe: Linear, candidates: Candidates, task: Task, chosen: Chosen, fitted: Fitted, tested: Answered
) -> Head:
    """The classifier that was tested, and the temperature of what the same choice gives for held-out images.

    All labels of an image share one temperature. The outputs of ridge regression are not log-probabilities: its head
    is divided by the temperature, and needs none.

    Args:
        tested: only measures what the temperature does.
    """
    weight, bias = folded(fitted)
    logits = _logits(tested.features.matrix(chosen.space), weight, bias)
    decided = task.decide(logits)
    _check_same(decided, tested.answers)
    outputs, labels = probe.held_out(candidates, task, chosen)
    temperature = fit_temperature(outputs, labels)
    before, after = (task.confidence(logits, divisor) for divisor in (UNFITTED, temperature))
    right = decided == tested.truth
    found = calibrated(temperature, len(labels), before.flatten(), after.flatten(), right.flatten())
    return replace(_head(probe, chosen, weight, bias, found), sure=after)


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
    """Warn if rounding made the head differ from the classifier that was tested."""
    differing = int((mine != tested).view(len(tested), -1).any(1).sum())
    if differing > max(1, len(tested) // 1000):
        log.warning(
            "predictions differ from the tested classifier on %d of %d test images: some features vary too little "
            "relative to their magnitude; choose other layers or poolings",
            *(differing, len(tested)),
        )

"""Calibrated confidence: logits divided by one temperature, fitted on held-out training images (Guo et al. 2017).

The temperature changes only confidence, never an answer. With several labels per image, each label has its own logit.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from finetune.metrics import calibration_error, reliability
from finetune.records import Calibration

LOWEST, HIGHEST = 1e-2, 1e2  # temperatures
UNFITTED = 1.0  # where there are no held-out images: the probabilities stay as they are


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T with the smallest log loss of ``softmax(logits / T)``, in [0.01, 100].

    With several labels per image, the loss is that of ``sigmoid(logits / T)`` over all labels together. One more image
    is added, whose class or labels are unknown (label smoothing by ``1 / (n + 1)``): otherwise a few images that are
    all classified correctly would make every answer certain.

    Args:
        logits: ``[n C]`` for images that the classifier was not fitted on.
        labels: int64 ``[n]``; or bool ``[n C]``, several labels per image.

    Returns:
        1 if there are no images.
    """
    from scipy.optimize import minimize_scalar  # takes a second to import

    if not len(labels):
        return UNFITTED
    logits, labels = logits.double().cpu(), labels.cpu()
    smoothing = 1 / (len(labels) + 1)

    def loss(log_temperature: float) -> float:  # convex in 1 / T, so it has one minimum
        scaled = logits * math.exp(-log_temperature)
        if labels.ndim == 2:
            return float(binary_cross_entropy_with_logits(scaled, labels * (1 - smoothing) + smoothing / 2))
        return float(cross_entropy(scaled, labels, label_smoothing=smoothing))

    found = minimize_scalar(loss, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    return math.exp(float(found.x))


def confidence(logits: Tensor, temperature: float) -> Tensor:
    """Logits ``[n C]`` -> the probability of the most likely class, float32 ``[n]`` in [0, 1]."""
    return (logits.float() / temperature).softmax(1).amax(1)


def label_confidence(logits: Tensor, temperature: float) -> Tensor:
    """Logits ``[n L]`` of labels -> the probability of each answer, yes or no, float32 ``[n L]``."""
    return (logits.float().abs() / temperature).sigmoid()


def calibrated(temperature: float, fitted_on: int, before: Tensor, after: Tensor, right: Tensor) -> Calibration:
    """How a temperature changed the calibration error on test images.

    Args:
        fitted_on: number of held-out training images.
        before, after: confidence ``[n]`` without and with it, of each answer.
        right: bool ``[n]``, whether it is right.
    """
    errors = [calibration_error(reliability(one, right)) for one in (before, after)]
    return Calibration(temperature=temperature, fitted_on=fitted_on, error_before=errors[0], error_after=errors[1])

"""How well calibrated the classifiers are, in plain English."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from finetune.metrics import Bin, calibration_error, chance_calibration_error, reliability
from finetune.records import Calibration
from retouch.reporting.sentences import number

RELIABILITY = (
    "How confident the same classifiers were, and how often they were right. Probabilities are calibrated, as in "
    "retouch predict, unless the caption says otherwise. Answers are grouped into ten bins by confidence: 0 to 10%, 10 "
    "to 20%, and so on. Each dot is a bin, larger for more answers. On the line, confidence equals accuracy; below it, "
    "the classifier is overconfident. The expected calibration error is the mean distance from the line. Lower is "
    "better, but even perfect calibration leaves a small error by chance."
)
LABELS_RELIABILITY = (
    "The probabilities that the same probes give to labels, calibrated as in retouch predict, and how often images "
    "have these labels. Each label of each test image is a case. Cases are grouped into ten bins by probability: 0 to "
    "10%, 10 to 20%, and so on. Each dot is a bin, larger for more cases. On the line, a label with a probability of "
    "70% is present in 70% of the cases; below it, in fewer. A smaller mean distance from the line is better, but even "
    "perfect calibration leaves a small one by chance."
)


def label_bins(scores: Tensor, truth: Tensor, temperature: float) -> list[Bin]:
    """How often labels of each probability are present.

    Args:
        scores: float32 ``[n L]``, of each label of each image, not calibrated.
        truth: bool ``[n L]``, the labels that images have.
    """
    return reliability((scores / temperature).sigmoid().flatten(), truth.flatten())


def label_sureness(bins: Sequence[Bin], before: Sequence[Bin]) -> str:
    """The mean probability of labels, the share that is present, and how far apart the two are.

    Args:
        before: the bins before calibration.
    """
    total = sum(one.n for one in bins)
    sure, there = sum(one.n * one.confidence for one in bins) / total, sum(one.n * one.accuracy for one in bins) / total
    error, least = calibration_error(bins), chance_calibration_error(bins)
    return (
        f"mean probability {number(sure)}%, present in {number(there)}%; mean distance from the line {number(error)} "
        f"points ({number(least)} by chance alone; before calibration {number(calibration_error(before))})"
    )


def sureness(bins: Sequence[Bin], found: Calibration | None, *, calibrated: bool) -> str:
    """The mean confidence of a classifier, its accuracy, and how far apart the two are.

    Args:
        found: what calibration changed; None if that was not measured.
        calibrated: whether the confidence of the bins is calibrated.
    """
    total = sum(one.n for one in bins)
    sure, right = sum(one.n * one.confidence for one in bins) / total, sum(one.n * one.accuracy for one in bins) / total
    error = calibration_error(bins)
    aside = f"{number(chance_calibration_error(bins))} by chance alone{_other(found, calibrated)}"
    return (
        f"{'' if calibrated else 'not calibrated: '}mean confidence {number(sure)}%, accuracy {number(right)}%; "
        f"expected calibration error {number(error)} points ({aside})"
    )


def _other(found: Calibration | None, calibrated: bool) -> str:
    """The error before calibration; or after it, if the confidence is not calibrated."""
    if found is None:
        return ""
    if calibrated:
        return f"; before calibration {number(found.error_before)}"
    return f"; calibrated, as by retouch predict, {number(found.error_after)}"

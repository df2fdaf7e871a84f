"""How well calibrated the classifiers are, in plain English."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from finetune.metrics import Bin, calibration_error, chance_calibration_error, reliability
from retouch.reporting.sentences import number

RELIABILITY = (
    "How sure the same classifiers were, before calibration, and how often they were right. Answers are put in ten "
    "groups by confidence: 0 to 10% sure, 10 to 20%, and so on. A dot is a group, larger for more answers. On the "
    "line, confidence equals accuracy; below it, the classifier is overconfident. The expected calibration error is "
    "the mean distance from the line: lower is better, and chance alone leaves a little."
)
LABELS_RELIABILITY = (
    "How probable the same probes called the labels, calibrated as by retouch predict, and how often images have them. "
    "Each label of each test image is a case. Cases are put in ten groups by probability: 0 to 10%, 10 to 20%, and so "
    "on. A dot is a group, larger for more cases. On the line, a label that is called 70% probable is there in 70% of "
    "the cases; below it, more seldom. The mean distance from the line: lower is better, and chance alone leaves a "
    "little."
)


def label_bins(scores: Tensor, truth: Tensor, temperature: float) -> list[Bin]:
    """How often labels of each probability are there.

    Args:
        scores: float32 ``[n L]``, of each label of each image, not calibrated.
        truth: bool ``[n L]``, the labels that images have.
    """
    return reliability((scores / temperature).sigmoid().flatten(), truth.flatten())


def label_sureness(bins: Sequence[Bin]) -> str:
    """How probable labels are on average, how many are there, and how far apart the two are."""
    total = sum(one.n for one in bins)
    sure, there = sum(one.n * one.confidence for one in bins) / total, sum(one.n * one.accuracy for one in bins) / total
    error, least = calibration_error(bins), chance_calibration_error(bins)
    return (
        f"{number(sure)}% probable on average, {number(there)}% there; mean distance from the line {number(error)} "
        f"points ({number(least)} by chance alone)"
    )


def sureness(bins: Sequence[Bin]) -> str:
    """How confident a classifier was on average, how often it was right, and how far apart the two are."""
    total = sum(one.n for one in bins)
    sure, right = sum(one.n * one.confidence for one in bins) / total, sum(one.n * one.accuracy for one in bins) / total
    error, least = calibration_error(bins), chance_calibration_error(bins)
    return (
        f"{number(sure)}% sure on average, {number(right)}% right; expected calibration error {number(error)} points "
        f"({number(least)} by chance alone)"
    )

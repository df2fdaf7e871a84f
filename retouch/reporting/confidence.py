"""How well calibrated the classifiers are, in plain English."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.metrics import Bin, calibration_error, chance_calibration_error
from retouch.reporting.sentences import number

RELIABILITY = (
    "How confident the same classifiers were, and how often they were right. Answers are grouped into ten bins by "
    "confidence: 0 to 10%, 10 to 20%, and so on. Each dot is a bin, larger for more answers. On the line, confidence "
    "equals accuracy; below it, the classifier is overconfident. The expected calibration error is the mean distance "
    "from the line. Lower is better, but even perfect calibration leaves a small error by chance."
)


def sureness(bins: Sequence[Bin]) -> str:
    """The mean confidence of a classifier, its accuracy, and how far apart the two are."""
    total = sum(one.n for one in bins)
    sure, right = sum(one.n * one.confidence for one in bins) / total, sum(one.n * one.accuracy for one in bins) / total
    error, least = calibration_error(bins), chance_calibration_error(bins)
    return (
        f"mean confidence {number(sure)}%, accuracy {number(right)}%; expected calibration error {number(error)} "
        f"points ({number(least)} by chance alone)"
    )

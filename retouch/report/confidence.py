"""How far the confidence of answers can be trusted, in plain English."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.metrics import Bin, calibration_error, chance_calibration_error
from retouch.report.sentences import number

RELIABILITY = (
    "How sure the same classifiers were, and how often right. Each dot is the answers of one tenth of the confidence, "
    "larger for more answers; on the line, confidence is exactly right."
)


def sureness(bins: Sequence[Bin]) -> str:
    """How confident a classifier was on average, how often right, and how far the two lie apart."""
    total = sum(one.n for one in bins)
    sure, right = sum(one.n * one.confidence for one in bins) / total, sum(one.n * one.accuracy for one in bins) / total
    error, least = calibration_error(bins), chance_calibration_error(bins)
    return (
        f"{number(sure)}% sure on average, {number(right)}% right; expected calibration error {number(error)} points, "
        f"where chance alone would give about {number(least)}"
    )

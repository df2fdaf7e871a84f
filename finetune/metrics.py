"""Scores of predictions: accuracy with its interval, per class, and the confusion matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from finetune.results import Score


def score(predictions: Tensor, labels: Tensor, classes: int) -> Score:
    """Predictions and labels, int64 ``[n]`` in ``0..classes-1``, as every result reports them.

    Raises:
        ValueError: there are none.
    """
    confusion = confusion_matrix(predictions, labels, classes)
    right, total = int(confusion.diagonal().sum()), len(labels)
    return Score(
        accuracy=right / total if total else 0.0,
        ci95=wilson_interval(right, total),
        per_class=tuple(per_class_accuracy(confusion)),
        confusion=tuple(map(tuple, confusion.tolist())),
        n=total,
    )


def accuracy(predictions: Tensor, labels: Tensor) -> Tensor:
    """Share of right predictions ``[... n]`` against labels ``[n]``, float64 ``[...]`` in [0, 1]."""
    return (predictions == labels).double().mean(-1)


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a share ``right / total`` (Wilson 1927).

    Unlike the normal approximation it stays inside [0, 1] and is not empty at 0% or 100%.

    Raises:
        ValueError: not ``0 <= right <= total`` with a positive total.
    """
    from scipy.stats import binomtest  # takes a second to import

    if total <= 0 or not 0 <= right <= total:
        raise ValueError(f"{right} right of {total} is no share")
    interval = binomtest(right, total).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def confusion_matrix(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Counts ``[true predicted]``, int64 ``[C C]``, of predictions and labels ``[n]``."""
    return torch.bincount(labels * classes + predictions, minlength=classes * classes).view(classes, classes)


def per_class_accuracy(confusion: Tensor) -> list[float | None]:
    """Share of each class's rows that were recognised; ``None`` for a class without rows."""
    rows = confusion.sum(1).tolist()
    right = confusion.diagonal().tolist()
    return [hit / count if count else None for hit, count in zip(right, rows, strict=True)]

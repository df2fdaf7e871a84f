"""Scores of predictions: accuracy with its interval, per-class accuracy, and the confusion matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from finetune.results import Score


def score(predictions: Tensor, labels: Tensor, classes: int) -> Score:
    """Score predictions against labels, int64 ``[n]`` in ``0..classes-1`` each.

    Raises:
        ValueError: there are no rows.
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
    """Share of correct predictions ``[... n]``, given labels ``[n]``, float64 ``[...]`` in [0, 1]."""
    return (predictions == labels).double().mean(-1)


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a proportion ``right / total`` (Wilson 1927).

    Unlike the normal approximation it stays inside [0, 1] and has a positive width at 0% and 100%.

    Raises:
        ValueError: not ``0 <= right <= total`` with a positive total.
    """
    from scipy.stats import binomtest  # takes a second to import

    if total <= 0 or not 0 <= right <= total:
        raise ValueError(f"{right} of {total} is not a proportion")
    interval = binomtest(right, total).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def confusion_matrix(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Counts ``[true predicted]``, int64 ``[C C]``, of predictions and labels ``[n]``."""
    return torch.bincount(labels * classes + predictions, minlength=classes * classes).view(classes, classes)


def per_class_accuracy(confusion: Tensor) -> list[float | None]:
    """Accuracy on the rows of each class; ``None`` for a class without rows."""
    rows = confusion.sum(1).tolist()
    right = confusion.diagonal().tolist()
    return [hit / count if count else None for hit, count in zip(right, rows, strict=True)]

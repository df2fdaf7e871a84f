"""What a row of predictions is worth: accuracy with its interval, per class, and who is taken for whom."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Z95 = 1.959963984540054  # 97.5% quantile of the normal distribution


def accuracy(predictions: Tensor, labels: Tensor) -> Tensor:
    """Share of right predictions ``[... n]`` against labels ``[n]``, float64 ``[...]`` in [0, 1]."""
    return (predictions == labels).double().mean(-1)


def wilson_interval(right: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share ``right / total`` (Wilson 1927), 95% by default.

    Unlike the normal approximation it stays inside [0, 1] and is not empty at 0% or 100%.

    Raises:
        ValueError: not ``0 <= right <= total`` with a positive total.
    """
    if total <= 0 or not 0 <= right <= total:
        raise ValueError(f"{right} right of {total} is no share")
    share = right / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # the ends are exact where they are known: rounding must not exclude the share itself
    low = 0.0 if right == 0 else (centre - spread) / scale
    high = 1.0 if right == total else (centre + spread) / scale
    return low, high


def confusion_matrix(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Counts ``[true predicted]``, int64 ``[C C]``, of predictions and labels ``[n]``."""
    return torch.bincount(labels * classes + predictions, minlength=classes * classes).view(classes, classes)


def per_class_accuracy(confusion: Tensor) -> list[float | None]:
    """Share of each class's rows that were recognised; ``None`` for a class without rows."""
    rows = confusion.sum(1).tolist()
    right = confusion.diagonal().tolist()
    return [hit / count if count else None for hit, count in zip(right, rows, strict=True)]

"""Scores of predictions: accuracy with its interval, by class, confusion; confidence; and paired comparisons of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from finetune.results import Comparison, Score

RESAMPLES = 10_000  # of the bootstrap: its 95% limits then vary by about a hundredth of the interval


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
        balanced_accuracy=balanced_accuracy(confusion),
        macro_f1=macro_f1(confusion),
        per_class=tuple(per_class_accuracy(confusion)),
        confusion=tuple(map(tuple, confusion.tolist())),
        n=total,
    )


def accuracy(predictions: Tensor, labels: Tensor) -> Tensor:
    """Share of correct predictions ``[... n]``, given labels ``[n]``, float64 ``[...]`` in [0, 1]."""
    return (predictions == labels).double().mean(-1)


class Bin(NamedTuple):
    """The answers whose confidence lies in one part of [0, 1]."""

    n: int
    confidence: float  # mean, in [0, 1]
    accuracy: float


def reliability(confidence: Tensor, right: Tensor, bins: int = 10) -> list[Bin]:
    """Answers by confidence ``[n]`` in [0, 1], in bins of equal width, with how many are ``right`` (bool ``[n]``).

    Bins without answers are left out.
    """
    place = (confidence.double() * bins).long().clamp(max=bins - 1)
    found = []
    for number in torch.unique(place).tolist():
        inside = place == number
        mean = float(confidence[inside].double().mean())
        found.append(Bin(int(inside.sum()), mean, float(right[inside].double().mean())))
    return found


def calibration_error(found: Sequence[Bin]) -> float:
    """Expected calibration error: ``Σ n_b / n |accuracy_b - confidence_b|`` (Naeini et al. 2015, Guo et al. 2017)."""
    return sum(one.n * abs(one.accuracy - one.confidence) for one in found) / sum(one.n for one in found)


def chance_calibration_error(found: Sequence[Bin]) -> float:
    """About what it would be by chance if confidence were exactly right: the mean of the half-normal in each bin."""
    spread = (one.n * math.sqrt(2 / math.pi * one.confidence * (1 - one.confidence) / one.n) for one in found)
    return sum(spread) / sum(one.n for one in found)


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


def compare(ours: Tensor, theirs: Tensor, labels: Tensor, seed: int = 0) -> Comparison:
    """How much more often ``ours`` is right than ``theirs``: predictions of the same images, int64 ``[n]``.

    The p-value is McNemar's exact test (McNemar 1947): each image that only one of the two gets right is as likely
    to be the other's. The interval is the bootstrap's (Efron 1979): percentiles over seeded resamples of images.

    Raises:
        ValueError: there are no rows, or the three have different lengths.
    """
    from scipy.stats import binomtest  # takes a second to import

    n = len(labels)
    if not n or ours.shape != labels.shape or theirs.shape != labels.shape:
        raise ValueError(f"not predictions of the same images: {len(ours)} and {len(theirs)} of {n}")
    right, other = ours == labels, theirs == labels
    n10, n01 = int((right & ~other).sum()), int((~right & other).sum())
    # the difference depends on how many images of each kind a resample has, so these counts are drawn instead of images
    drawn = np.random.default_rng(seed).multinomial(n, [n10 / n, n01 / n, (n - n10 - n01) / n], RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [0.025, 0.975])
    return Comparison(
        difference=(n10 - n01) / n,
        ci95=(float(low), float(high)),
        p_value=float(binomtest(n10, n10 + n01).pvalue) if n10 + n01 else 1.0,
        n10=n10,
        n01=n01,
    )


class SeedComparison(NamedTuple):
    """Two methods, each trained or probed with several seeds, on the same test images."""

    difference: float  # of their mean accuracies, in [-1, 1]: positive where the first is better
    ci95: tuple[float, float]
    p_value: float  # two-sided
    images: int


def compare_seeds(ours: Tensor, theirs: Tensor, labels: Tensor) -> SeedComparison:
    """How much more often one method is right than another: predictions int64 ``[R n]`` and ``[S n]`` of ``n`` images.

    Both other images and other seeds would have given another difference. Its variance is ``var(d) / n``, of the
    paired differences ``d`` of the images, each averaged over the seeds, plus ``var(a) / R + var(b) / S`` of the
    accuracies of the seeds. Student's t with the degrees of freedom of Welch and Satterthwaite. The effect of seeds on
    single images is in both parts, so the interval tends to be too wide rather than too narrow.

    Raises:
        ValueError: there are fewer than two images or seeds, or the three are for different images.
    """
    from scipy.stats import t  # takes a second to import

    n = len(labels)
    shapes = (ours.shape, theirs.shape)
    if n < 2 or any(len(shape) != 2 or shape[0] < 2 or shape[1] != n for shape in shapes):
        raise ValueError(f"not predictions of the same {n} images with two seeds or more: {shapes}")
    right, other = (ours == labels).double(), (theirs == labels).double()
    paired = right.mean(0) - other.mean(0)
    difference = float(paired.mean())
    parts = [(float(one.var()) / len(one), len(one) - 1) for one in (paired, right.mean(1), other.mean(1))]
    variance = sum(part for part, _ in parts)
    if not variance:
        return SeedComparison(difference, (difference, difference), 0.0 if difference else 1.0, n)
    student = t(variance**2 / sum(part**2 / freedom for part, freedom in parts))
    half = float(student.ppf(0.975)) * math.sqrt(variance)
    p_value = 2 * float(student.sf(abs(difference) / math.sqrt(variance)))
    return SeedComparison(difference, (difference - half, difference + half), p_value, n)


def confusion_matrix(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Counts ``[true predicted]``, int64 ``[C C]``, of predictions and labels ``[n]``."""
    return torch.bincount(labels * classes + predictions, minlength=classes * classes).view(classes, classes)


def per_class_accuracy(confusion: Tensor) -> list[float | None]:
    """Accuracy on the rows of each class; ``None`` for a class without rows."""
    rows = confusion.sum(1).tolist()
    right = confusion.diagonal().tolist()
    return [hit / count if count else None for hit, count in zip(right, rows, strict=True)]


def balanced_accuracy(confusion: Tensor) -> float:
    """Mean accuracy of the classes that have rows: the accuracy to expect with equally many rows of each."""
    found = [share for share in per_class_accuracy(confusion) if share is not None]
    return sum(found) / len(found)


def macro_f1(confusion: Tensor) -> float:
    """Mean over classes of ``2 TP / (2 TP + FP + FN)``; classes without rows and predictions do not count."""
    right, total = confusion.diagonal().double(), (confusion.sum(0) + confusion.sum(1)).double()
    return float((2 * right / total)[total > 0].mean())

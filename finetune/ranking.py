"""Scores of several labels per image: average precision, F1, and their intervals over resampled images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.results import LabelComparison, LabelScore

RESAMPLES = 1000  # of the bootstrap: its limits then vary by about a twentieth of the interval
TOGETHER = 50  # resamples that are in memory at once


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """``Σ_k (R_k - R_{k-1}) P_k`` over the thresholds k: precision, averaged over the images that have a label.

    Equal scores share a threshold, as in scikit-learn's ``average_precision_score``.

    Args:
        scores: ``[... n L]``, larger for likelier labels.
        labels: bool ``[n L]``.

    Returns:
        float64 ``[... L]``; NaN for a label that no row has.
    """
    return _Ranked(scores, labels).precision(torch.ones(1, labels.shape[0], dtype=torch.float64))[0]


def mean_average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """The mean over the labels that some row has: scores ``[... n L]``, labels ``[n L]`` -> float64 ``[...]``."""
    return average_precision(scores, labels).nanmean(-1)


def f1(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    """Micro and macro F1 of the answer "scores ``[n L]`` above 0", ``2 TP / (2 TP + FP + FN)``.

    Micro counts all answers together, macro is the mean over labels; a label without rows and answers does not count.
    """
    said = scores > 0
    right = (said & labels).sum(0).double()
    total = (said.sum(0) + labels.sum(0)).double()
    known = total > 0
    micro = 2 * right.sum() / total.sum().clamp_min(1)
    return float(micro), float((2 * right / total)[known].mean()) if bool(known.any()) else 0.0


def score_labels(scores: Tensor, labels: Tensor, resampled: NDArray[np.float64]) -> LabelScore:
    """Score what a probe gives for each label, ``[n L]``, against labels bool ``[n L]``.

    Args:
        resampled: mean average precision of bootstrap samples, from ``bootstrap``.

    Raises:
        ValueError: no row has a label.
    """
    each = average_precision(scores, labels)
    if bool(each.isnan().all()):
        raise ValueError("no row has a label, so there is nothing to rank")
    low, high = np.quantile(resampled, [0.025, 0.975])
    micro, macro = f1(scores, labels)
    return LabelScore(
        mean_average_precision=float(each.nanmean()),
        ci95=(float(low), float(high)),
        per_label=tuple(None if value != value else value for value in each.tolist()),
        positives=tuple(labels.sum(0).tolist()),
        micro_f1=micro,
        macro_f1=macro,
        n=len(labels),
    )


def bootstrap(scores: Tensor, labels: Tensor, seed: int = 0) -> NDArray[np.float64]:
    """Mean average precision on resampled images, ``[RESAMPLES]``: the same ones for all scores of the same images.

    So the differences of two of these are the paired bootstrap's (Efron 1979). The mean is over the labels that a sample
    shows.
    """
    n, random = len(labels), np.random.default_rng(seed)
    ranked, found = _Ranked(scores, labels), []
    for start in range(0, RESAMPLES, TOGETHER):
        count = min(TOGETHER, RESAMPLES - start)
        drawn = random.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)
        found.append(ranked.precision(torch.from_numpy(times).double()).nanmean(-1).nan_to_num(0).numpy())
    return np.concatenate(found)


def compare_labels(ours: LabelScore, theirs: LabelScore, mine: Sequence[float], others: Sequence[float]) -> LabelComparison:
    """How much better the first ranks than the second, on the same images, from the ``bootstrap`` of each."""
    difference = np.asarray(mine) - np.asarray(others)
    low, high = np.quantile(difference, [0.025, 0.975])
    return LabelComparison(
        difference=ours.mean_average_precision - theirs.mean_average_precision, ci95=(float(low), float(high))
    )


class _Ranked:
    """Rows in the order of their scores, label by label, for any weights of the rows."""

    def __init__(self, scores: Tensor, labels: Tensor) -> None:
        by_label = scores.transpose(-1, -2)  # [... L n]
        ordered, self.order = by_label.sort(dim=-1, descending=True, stable=True)
        self.labels = labels.T.expand(by_label.shape).gather(-1, self.order)
        # of equal scores, the place of the last: their threshold takes them all
        n = labels.shape[0]
        last = torch.ones_like(self.labels)
        last[..., :-1] = ordered[..., :-1] != ordered[..., 1:]
        places = torch.where(last, torch.arange(n), n)
        self.end = places.flip(-1).cummin(-1).values.flip(-1)

    def precision(self, weights: Tensor) -> Tensor:
        """Weights of the rows, float64 ``[R n]`` -> average precision ``[R ... L]``."""
        shape = (len(weights), *(1,) * (self.order.ndim - 1), weights.shape[1])
        counted = weights.view(shape).expand(len(weights), *self.order.shape)
        counted = counted.gather(-1, self.order.expand_as(counted))
        hits = counted * self.labels
        share = hits.cumsum(-1) / counted.cumsum(-1).clamp_min(1e-300)
        at_threshold = share.gather(-1, self.end.expand_as(share))
        return (hits * at_threshold).sum(-1) / hits.sum(-1)

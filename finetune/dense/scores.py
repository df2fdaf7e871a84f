"""Scores of masks: IoU and pixel accuracy over all pixels, with intervals by the bootstrap over images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.dense.cells import intersection_over_union, mean_iou
from finetune.structured_results import DenseScore, LabelComparison

DRAWS = 2000  # of the bootstrap: limits then vary by about a fortieth of the interval
TOGETHER = 100  # of them are in memory at once


def score_masks(counts: Tensor, drawn: NDArray[np.float64]) -> DenseScore:
    """Score the answers for all pixels of some images.

    Args:
        counts: int64 ``[n 3 C]`` from ``overlaps``; some pixel counts.
        drawn: mean IoU of draws of these images, from ``bootstrap``.
    """
    whole = counts.sum(0)
    each = intersection_over_union(whole)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return DenseScore(
        mean_iou=float(mean_iou(whole)),
        ci95=(float(low), float(high)),
        per_class=tuple(None if value != value else value for value in each.tolist()),
        pixel_accuracy=float(whole[2].sum() / whole[0].sum()),
        pixels=tuple(whole[0].tolist()),
        images=tuple((counts[:, 0] > 0).sum(0).tolist()),
        n=len(counts),
    )


def bootstrap(counts: Tensor, seed: int = 0) -> NDArray[np.float64]:
    """Mean IoU of draws of images with replacement, ``[DRAWS]``: the same draws for all counts of these images.

    An image is drawn with all its pixels: they are alike, so intervals over single pixels would be too narrow. The mean
    is over the classes that a draw shows. Images without a pixel that counts are not drawn: a draw of them alone would
    have no mean.
    """
    counts = counts[counts[:, 0].sum(1) > 0]
    n, random = len(counts), np.random.default_rng(seed)
    flat = counts.flatten(1).double()
    found = []
    for _ in range(0, DRAWS, TOGETHER):
        times = torch.from_numpy(random.multinomial(n, np.full(n, 1 / n), TOGETHER)).double()
        found.append(mean_iou((times @ flat).view(TOGETHER, *counts.shape[1:])).numpy())
    return np.concatenate(found)


def compare_masks(
    ours: Tensor, theirs: Tensor, mine: NDArray[np.float64], others: NDArray[np.float64]
) -> LabelComparison:
    """How much higher the mean IoU of the first is, on the same images: counts ``[n 3 C]``, and the draws of each."""
    low, high = np.quantile(mine - others, [0.025, 0.975])
    difference = float(mean_iou(ours.sum(0)) - mean_iou(theirs.sum(0)))
    return LabelComparison.of(difference, float(low), float(high), float(np.std(mine - others)))

"""Between the pixels of a mask and the cells of a map: counts to fit on, and overlaps to measure by."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import interpolate

ROOM = 1 << 24  # numbers in memory at once, about: 64 MB of float32


def cell_counts(truth: Tensor, height: int, width: int, classes: int) -> Tensor:
    """How many pixels of each class lie in each cell: int64 ``[B height width C]``.

    Each pixel belongs to one cell, as if the map were laid over the image.

    Args:
        truth: int64 ``[B S S]`` in ``0..classes-1``, or -1 where nothing counts.
    """
    B, S, _ = truth.shape
    place = torch.arange(S, device=truth.device)
    row, column = place * height // S, place * width // S
    cell = row[:, None] * width + column + torch.arange(B, device=truth.device)[:, None, None] * (height * width)
    counted = truth >= 0
    flat = (cell * classes + truth)[counted]
    return torch.bincount(flat, minlength=B * height * width * classes).view(B, height, width, classes)


def fewer_pixels(truth: Tensor, side: int) -> Tensor:
    """Every so many of the pixels ``[B S S]``: those in the middles of ``side`` x ``side`` cells."""
    S = truth.shape[-1]
    if side == S:
        return truth
    place = ((torch.arange(side, device=truth.device) + 0.5) * (S / side)).long()
    return truth[:, place[:, None], place]


def enlarge(scores: Tensor, side: int) -> Tensor:
    """Scores of cells ``[B C h w]`` -> of pixels ``[B C side side]``, bilinear between the middles of cells."""
    return interpolate(scores, (side, side), mode="bilinear", align_corners=False)


def overlaps(answers: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Per image and class, pixels that have it, are predicted to have it, and both: int64 ``[B 3 C]``.

    Args:
        answers: int64 ``[B S S]``.
        truth: int64 ``[B S S]``; -1 where nothing counts.
    """
    counted = truth >= 0
    image = torch.arange(len(truth), device=truth.device)[:, None, None].expand_as(truth)[counted] * classes
    true, said = truth[counted], answers[counted]
    right = image[true == said] + true[true == said]
    found = [torch.bincount(flat, minlength=len(truth) * classes) for flat in (image + true, image + said, right)]
    return torch.stack([one.view(len(truth), classes) for one in found], 1)


def intersection_over_union(counts: Tensor) -> Tensor:
    """Counts ``[... 3 C]`` -> IoU of each class, float64 ``[... C]``; NaN for a class without true pixels."""
    true, said, right = counts.double().unbind(-2)
    return torch.where(true > 0, right / (true + said - right).clamp_min(1), torch.nan)


def mean_iou(counts: Tensor) -> Tensor:
    """Mean IoU over the classes that have true pixels: counts ``[... 3 C]`` -> float64 ``[...]``."""
    return intersection_over_union(counts).nanmean(-1)


def in_parts(images: int, numbers: int) -> Iterator[slice]:
    """Parts of ``images`` that take about ``ROOM`` each, at ``numbers`` per image."""
    step = max(1, ROOM // max(1, numbers))
    return (slice(start, start + step) for start in range(0, images, step))

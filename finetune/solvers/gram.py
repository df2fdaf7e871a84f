"""Second moments of a feature matrix, accurate enough to be inverted."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

COLUMNS = 2048  # columns per product: narrow enough to skip nearly half of a wide symmetric matrix
BLOCK = 4096  # rows per block: enough for a fast product, few enough for float32 sums to be accurate to 1e-6
SMALL = 1e-20  # sums of squares below this are computed in float64


def blocks(rows: Tensor, size: int = BLOCK) -> Iterator[Tensor]:
    """Views of ``rows`` ``[n ...]``, ``size`` rows at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def column_mean(features: Tensor) -> Tensor:
    """Features ``[n F]`` -> their mean ``[F]``, float64: float32 blocks, summed in float64."""
    total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    for rows in blocks(features):
        total += rows.sum(0).double()
    return total / len(features)


def column_moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Features ``[n F]`` -> mean and population standard deviation ``[F]``, float64."""
    mean = column_mean(features)
    shift = mean.to(features.dtype)
    squares = torch.zeros_like(mean)
    for rows in blocks(features):
        squares += (rows - shift).square_().sum(0).double()
    # squares that overflow or vanish in the features' precision
    extreme = ~((squares > SMALL) & squares.isfinite())
    if bool(extreme.any()):
        exact = [(rows[:, extreme].double() - shift[extreme]).square().sum(0) for rows in blocks(features)]
        squares[extreme] = torch.stack(exact).sum(0)
    # the subtracted mean was rounded to the features' precision: correct for the difference
    variance = squares / len(features) - (mean - shift.double()).square()
    return mean, variance.clamp_min(0).sqrt()


def gram(features: Tensor, mean: Tensor, weights: Tensor | None = None) -> Tensor:
    """``(X - mean)ᵀ (X - mean) / n`` of features ``[n F]``, float64 ``[F F]``.

    With weights ``[n]`` of the rows: ``Σ_i w_i (x_i - mean) (x_i - mean)ᵀ``.

    Products are computed block by block in the features' precision and summed in float64; a sum in bfloat16, or in
    float32 over all rows, loses the small eigenvalues that a weak penalty divides by.
    """
    shift = mean.to(features.dtype)
    width = features.shape[1]
    total = torch.zeros(width, width, dtype=torch.float64, device=features.device)
    # the matrix is symmetric: only the blocks on and above the diagonal are computed
    columns = [slice(start, start + COLUMNS) for start in range(0, width, COLUMNS)]
    roots = None if weights is None else weights.sqrt().to(features.dtype)
    for index, rows in enumerate(blocks(features)):
        centered = rows - shift
        if roots is not None:
            centered *= roots[index * BLOCK : index * BLOCK + len(rows), None]
        for place, left in enumerate(columns):
            for right in columns[place:]:
                total[left, right] += centered[:, left].T @ centered[:, right]
    for place, left in enumerate(columns):
        for right in columns[place + 1 :]:
            total[right, left] = total[left, right].T
    return total.div_(len(features)) if weights is None else total

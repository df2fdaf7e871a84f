"""Kernel functions between rows: ``linear`` is x·y, ``rbf`` is exp(-‖x - y‖² / (2 width²))."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

Kernel = Literal["linear", "rbf"]


def kernel_rows(rows: Tensor, landmarks: Tensor, kernel: Kernel, width: float | None) -> Tensor:
    """``k(rows, landmarks)`` of ``[n d]`` and ``[m d]`` -> ``[n m]``, in the landmarks' dtype, on their device."""
    rows = rows.to(landmarks)
    if kernel == "linear":
        return rows @ landmarks.T
    return squared_distances(rows, landmarks, landmarks.mean(0)).mul_(-0.5 / check_width(width) ** 2).exp_()


def check_width(width: float | None) -> float:
    """``width``, or a ``ValueError`` if it is not a positive finite number."""
    if width is None or not (width > 0 and math.isfinite(width)):
        raise ValueError(f"width must be positive, not {width}")
    return width


def squared_distances(a: Tensor, b: Tensor, origin: Tensor) -> Tensor:
    """``‖a_i - b_j‖²`` ``[n m]``. ``origin``, near both, is subtracted first: large squares would cancel."""
    a, b = a - origin, b - origin
    squares = a.square().sum(1)[:, None] + b.square().sum(1)
    return squares.addmm_(a, b.T, alpha=-2).clamp_min_(0)

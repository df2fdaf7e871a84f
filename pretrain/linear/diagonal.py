"""The start of a linear sparse autoencoder: the best one that codes every principal component separately."""

from __future__ import annotations

import torch
from torch import Tensor

STEEPEST = 3**-0.5  # where 1 / (1 + u²) falls fastest; beyond it its slope rises towards 0
HALVINGS = 60


def diagonal_autoencoder(rows: Tensor, l1: float, gamma: float | None) -> tuple[Tensor, Tensor]:
    """``V = diag(a) Uᵀ``, ``W = U diag(b)`` that minimize ``1/N Σ [ ‖x − W V x‖² + λ‖V x‖₁ ] + γ‖W‖²_F``.

    ``U`` are the principal directions. Each costs ``v (1 − ab)² + λ a m + γ b²``, with ``v = E(uᵀx)²`` and
    ``m = E|uᵀx|``, so every pair (a, b) is found separately. For a given a, ``b = a v / (a² v + γ)``; with
    ``a = t √(γ/v)`` what remains is ``v [ 1 / (1 + t²) + c t ]``, ``c = λ m √γ / v^{3/2}``, whose slope is zero at most
    twice: the larger root is its minimum, unless 0, coding nothing, is cheaper. With columns of unit norm b is 1, and
    ``a = 1 − λ m / 2v`` or 0.

    Args:
        rows: ``[N d]``, centered.
        l1: λ > 0 if there is a γ.
        gamma: γ > 0; None for columns of unit norm.

    Returns:
        ``V [k d]`` and ``W [d k]`` in float64, largest variance first, only for directions worth coding.
    """
    rows = rows.double()
    values, directions = torch.linalg.eigh(rows.T @ rows / len(rows))
    projected = rows @ directions
    v, m = values.clamp_min(torch.finfo(torch.float64).eps * values.max()), projected.abs().mean(0)
    if gamma is None:
        a = (1 - l1 * m / (2 * v)).clamp_min(0)
        b = torch.ones_like(a)
    else:
        c = l1 * m * gamma**0.5 / v**1.5
        low, high = torch.full_like(c, STEEPEST), (2 / c) ** (1 / 3)  # 2t / (1 + t²)² < 2 / t³
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            falls = 2 * middle / (1 + middle**2).square() > c
            low, high = torch.where(falls, middle, low), torch.where(falls, high, middle)
        t = torch.where(1 / (1 + low**2) + c * low < 1, low, 0.0)
        a, b = t * (gamma / v).sqrt(), t / (1 + t**2) * (v / gamma).sqrt()
    worth = (a > 0).nonzero().flatten().flip(0)
    return (directions * a).T[worth], (directions * b)[:, worth]

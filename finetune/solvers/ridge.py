"""Ridge regression onto one-hot labels, in closed form for a whole grid of L2 strengths.

With centered features ``X`` ``[n F]`` and centered one-hot labels ``Y`` ``[n C]``, for each strength λ:

    minimize over W   (1/n) ‖X W - Y‖²_F  +  λ ‖W‖²_F        =>        W = (A + λ I)⁻¹ B,   A = XᵀX/n,  B = XᵀY/n

and the bias follows from the means. One eigendecomposition ``A = V Λ Vᵀ`` serves the grid:
``W = V (Λ + λ)⁻¹ VᵀB``. It costs about 30 times as much as a Cholesky factorization, so wide features use one
factorization per strength instead. With fewer rows than features the same solution is computed in the dual form:
``W = Xᵀ/n (K + λ I)⁻¹ Y`` with ``K = X Xᵀ/n``, which is smaller. Both are computed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from finetune.solvers.gram import blocks, column_mean, gram
from finetune.solvers.logistic import LinearFit, check_problem

SOLVED = 1e-4  # relative residual above which a float32 factor is rejected
REFINEMENTS = 3  # refinement steps with a float32 factor; each gains the digits that float32 has
WIDE = 2048  # with more features than this, strengths are solved one by one
MANY_ROWS = 512  # in the dual form, with more rows than this


def fit_ridge(features: Tensor, labels: Tensor, classes: int, l2: Sequence[float]) -> LinearFit:
    """Fit one ridge classifier per strength in ``l2``; the class with the largest output is predicted.

    Args:
        features: ``[n F]``, float32 or float64.
        labels: int64 ``[n]`` in ``0..classes-1``; or bool ``[n L]``, any number of labels per row, which are then Y.
        classes: number of classes C, at least 2, or of labels.
        l2: strengths λ > 0, on the scale of the mean squared error.

    Raises:
        ValueError: shapes, labels or strengths are invalid.
    """
    check_problem(features, labels, classes, l2)
    n, F = features.shape
    mean = column_mean(features)
    counts = torch.bincount(labels, minlength=classes) if labels.ndim == 1 else labels.sum(0)
    shares = counts.double() / n  # mean of the one-hot labels
    strengths = torch.tensor(list(l2), dtype=torch.float64, device=features.device)
    if n >= F:
        weight = solve_moments(gram(features, mean), _cross(features, labels, classes, mean), l2)
    else:
        centered = features.double() - mean
        kernel = centered @ centered.T / n
        one_hot = _one_hot(labels, classes).double() - shares
        if n > MANY_ROWS:
            rows = _one_by_one(kernel, one_hot, list(l2))
        else:
            values, basis = torch.linalg.eigh(kernel)
            rows = basis @ ((basis.T @ one_hot) / (values.clamp_min(0) + strengths[:, None])[:, :, None])  # [G n C]
        weight = centered.T @ rows / n
    bias = shares - mean @ weight
    error = torch.stack([_squared_error(features, labels, w, b) for w, b in zip(weight, bias, strict=True)])
    objective = error + strengths * weight.square().sum(dim=(1, 2))
    kept = features.dtype
    return LinearFit(tuple(l2), weight.to(kept), bias.to(kept), objective)


def solve_moments(A: Tensor, B: Tensor, l2: Sequence[float]) -> Tensor:
    """``(A + λ I)⁻¹ B`` for each strength, float64 ``[G F C]``; ``A`` ``[F F]`` is a second moment, float64."""
    if len(A) > WIDE:
        return _one_by_one(A, B, l2)
    strengths = torch.tensor(list(l2), dtype=torch.float64, device=A.device)
    values, basis = torch.linalg.eigh(A)
    solution: Tensor = basis @ ((basis.T @ B) / (values.clamp_min(0) + strengths[:, None])[:, :, None])
    return solution


def _one_by_one(A: Tensor, target: Tensor, l2: Sequence[float]) -> Tensor:
    """``(A + λ I)⁻¹ B`` for each strength, float64 ``[G F C]``; ``A`` ``[F F]`` is overwritten.

    The factor is float32: twice as fast, with half the memory. A few refinement steps with float64 residuals reach
    float64 accuracy if λ exceeds the float32 rounding error of ``A``. For a smaller λ a float64 factor is used, and if
    ``A``, a sum of float32 products, is no longer positive, an eigendecomposition, which is the slowest.
    """
    solutions = []
    own = A.diagonal().clone()
    for strength in l2:
        A.diagonal().copy_(own + strength)
        factor, failed = torch.linalg.cholesky_ex(A.float())
        solution = torch.zeros_like(target)
        for _ in range(0 if int(failed) else 1 + REFINEMENTS):
            residual = target - A @ solution
            solution += torch.cholesky_solve(residual.to(factor.dtype), factor).double()
        if int(failed) or not (target - A @ solution).norm() <= SOLVED * target.norm():
            solution = _in_float64(A, target, strength)
        solutions.append(solution)
    A.diagonal().copy_(own)
    return torch.stack(solutions)


def _in_float64(A: Tensor, target: Tensor, strength: float) -> Tensor:
    """``A⁻¹ B``, float64 ``[F C]``, of an ``A`` whose exact eigenvalues are at least ``strength``."""
    factor, failed = torch.linalg.cholesky_ex(A)
    if not int(failed):
        return torch.cholesky_solve(target, factor)
    values, vectors = torch.linalg.eigh(A)
    solution: Tensor = vectors @ ((vectors.T @ target) / values.clamp_min(strength)[:, None])
    return solution


def _cross(features: Tensor, labels: Tensor, classes: int, mean: Tensor) -> Tensor:
    """``Xᵀ Y / n`` of centered features and labels, float64 ``[F C]``, from the sum of the rows of each class."""
    sums = torch.zeros(classes, features.shape[1], dtype=torch.float64, device=features.device)
    for rows, y in zip(blocks(features), blocks(labels), strict=True):
        centered = rows.double() - mean
        if y.ndim == 1:
            sums.index_add_(0, y, centered)
        else:
            sums += y.double().T @ centered
    return sums.T / len(features)  # centring one side is enough: the centered rows sum to zero


def _squared_error(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``(1/n) ‖X W + b - Y‖²_F``, float64 scalar; the products are in the features' precision."""
    total = torch.zeros((), dtype=torch.float64, device=features.device)
    for rows, y in zip(blocks(features), blocks(labels), strict=True):
        prediction = rows @ weight.to(rows.dtype) + bias.to(rows.dtype)
        prediction -= _one_hot(y, len(bias)).to(prediction.dtype)
        total += prediction.square().sum(dtype=torch.float64)
    return total / len(features)


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    """Y ``[n C]``: of independent labels, themselves."""
    return torch.nn.functional.one_hot(labels, classes) if labels.ndim == 1 else labels

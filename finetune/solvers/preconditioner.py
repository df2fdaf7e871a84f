"""Preconditioners, and the low-dimensional span of few rows."""

from __future__ import annotations

import torch
from torch import Tensor

from finetune.solvers.gram import blocks, column_mean, gram

ROWS_PER_FEATURE = 8  # rows used per feature to estimate all eigenvectors
LARGEST_WHOLE = 4096  # features or rows; with more, all eigenvectors cost more than the solver steps they save
PRINCIPAL = 1024  # eigenvectors kept if there are more features than that
PRINCIPAL_ROWS = 8192  # rows used to estimate those
PASSES = 2  # subspace iterations


class Preconditioner:
    """``(s A + λ I)⁻¹`` for any s and λ, where ``A ≈ V Λ Vᵀ + δ (I - V Vᵀ)`` is the centred Gram matrix of features.

    ``V`` holds all eigenvectors of A (δ is then unused), or the principal ones: the other eigenvalues of strongly
    correlated features are small, and δ is their mean. A preconditioner changes how fast the solver converges, not the
    solution. So a subsample of rows is enough, and one preconditioner serves several fits on nearly the same features
    (a split and the full set, several tasks).

    Attributes:
        values: Λ ``[k]``.
        vectors: V, orthonormal columns ``[F k]``; None if the features are their own principal directions.
        rest: δ.
    """

    def __init__(self, values: Tensor, vectors: Tensor | None = None, rest: float = 0.0) -> None:
        self.values, self.vectors, self.rest = values, vectors, rest

    @classmethod
    def of(cls, features: Tensor) -> Preconditioner:
        """Estimate it from features ``[n F]``, using a subsample of evenly spaced rows if there are many."""
        n, F = features.shape
        if F > LARGEST_WHOLE:
            return cls._principal(features[:: max(1, n // PRINCIPAL_ROWS)])
        rows = features[:: max(1, n // (ROWS_PER_FEATURE * F))]
        values, vectors = torch.linalg.eigh(gram(rows, column_mean(rows)).to(features.dtype))
        return cls(values.clamp_min(0), vectors)

    @classmethod
    def _principal(cls, rows: Tensor) -> Preconditioner:
        """By subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4) from a seeded start."""
        m, F = rows.shape
        rows = rows - column_mean(rows).to(rows.dtype)
        generator = torch.Generator().manual_seed(0)
        basis = torch.randn(F, min(PRINCIPAL, m, F), generator=generator).to(rows)
        for _ in range(PASSES):
            basis = torch.linalg.qr(rows.T @ (rows @ basis)).Q
        projected = rows @ basis
        values, turn = torch.linalg.eigh(projected.T @ projected / m)
        values = values.clamp_min(0)
        left = sum(float(part.square().sum(dtype=torch.float64)) for part in blocks(rows)) / m - float(values.sum())
        return cls(values, basis @ turn, max(0.0, left) / max(1, F - len(values)))

    def apply(self, gradient: Tensor, curvature: Tensor, l2: Tensor) -> Tensor:
        """Gradient ``[g C F]``, s and λ ``[g]`` -> ``(s A + λ I)⁻¹`` times the gradient ``[g C F]``."""
        scale = (curvature[:, None] * self.values + l2[:, None])[:, None]
        if self.vectors is None:
            return torch.div(gradient, scale)
        along = gradient @ self.vectors
        if self.vectors.shape[0] == self.vectors.shape[1]:
            return torch.matmul(along / scale, self.vectors.T)
        elsewhere = (curvature * self.rest + l2)[:, None, None]
        return torch.matmul(along / scale - along / elsewhere, self.vectors.T) + gradient / elsewhere


def few_rows(features: Tensor) -> bool:
    """Whether features ``[n F]`` are best represented in the span of their rows."""
    n, F = features.shape
    return n < F and n <= LARGEST_WHOLE


class Span:
    """Coordinates of n rows in the space they span, for fewer rows than features.

    With centred rows ``X_c`` ``[n F]`` and ``X_c X_cᵀ = U Λ Uᵀ``, the columns of ``V = X_cᵀ U Λ^-½`` ``[F r]`` are an
    orthonormal basis of their span, and ``Z = X_c V = U Λ^½`` are the rows in that basis. A weight outside the span
    changes no logit and only adds to the penalty. A weight inside, ``W = V w``, has ``‖W‖ = ‖w‖``. So minimising over
    ``w`` on Z is the same as minimising over ``W`` on the features. The Gram matrix of Z is diagonal: its
    preconditioner is free, and exact.

    Attributes:
        coordinates: Z ``[n r]``, ``r < n``, with mean zero.
        preconditioner: of the coordinates.
    """

    def __init__(self, features: Tensor, mean: Tensor) -> None:
        """Features ``[n F]`` and their mean ``[F]``, float64."""
        self.features, self.mean = features, mean.to(features.dtype)
        n = len(features)
        # float64 throughout: in float32 the small eigenvalues, which a weak penalty divides by, would be noise
        total = torch.zeros(n, n, dtype=torch.float64, device=features.device)
        for columns, shift in zip(blocks(features.T), blocks(mean), strict=True):
            centred = columns.T.double() - shift
            total += centred @ centred.T
        values, vectors = torch.linalg.eigh(total)
        nonzero = values > n * torch.finfo(values.dtype).eps * values[-1].clamp_min(torch.finfo(features.dtype).tiny)
        values, vectors = values[nonzero], vectors[:, nonzero]
        self.coordinates = (vectors * values.sqrt()).to(features.dtype)
        self._back = (vectors * values.rsqrt()).to(features.dtype)  # U Λ^-½
        self.preconditioner = Preconditioner((values / n).to(features.dtype))

    def weight_of(self, coordinates: Tensor) -> Tensor:
        """Weights of the coordinates ``[G r C]`` -> weights of the features ``[G F C]``: ``V w``."""
        G, r, C = coordinates.shape
        shares = self._back @ coordinates.permute(1, 0, 2).reshape(r, G * C)
        flat = self.features.T @ shares - torch.outer(self.mean, shares.sum(0))
        weight: Tensor = flat.view(-1, G, C).permute(1, 0, 2)
        return weight

    def coordinates_of(self, weight: Tensor) -> Tensor:
        """Weights of the features ``[F C]`` -> weights of the coordinates with the same logits ``[r C]``: ``Vᵀ W``."""
        weight = weight.to(self.features)
        coordinates: Tensor = self._back.T @ (self.features @ weight - self.mean @ weight)
        return coordinates

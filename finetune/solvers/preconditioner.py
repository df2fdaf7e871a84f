"""Preconditioners, and the low-dimensional span of few rows."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from finetune.solvers.gram import blocks, column_mean, gram

ROWS_PER_FEATURE = 8  # rows used per feature to estimate all eigenvectors
LARGEST_WHOLE = 4096  # features or rows; with more, all eigenvectors cost more than the solver steps they save
PRINCIPAL = 1024  # eigenvectors kept if there are more features than that
PRINCIPAL_ROWS = 8192  # rows used to estimate those
PASSES = 2  # subspace iterations
HEAVY = 16  # squared norm of a row, relative to the mean, from which its curvature no longer grows
TINY = torch.finfo(torch.float64).tiny
UNSEEN = 0.1  # a feature is unseen in a sample that has less than this share of its variance


class Preconditioner:
    """``(s A + λ I)⁻¹`` for any s and λ, where ``A ≈ V Λ Vᵀ + δ (I - V Vᵀ)`` is the centered Gram matrix of features.

    ``V`` holds all eigenvectors of A (δ is then unused), or the principal ones: the other eigenvalues of strongly
    correlated features are small, and δ is their mean. A preconditioner changes how fast the solver converges, not the
    solution, so it may be estimated from a sample of the rows, and one preconditioner serves several fits on nearly the
    same features (a split and the full set, several tasks). Two kinds of features need care:

    - Features that are rarely non-zero. Where the sample has no curvature, the step is 1/λ times the gradient, many
      thousand times too long. So half of the sample is drawn in proportion to the squared norm of the rows, which are
      large where standardized features are rare, and the variance of features that it still lacks comes from all rows.
    - Outlying rows. The model fits such a row with a small change of its weights and then has no curvature there; if
      the preconditioner kept it, steps would be too short and the predicted decrease too small, which looks like
      convergence. So a row counts for at most ``HEAVY`` average rows.

    Attributes:
        values: Λ ``[k]``.
        vectors: V, orthonormal columns ``[F k]``; None if the features are their own principal directions.
        rest: δ.
    """

    def __init__(self, values: Tensor, vectors: Tensor | None = None, rest: float = 0.0) -> None:
        self.values, self.vectors, self.rest = values, vectors, rest

    @classmethod
    def of(cls, features: Tensor, effort: int = 1, curvature: Tensor | None = None) -> Preconditioner:
        """Estimate it from a sample of features ``[n F]``.

        Args:
            effort: times as many rows as usual.
            curvature: of each row, relative to their mean, ``[n]``, if it is known; outlying rows then count by it.
        """
        n, F = features.shape
        mean = column_mean(features)
        norms, counted = _counted(features, mean)
        if curvature is not None:
            counted = curvature
        if few_rows(features):
            return cls._dual(features, counted / n, mean)
        if F > LARGEST_WHOLE:
            picked, weights = _sample(norms, counted, effort * PRINCIPAL_ROWS)
            return cls._principal(features[picked], weights, mean)
        picked, weights = _sample(norms, counted, effort * ROWS_PER_FEATURE * F)
        A = gram(features[picked], mean, weights)
        if len(weights) < n:
            variance, diagonal = _variance(features, mean, counted), A.diagonal()
            diagonal.copy_(torch.where(diagonal < UNSEEN * variance, variance, diagonal))
        values, vectors = torch.linalg.eigh(A.to(features.dtype))
        return cls(values.clamp_min(0), vectors)

    @classmethod
    def _dual(cls, rows: Tensor, weights: Tensor, mean: Tensor) -> Preconditioner:
        """Of fewer rows than features: their products have the same eigenvalues, and are fewer.

        Directions outside the span of these rows get the mean eigenvalue: rows that are standardized a little
        differently have a small part there, and a step that is too short costs less than one that is 1/λ too long.
        """
        rows = (rows - mean.to(rows.dtype)).mul_(weights.sqrt().to(rows.dtype)[:, None])
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        nonzero = values > len(rows) * torch.finfo(values.dtype).eps * values[-1].clamp_min(TINY)
        values, vectors = values[nonzero], vectors[:, nonzero]
        return cls(values, rows.T @ (vectors * values.rsqrt()), float(values.sum()) / rows.shape[1])

    @classmethod
    def _principal(cls, rows: Tensor, weights: Tensor, mean: Tensor) -> Preconditioner:
        """Of more features than eigenvectors are kept."""
        m, F = rows.shape
        rows = (rows - mean.to(rows.dtype)).mul_(weights.sqrt().to(rows.dtype)[:, None])
        values, vectors = subspace(rows, min(PRINCIPAL, m, F))
        left = sum(float(part.square().sum(dtype=torch.float64)) for part in blocks(rows)) - float(values.sum())
        return cls(values, vectors, max(0.0, left) / max(1, F - len(values)))

    def covers(self, features: Tensor) -> bool:
        """Whether it has the variance of each of these features ``[n F]``: it may come from rows where some are 0."""
        if self.vectors is None:
            own = self.values
        else:
            squares = self.vectors.square()
            own = squares @ self.values + self.rest * (1 - squares.sum(1)).clamp_min(0)
        mean = column_mean(features)
        return bool((own >= UNSEEN * _variance(features, mean, _counted(features, mean)[1])).all())

    def apply(self, gradient: Tensor, curvature: Tensor, l2: Tensor) -> Tensor:
        """Gradient ``[g C F]``, s ``[g 1]`` or ``[g C]`` and λ ``[g]`` -> ``(s A + λ I)⁻¹`` times it ``[g C F]``."""
        scale = curvature[:, :, None] * self.values + l2[:, None, None]
        if self.vectors is None:
            return torch.div(gradient, scale)
        along = gradient @ self.vectors
        if self.vectors.shape[0] == self.vectors.shape[1]:
            return torch.matmul(along / scale, self.vectors.T)
        elsewhere = (curvature * self.rest + l2[:, None])[:, :, None]
        return torch.matmul(along / scale - along / elsewhere, self.vectors.T) + gradient / elsewhere


def subspace(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues of ``XᵀX`` of rows ``[m F]``, ascending ``[count]``, and their vectors ``[F count]``.

    By subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4) from a seeded start: the last ones are
    approximate.
    """
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(rows.shape[1], count, generator=generator).to(rows)
    for _ in range(PASSES):
        basis = torch.linalg.qr(rows.T @ (rows @ basis)).Q
    projected = rows @ basis
    values, turn = torch.linalg.eigh(projected.T @ projected)
    return values.clamp_min(0), basis @ turn


def _counted(features: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Squared norms of centered rows, float64 ``[n]``, and the share of its curvature that each row counts with."""
    shift = mean.to(features.dtype)
    norms = torch.cat([(rows - shift).square_().sum(1) for rows in blocks(features)]).double()
    return norms, (HEAVY * norms.mean() / norms.clamp_min(TINY)).clamp_max(1)


def share_of_assumed(features: Tensor, curvature: Tensor) -> Tensor:
    """How much of the curvature that preconditioners of features ``[n F]`` assume there is, in all directions together.

    Args:
        curvature: of each row under each of G problems, relative to their mean, ``[G n]``.

    Returns:
        float64 ``[G]``, 1 where all rows have the same.
    """
    norms, counted = _counted(features, column_mean(features))
    share: Tensor = (curvature @ norms) / (norms @ counted).clamp_min(TINY)
    return share


def _variance(features: Tensor, mean: Tensor, counted: Tensor) -> Tensor:
    """The diagonal of A from all rows, float64 ``[F]``."""
    shift = mean.to(features.dtype)
    total = torch.zeros_like(mean)
    for rows, share in zip(blocks(features), blocks(counted), strict=True):
        total += (share.to(rows.dtype) @ (rows - shift).square_()).double()
    return total / len(features)


def _sample(norms: Tensor, counted: Tensor, size: int) -> tuple[Tensor | slice, Tensor]:
    """Which rows to use, about ``size``, and weights ``[m]`` such that ``Σ w (x - mean) (x - mean)ᵀ`` estimates A.

    The chance of a row is half uniform, half in proportion to its squared norm, and its weight the reciprocal, so the
    estimate is unbiased (Drineas, Kannan and Mahoney 2006). The rows are drawn systematically, without random numbers.
    """
    n = len(norms)
    if n < 2 * size:
        return slice(None), counted / n
    norms = norms * counted
    chance = (size * (norms / norms.sum().clamp_min(TINY) + 1 / n) / 2).clamp_max(1)
    picked = chance.cumsum(0).floor().diff(prepend=chance.new_zeros(1)) > 0
    return picked, (counted / chance / n)[picked]


def few_rows(features: Tensor) -> bool:
    """Whether features ``[n F]`` are best represented in the span of their rows."""
    n, F = features.shape
    return n < F and n <= LARGEST_WHOLE


class Span:
    """Coordinates of n rows in the space they span, for fewer rows than features.

    With centered rows ``X_c`` ``[n F]`` and ``X_c X_cᵀ = U Λ Uᵀ``, the columns of ``V = X_cᵀ U Λ^-½`` ``[F r]`` are an
    orthonormal basis of their span, and ``Z = X_c V = U Λ^½`` are the rows in that basis. A weight outside the span
    changes no logit and only adds to the penalty. A weight inside, ``W = V w``, has ``‖W‖ = ‖w‖``. So minimizing over
    ``w`` on Z is the same as minimizing over ``W`` on the features. The Gram matrix of Z is diagonal: its
    preconditioner is free, and exact.

    Attributes:
        coordinates: Z ``[n r]``, ``r < n``, with mean zero.
        preconditioner: of the coordinates.
    """

    def __init__(self, features: Tensor, mean: Tensor) -> None:
        """Features ``[n F]`` and their mean ``[F]``, float64."""
        n = len(features)
        # float64 throughout: in float32 the small eigenvalues, which a weak penalty divides by, would be noise
        total = torch.zeros(n, n, dtype=torch.float64, device=features.device)
        for columns, shift in zip(blocks(features.T), blocks(mean), strict=True):
            centered = columns.T.double() - shift
            total += centered @ centered.T
        values, vectors = torch.linalg.eigh(total)
        nonzero = values > n * torch.finfo(values.dtype).eps * values[-1].clamp_min(torch.finfo(features.dtype).tiny)
        self._exact = mean, values[nonzero], vectors[:, nonzero]
        self._take(features)

    def of(self, features: Tensor) -> Span:
        """The same span, for the same features in another precision: without solving for it again."""
        other = copy.copy(self)
        other._take(features)
        return other

    def weighted(self, curvature: Tensor) -> Span:
        """The same span, with a preconditioner that has the curvature of each row, relative to their mean, ``[n]``."""
        other = copy.copy(self)
        other.preconditioner = Preconditioner.of(self.coordinates, curvature=curvature)
        return other

    def _take(self, features: Tensor) -> None:
        mean, values, vectors = self._exact
        self.features, self.mean = features, mean.to(features.dtype)
        self.coordinates = (vectors * values.sqrt()).to(features.dtype)
        self._back = (vectors * values.rsqrt()).to(features.dtype)  # U Λ^-½
        self.preconditioner = Preconditioner((values / len(features)).to(features.dtype))

    def weight_of(self, coordinates: Tensor) -> Tensor:
        """Weights of the coordinates ``[G r C]`` -> weights of the features ``[G F C]``: ``V w``."""
        G, r, C = coordinates.shape
        shares = self._back @ coordinates.permute(1, 0, 2).reshape(r, G * C)
        flat = self.features.T @ shares - torch.outer(self.mean, shares.sum(0))
        weight: Tensor = flat.view(-1, G, C).permute(1, 0, 2)
        return weight

    def coordinates_of(self, weight: Tensor) -> Tensor:
        """Weights of the features ``[G F C]`` -> of the coordinates ``[G r C]``, with the same logits: ``Vᵀ W``."""
        G, F, C = weight.shape
        flat = weight.to(self.features).permute(1, 0, 2).reshape(F, G * C)  # one product reads the features once
        coordinates: Tensor = self._back.T @ (self.features @ flat - self.mean @ flat)
        return coordinates.view(-1, G, C).permute(1, 0, 2)

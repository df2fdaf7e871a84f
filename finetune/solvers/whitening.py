"""Whitening: principal components of features, each divided by its standard deviation.

With the covariance ``XᵀX/n = V Λ Vᵀ`` of centered features ``X`` ``[n F]``, the whitened features are
``(x - mean) V Λ^-½``: scikit-learn's ``PCA(whiten=True)``, up to the signs of the components. Distances and cosines
then count every direction the same, however much variance it has. Directions of little variance are mostly noise, so
only the first components are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from finetune.solvers.gram import column_mean, gram
from finetune.solvers.preconditioner import LARGEST_WHOLE, subspace

SPARE = 32  # directions beyond those that are asked for, which the subspace iteration needs to be accurate


class Whitening:
    """The map from features to their first whitened components.

    Attributes:
        mean: ``[F]``.
        directions: ``V Λ^-½``, ``[F d]``, the component of the largest variance first.
    """

    def __init__(self, mean: Tensor, directions: Tensor) -> None:
        self.mean, self.directions = mean, directions

    @classmethod
    def of(cls, features: Tensor, components: int) -> Whitening:
        """Of features ``[n F]``: as many components as asked for, or as the features have directions that vary.

        Exact where rows or features are at most 4,096; of larger matrices by subspace iteration from a seeded start.
        """
        n, F = features.shape
        mean = column_mean(features)
        if n < F and n <= LARGEST_WHOLE:  # the products of rows have the same eigenvalues, and are fewer
            rows = features.double() - mean
            values, vectors = torch.linalg.eigh(rows @ rows.T / n)
            vectors = rows.T @ vectors / (n * values.clamp_min(0)).sqrt()
        elif F <= LARGEST_WHOLE:
            values, vectors = torch.linalg.eigh(gram(features, mean))
        else:
            rows = features - mean.to(features.dtype)
            values, vectors = subspace(rows / n**0.5, min(components + SPARE, n, F))
        limit = values[-1] * max(n, F) * torch.finfo(features.dtype).eps  # what rounding makes of no variance at all
        kept = (values > limit).nonzero().squeeze(1).flip(0)[:components]
        directions = vectors[:, kept] / values[kept].sqrt()
        return cls(mean.to(features.dtype), directions.to(features.dtype))

    def first(self, components: int) -> Whitening:
        """Fewer components of the same features."""
        return Whitening(self.mean, self.directions[:, :components])

    def apply(self, features: Tensor) -> Tensor:
        """Features ``[m F]`` -> whitened components ``[m d]``."""
        return (features - self.mean) @ self.directions

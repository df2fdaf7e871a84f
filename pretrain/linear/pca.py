"""Principal component analysis from moments: the linear code with the least squared error.

    minimize over V [d h] with VᵀV = I   E ‖ (x - m) - V Vᵀ (x - m) ‖²     =>     C V = V Λ,   C = cov(x)

with the h largest eigenvalues λ (Pearson 1901; Hotelling 1933). Whitened codes are divided by √λ, so that each has
variance 1, and multiplied by it for decoding: the reconstruction is the same.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from common.data import Images
from common.engine.learner import StepResult
from pretrain.linear.base import user_errors
from pretrain.linear.eigen import leading
from pretrain.linear.moments import Moments, check_rows
from pretrain.linear.projection import ProjectedMethod, Projection, ProjectionLearner, check_components, signs


def pca(moments: Moments, components: int, *, whiten: bool = False) -> Projection:
    """Fit the ``components`` directions of largest variance, largest first.

    Each direction's loading of largest magnitude is positive. ``whiten``: codes of variance 1 (sample variance,
    divided by count - 1), for which the rows must vary in every requested direction.

    Raises:
        ValueError: more components than ``min(count - 1, d)``; rows that do not vary, or, with ``whiten``, vary in
            fewer directions than requested.
    """
    n, d = moments.count, moments.columns
    check_components(components, min(n - 1, d), f"{n} rows of {d} columns")
    covariance = moments.covariance()
    values, directions = leading(covariance, components)
    values = values.clamp_min(0)
    floor = d * torch.finfo(values.dtype).eps * values[0]  # below this an eigenvalue is a rounding error of larger ones
    rank = int((values > floor).sum())
    if rank == 0:
        raise ValueError(f"all {n} rows are the same: there is no variance to keep")
    directions = directions * signs(directions)[:, None]
    scale = torch.ones_like(values)
    if whiten:
        if components > rank:
            raise ValueError(f"components is {components}, but the rows vary in only {rank} directions: cannot whiten")
        scale = values.sqrt()
    return Projection(
        mean=moments.mean,
        weight=(directions / scale[:, None]).contiguous(),
        back=(directions.T * scale).contiguous(),
        explained=values / covariance.trace(),
    )


def whitened_codes(rows: Tensor, components: int) -> Tensor:
    """The whitened PCA codes of rows ``[n d]``, fitted on the same rows, ``[n h]``, float64, up to the columns' signs.

    With centered rows ``X = U Σ Rᵀ`` they are ``√(n - 1) U``, and ``X Xᵀ = U Σ² Uᵀ`` is ``[n n]``, however large d is.
    There are ``components`` columns, or fewer if the rows vary in fewer directions.

    Raises:
        ValueError: rows that are not finite ``[n d]``, or that do not vary.
    """
    check_rows(rows, "rows")
    x = rows.double()
    x = x - x.mean(0)
    values, basis = leading(x @ x.T, min(components, len(x)))
    floor = max(x.shape) * torch.finfo(values.dtype).eps * values[0]
    rank = int((values > floor).sum())
    if rank == 0:
        raise ValueError(f"all {len(rows)} rows are the same: there is no variance to keep")
    codes: Tensor = basis[: min(components, rank)].T * (len(rows) - 1) ** 0.5
    return codes


# ---- the method


class Pca(ProjectedMethod):
    """Principal components: the projection that keeps the most variance. One pass, float64 moments."""

    kind: Literal["pca"] = "pca"
    one_pass: ClassVar[bool] = True
    whiten: bool = False
    """Scale every component to variance 1."""

    @property
    def learner(self) -> type[PcaLearner]:
        return PcaLearner


class PcaLearner(ProjectionLearner):
    """Accumulates moments, and solves the problem at the end."""

    method: Pca

    moments: Moments

    def attach(self, images: Images, other: Images | None = None) -> None:
        super().attach(images, other)
        # only now is it known that a matrix of this size fits into memory
        self.statistics = self.moments = Moments(self.encoder.dimension, self.world.device)

    def learn(self, images: Tensor, step: int, index: Tensor) -> StepResult:
        # the stream continues into the next epoch: count no image twice
        self.moments.add(self.rows(images)[: max(0, len(self.images) - self.moments.count)])
        return StepResult({}, {})

    def finish(self) -> None:
        if self.settled:  # in the checkpoint of a finished run
            return
        with user_errors(self.method):
            self.settle(pca(self.moments, self.method.components, whiten=self.method.whiten))

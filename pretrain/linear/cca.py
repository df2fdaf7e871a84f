"""Canonical correlation analysis: two linear codes, one per view, with maximum correlation.

    maximize over A, B   tr(Aᵀ Cxy B)    subject to   Aᵀ (Cxx + rx I) A = Bᵀ (Cyy + ry I) B = I

(Hotelling 1936, "Relations between two sets of variates"; the ridge r is Vinod's, 1976). With Cholesky factors
``Cxx + rx I = Lx Lxᵀ`` and ``Cyy + ry I = Ly Lyᵀ``, the singular value decomposition ``Lx⁻¹ Cxy Ly⁻ᵀ = U ρ Vᵀ`` gives
``A = Lx⁻ᵀ U`` and ``B = Ly⁻ᵀ V``. The ridge is in units of a view's mean variance, r = ridge · tr(C) / d, so it
does not depend on the scale of the rows. Without a ridge, as many columns as rows give correlations of 1 in pure noise.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from common.corruptions import AnyCorruption, Gaussian
from common.data import Images
from common.engine.learner import StepResult
from common.pixels import to_float
from pretrain.linear.base import user_errors
from pretrain.linear.moments import CrossMoments
from pretrain.linear.projection import ProjectedMethod, Projection, ProjectionLearner, check_components, signs
from pretrain.method import Second


def cca(moments: CrossMoments, components: int, *, ridge: float = 1e-3) -> tuple[Projection, Projection, Tensor]:
    """Fit ``components`` pairs of directions, most correlated first.

    Returns:
        The projections of the first and the second view, and ρ ``[h]`` in 0..1, descending: the correlations of the
        regularized problem. With ``ridge=0`` they equal the correlations of the codes. Otherwise they are at most as
        large, and the codes have variances just below 1. The largest loading of each direction of the first view is
        positive.

    Raises:
        ValueError: more components than ``min(count - 1, d1, d2)``, a negative ridge, a view that does not vary, or,
            without a ridge, a view whose covariance is singular.
    """
    n, d1, d2 = moments.count, moments.columns_x, moments.columns_y
    check_components(components, min(n - 1, d1, d2), f"{n} pairs of {d1} and {d2} columns")
    if not (ridge >= 0 and math.isfinite(ridge)):
        raise ValueError(f"ridge must be at least 0, got {ridge}")
    cxx, cxy, cyy = moments.covariance()
    lower_x, lower_y = _cholesky(cxx, ridge, "first"), _cholesky(cyy, ridge, "second")
    inner = torch.linalg.solve_triangular(lower_x, cxy, upper=False)  # Lx⁻¹ Cxy
    inner = torch.linalg.solve_triangular(lower_y, inner.T, upper=False).T  # Lx⁻¹ Cxy Ly⁻ᵀ
    left, correlations, right = torch.linalg.svd(inner, full_matrices=False)
    weight_x = torch.linalg.solve_triangular(lower_x.T, left[:, :components], upper=True).T  # [h d1]
    weight_y = torch.linalg.solve_triangular(lower_y.T, right[:components].T, upper=True).T  # [h d2]
    sign = signs(weight_x)[:, None]  # one sign per pair: otherwise the codes would be anticorrelated
    x = _projection(moments.mean_x, cxx, weight_x * sign)
    y = _projection(moments.mean_y, cyy, weight_y * sign)
    return x, y, correlations[:components].clamp(0, 1)


def _cholesky(covariance: Tensor, ridge: float, view: str) -> Tensor:
    """Lower factor of ``C + ridge · tr(C)/d · I``, ``[d d]``."""
    d = len(covariance)
    strength = covariance.diagonal().mean()
    if not strength > 0:
        raise ValueError(f"the {view} view does not vary: all its rows are the same")
    lower: Tensor
    lower, failed = torch.linalg.cholesky_ex(covariance + ridge * strength * torch.eye(d).to(covariance))
    pivots = lower.diagonal().square()
    if int(failed) or pivots.min() <= d * torch.finfo(pivots.dtype).eps * pivots.max():
        raise ValueError(
            f"the covariance of the {view} view is singular: its {d} columns depend on each other, or there are too "
            f"few rows; raise the ridge (now {ridge:g})"
        )
    return lower


def _projection(mean: Tensor, covariance: Tensor, weight: Tensor) -> Projection:
    """The weight ``[h d]`` with its least-squares inverse map, ``C Wᵀ (W C Wᵀ)⁻¹`` ``[d h]``."""
    cross = covariance @ weight.T  # cov(x, code), [d h]
    inner = weight @ cross  # cov(code, code)
    # a pseudo-inverse: with a ridge, directions without any variance can be requested
    back = cross @ torch.linalg.pinv(inner, hermitian=True)
    alone = cross.square().sum(0) / inner.diagonal().clamp_min(torch.finfo(inner.dtype).tiny)
    return Projection(mean.clone(), weight.contiguous(), back, alone / covariance.diagonal().sum())


# ---- the method


class Cca(ProjectedMethod):
    """Canonical correlations of two views: what one view predicts about the other. One pass, float64 moments."""

    kind: Literal["cca"] = "cca"
    one_pass: ClassVar[bool] = True
    moment_views: ClassVar[int] = 2
    views: Literal["damage", "neighbors", "other"] = "damage"
    """An image and itself damaged; two adjacent patches of images of twice the size; or the same row of data.other."""
    damage: AnyCorruption = Gaussian()
    ridge: float = Field(default=1e-3, ge=0, le=1e6)
    """Added to each view's covariance, relative to its mean variance."""

    @model_validator(mode="after")
    def _damage_is_used(self) -> Self:
        if self.views != "damage" and self.damage != Gaussian():
            raise ValueError(f"damage needs views=damage, not views={self.views}: remove it")
        return self

    @property
    def second(self) -> Second:
        return "view" if self.views == "other" else "none"

    @property
    def needs(self) -> str:
        return "fit.views=other needs {other}, the second view" if self.views == "other" else ""

    def check(self, image_size: int, images: int) -> list[str]:
        damage = self.damage.check(image_size) if self.views == "damage" else []
        return [*(f"fit.damage: {problem}" for problem in damage), *super().check(image_size, images)]

    def loaded_size(self, image_size: int) -> int:
        return 2 * image_size if self.views == "neighbors" else image_size

    @property
    def learner(self) -> type[CcaLearner]:
        return CcaLearner


class CcaLearner(ProjectionLearner):
    """Accumulates moments of pairs, and solves the problem at the end."""

    method: Cca

    moments: CrossMoments

    def attach(self, images: Images, other: Images | None = None) -> None:
        super().attach(images, other)
        # only now is it known that a matrix of this size fits into memory
        self.statistics = self.moments = CrossMoments(self.encoder.dimension, self.encoder.dimension, self.world.device)

    def learn(self, images: Tensor, step: int, index: Tensor) -> StepResult:
        left = max(0, len(self.images) - self.moments.count)
        x, y = self.views(images, index)
        self.moments.add(self.rows(x)[:left], self.rows(y)[:left])
        return StepResult({}, {})

    def views(self, images: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """A batch as pairs; random draws come from torch's global generators, seeded by (seed, step)."""
        if self.method.views == "damage":
            return images, self.method.damage(images)
        if self.other is not None:
            return images, to_float(self.other.rows(index).to(images.device))
        side = self.encoder.image_size
        row = int(torch.randint(0, side + 1, ()))  # images are twice the side: any band of them holds one pair
        band = images[:, :, row : row + side]
        return band[..., :side], band[..., side:]

    def finish(self) -> None:
        if self.settled:  # in the checkpoint of a finished run
            return
        with user_errors(self.method):
            own, _, _ = cca(self.moments, self.method.components, ridge=self.method.ridge)
        self.settle(own)

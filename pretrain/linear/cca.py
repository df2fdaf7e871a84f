"""Canonical correlation analysis: two linear codes, one a view, as alike as can be.

    maximise over A, B   tr(Aᵀ Cxy B)    subject to   Aᵀ (Cxx + rx I) A = Bᵀ (Cyy + ry I) B = I

(Hotelling 1936, "Relations between two sets of variates"; the ridge r is Vinod's, 1976). With Cholesky factors
``Cxx + rx I = Lx Lxᵀ`` and ``Cyy + ry I = Ly Lyᵀ``, the singular value decomposition ``Lx⁻¹ Cxy Ly⁻ᵀ = U ρ Vᵀ`` gives
``A = Lx⁻ᵀ U`` and ``B = Ly⁻ᵀ V``. The ridge is in units of a view's mean variance, r = ridge · tr(C) / d, so that it
means the same for rows of any scale; without one, as many columns as rows find correlations of 1 in pure noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from common.augment import AugmentConfig
from common.corruptions import AnyCorruption, Gaussian
from common.data import Images
from common.encoders import Encoder
from common.engine.learner import StepResult
from common.errors import UserError
from common.machine.distributed import World
from common.pixels import to_float
from pretrain.linear.base import user_errors
from pretrain.linear.moments import CrossMoments
from pretrain.linear.projection import ProjectedMethod, Projection, ProjectionLearner, check_components, signs
from pretrain.method import Second


def cca(moments: CrossMoments, components: int, *, ridge: float = 1e-3) -> tuple[Projection, Projection, Tensor]:
    """Fit ``components`` pairs of directions, most correlated first.

    Returns:
        The projection of the first view, that of the second, and ρ ``[h]`` in 0..1, descending: the correlations of the
        problem as it was solved, ridge included. With ``ridge=0`` they are the correlations of the codes; otherwise
        they are at most that, and the codes have variances just below 1. The largest loading of each direction of the
        first view is positive.

    Raises:
        ValueError: more components than ``min(count - 1, d1, d2)``, a negative ridge, a view that does not vary, or,
            without a ridge, a view whose covariance has no inverse.
    """
    n, d1, d2 = moments.count, moments.columns_x, moments.columns_y
    check_components(components, min(n - 1, d1, d2), f"{n} pairs of {d1} and {d2} columns")
    if not (ridge >= 0 and math.isfinite(ridge)):
        raise ValueError(f"ridge must be 0 or more, not {ridge}")
    cxx, cxy, cyy = moments.covariance()
    lower_x, lower_y = _cholesky(cxx, ridge, "first"), _cholesky(cyy, ridge, "second")
    inner = torch.linalg.solve_triangular(lower_x, cxy, upper=False)  # Lx⁻¹ Cxy
    inner = torch.linalg.solve_triangular(lower_y, inner.T, upper=False).T  # Lx⁻¹ Cxy Ly⁻ᵀ
    left, correlations, right = torch.linalg.svd(inner, full_matrices=False)
    weight_x = torch.linalg.solve_triangular(lower_x.T, left[:, :components], upper=True).T  # [h d1]
    weight_y = torch.linalg.solve_triangular(lower_y.T, right[:components].T, upper=True).T  # [h d2]
    sign = signs(weight_x)[:, None]  # one sign a pair, or the codes would be anticorrelated
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
            f"the covariance of the {view} view has no inverse: its {d} columns depend on each other, or rows are too "
            f"few; a ridge (now {ridge:g}) gives it one"
        )
    return lower


def _projection(mean: Tensor, covariance: Tensor, weight: Tensor) -> Projection:
    """The weight ``[h d]`` with its least-squares way back, ``C Wᵀ (W C Wᵀ)⁻¹`` ``[d h]``."""
    cross = covariance @ weight.T  # cov(x, code), [d h]
    inner = weight @ cross  # cov(code, code)
    # a pseudo-inverse, for with a ridge a direction in which nothing varies may be asked for
    back = cross @ torch.linalg.pinv(inner, hermitian=True)
    alone = cross.square().sum(0) / inner.diagonal().clamp_min(torch.finfo(inner.dtype).tiny)
    return Projection(mean.clone(), weight.contiguous(), back, alone / covariance.diagonal().sum())


# ---- the method


class Cca(ProjectedMethod):
    """Canonical correlations of two views: what of one can be told from the other. One pass, float64 moments.

    Attributes:
        views: ``damage``: an image and the same image damaged; ``neighbours``: two patches side by side, cut from
            images of twice the size; ``other``: the row of the same number in the second source (``data.other``).
        damage: of the second view.
        ridge: added to each view's covariance, relative to its mean variance.
    """

    kind: Literal["cca"] = "cca"
    one_pass: ClassVar[bool] = True
    moment_views: ClassVar[int] = 2
    views: Literal["damage", "neighbours", "other"] = "damage"
    damage: AnyCorruption = Gaussian()
    ridge: float = Field(default=1e-3, ge=0)

    @model_validator(mode="after")
    def _damage_is_used(self) -> Self:
        if self.views != "damage" and self.damage != Gaussian():
            raise ValueError(f"damage is for views=damage, not views={self.views}: leave it out")
        return self

    @property
    def second(self) -> Second:
        return "view" if self.views == "other" else "none"

    @property
    def needs(self) -> str:
        return "fit.views=other needs {other}, the second view" if self.views == "other" else ""

    def loaded_size(self, image_size: int) -> int:
        return 2 * image_size if self.views == "neighbours" else image_size

    @property
    def learner(self) -> type[CcaLearner]:
        return CcaLearner


class CcaLearner(ProjectionLearner):
    """Gathers moments of pairs, and solves them at the end."""

    method: Cca

    def __init__(self, encoder: Encoder, method: Cca, augment: AugmentConfig, world: World, seed: int) -> None:
        super().__init__(encoder, method, augment, world, seed)
        self.moments = CrossMoments(self.encoder.dimension, self.encoder.dimension, world.device)

    def attach(self, images: Images, other: Images | None = None) -> None:
        super().attach(images, other)
        self._check_pairs()

    def learn(self, images: Tensor, step: int, index: Tensor) -> StepResult:
        left = max(0, len(self.images) - self.moments.count)
        x, y = self.views(images, index)
        self.moments.add(self.rows(x)[:left], self.rows(y)[:left])
        return StepResult({}, {})

    def views(self, images: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """A batch as pairs; draws from torch's global generators, which are a function of (seed, step)."""
        if self.method.views == "damage":
            return images, self.method.damage(images)
        if self.other is not None:
            partners = self.other.rows(index)
            self._check_pairs()  # images that are decoded only now
            return images, to_float(partners.to(images.device))
        side = self.encoder.image_size
        row = int(torch.randint(0, side + 1, ()))  # images are twice the side: any band of them holds one pair
        band = images[:, :, row : row + side]
        return band[..., :side], band[..., side:]

    def _check_pairs(self) -> None:
        """Refuse pairs of which an image, as far as known, cannot be read: another would take its place."""
        if self.other is not None and (self.images.unreadable or self.other.unreadable):
            raise UserError(
                f"fit.views=other pairs rows, but an image of {self.images.source.spec} or {self.other.source.spec} "
                "cannot be read: remove it and its partner"
            )

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        return {**super().tensors(), "moments": self.moments.state()}

    def restore(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        super().restore(groups)
        self.moments.load(dict(groups["moments"]))

    def finish(self) -> None:
        with user_errors(self.method):
            own, _, _ = cca(self.moments, self.method.components, ridge=self.method.ridge)
        self.settle(own)

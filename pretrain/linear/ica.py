"""Independent component analysis: the rotation of a whitened code that makes its components least Gaussian.

    maximize over orthogonal R [h h]   Σ_k ( E[ G(r_k · z) ] - E[ G(ν) ] )²,   G(u) = log cosh u,   ν ~ N(0, 1)

where z is the whitened PCA code of a bounded sample of rows: FastICA, all components at once (Hyvärinen 1999, "Fast
and robust fixed-point algorithms for independent component analysis"), in scikit-learn's implementation.

Whitening uses our own PCA, not scikit-learn's. That one fixes signs with ``u *= sign(u[0])``, which sets components to
zero if the first column is constant, as a border pixel can be (its faster solver then returns NaN, seen with 1.9). And
it divides by rounding errors if rows vary in too few directions.
"""

from __future__ import annotations

import logging
import math
import warnings
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from common.config import MANY
from pretrain.linear.base import SampledMethod, SampleLearner, user_errors
from pretrain.linear.moments import Moments, check_rows
from pretrain.linear.pca import pca
from pretrain.linear.projection import ProjectedMethod, Projection, ProjectionLearner, check_components, signs

log = logging.getLogger("retouch")


def ica(rows: Tensor, components: int, *, seed: int, max_steps: int = 200, tolerance: float = 1e-4) -> Projection:
    """Fit ``components`` independent components to rows ``[n d]``; codes have variance 1 (population) on those rows.

    The same rows, seed and thread count give the same components. They come in no particular order, as in
    scikit-learn, but each row of ``back.T`` (the mixing matrix) has its entry of largest magnitude positive. If
    ``max_steps`` do not reach ``tolerance`` (the largest change of a direction, 1 - cosine), ``shortfall`` says so.

    Raises:
        ValueError: rows that are not finite ``[n d]``, more components than ``min(n - 1, d)`` or than the directions
            in which rows vary, or a setting that is not positive.
    """
    from sklearn.decomposition import FastICA  # takes a second to import
    from sklearn.exceptions import ConvergenceWarning

    check_rows(rows, "rows")
    n, d = rows.shape
    check_components(components, min(n - 1, d), f"{n} rows of {d} columns")
    if max_steps < 1 or not tolerance > 0:
        raise ValueError(f"max_steps and tolerance must be positive, got {max_steps} and {tolerance}")
    moments = Moments(d, rows.device)
    moments.add(rows)
    white = pca(moments, components, whiten=True)
    scale = math.sqrt(n / (n - 1))  # FastICA assumes E[z²] = 1 over the rows; PCA divides by n - 1
    fitted = FastICA(whiten=False, max_iter=max_steps, tol=tolerance, random_state=seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted.fit((white.encode(rows) * scale).cpu().numpy())
    shortfall = ""
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            shortfall = (
                f"ICA stopped after {max_steps} steps without converging to a tolerance of {tolerance:g}; use more "
                "steps, fewer components or more rows"
            )
        else:
            log.warning("ICA: %s", warning.message)
    rotation = torch.from_numpy(fitted.components_).to(white.mean)  # [h h], orthogonal: its transpose is its inverse
    back = white.back @ rotation.T / scale
    sign = signs(back.T)
    total = moments.covariance().diagonal().sum() * (n - 1) / n
    return Projection(
        mean=white.mean,
        weight=sign[:, None] * (rotation @ white.weight) * scale,
        back=back * sign,
        explained=back.square().sum(0) / total,
        shortfall=shortfall,
    )


# ---- the method


class Ica(SampledMethod, ProjectedMethod):
    """Independent components, by scikit-learn's FastICA on a bounded sample; a resumed run fits them again."""

    kind: Literal["ica"] = "ica"
    sample: int = Field(default=20_000, ge=2, le=MANY)
    """Largest number of images to fit on, drawn at random with the seed."""
    max_steps: int = Field(default=200, gt=0, le=MANY)
    """Largest number of iterations of FastICA."""
    tolerance: float = Field(default=1e-4, ge=1e-12, le=1)
    """Change of the components at which FastICA stops."""

    def sample_rows(self, images: int, seed: int) -> Tensor:
        drawn = torch.randperm(images, generator=torch.Generator().manual_seed(seed))[: self.sample]
        return drawn.sort().values  # in the source's order, which is faster to read

    def check(self, image_size: int, images: int) -> list[str]:
        if self.sample < images and self.sample <= self.components:
            problem = f"fit.components={self.components} needs more images than fit.sample={self.sample}: raise it"
            return [problem, *super().check(image_size, images)]
        return super().check(image_size, images)

    @property
    def learner(self) -> type[IcaLearner]:
        return IcaLearner


class IcaLearner(SampleLearner, ProjectionLearner):
    """Fits everything on its sample, without steps."""

    method: Ica

    def initialize(self, sample: Tensor) -> None:
        fit, rows = self.method, self.rows(sample)
        with user_errors(fit):
            self.settle(ica(rows, fit.components, seed=self.seed, max_steps=fit.max_steps, tolerance=fit.tolerance))

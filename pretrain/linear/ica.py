"""Independent component analysis: the rotation of a whitened code whose components are least Gaussian.

    maximise over orthogonal R [h h]   Σ_k ( E[ G(r_k · z) ] - E[ G(ν) ] )²,   G(u) = log cosh u,   ν ~ N(0, 1)

where z is the PCA code, whitened, of a bounded sample of rows: FastICA, all components at once (Hyvärinen 1999, "Fast
and robust fixed-point algorithms for independent component analysis"), in scikit-learn's implementation.

Whitening is our own PCA, not scikit-learn's: that one fixes signs by ``u *= sign(u[0])``, which multiplies components
by zero where the first column never varies, as a border pixel may not (its quicker solver then ends in NaN, seen with
1.9), and it divides by rounding errors where rows vary in too few directions.
"""

from __future__ import annotations

import logging
import math
import warnings
from typing import Literal

import torch
from pydantic import Field
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from pretrain.linear.base import SampleLearner, user_errors
from pretrain.linear.moments import Moments, check_rows
from pretrain.linear.pca import pca
from pretrain.linear.projection import ProjectedMethod, Projection, ProjectionLearner, check_components, signs

log = logging.getLogger("retouch")


def ica(rows: Tensor, components: int, *, seed: int, max_steps: int = 200, tolerance: float = 1e-4) -> Projection:
    """Fit ``components`` independent components to rows ``[n d]``; codes have variance 1 (population) on those rows.

    The same rows, seed and thread count give the same components. They come in no particular order, as in
    scikit-learn, but each row of ``back.T`` (the mixing matrix) has its entry of largest magnitude positive. Where
    ``max_steps`` do not reach ``tolerance`` (the largest change of a direction, 1 - cosine), a warning is logged.

    Raises:
        ValueError: rows that are not finite ``[n d]``, more components than ``min(n - 1, d)`` or than the directions
            in which rows vary, or a setting that is not positive.
    """
    check_rows(rows, "rows")
    n, d = rows.shape
    check_components(components, min(n - 1, d), f"{n} rows of {d} columns")
    if max_steps < 1 or not tolerance > 0:
        raise ValueError(f"max_steps and tolerance must be positive, not {max_steps} and {tolerance}")
    moments = Moments(d, rows.device)
    moments.add(rows)
    white = pca(moments, components, whiten=True)
    scale = math.sqrt(n / (n - 1))  # FastICA's derivation wants E[z²] = 1 over the rows; PCA divides by n - 1
    fitted = FastICA(whiten=False, max_iter=max_steps, tol=tolerance, random_state=seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted.fit((white.encode(rows) * scale).cpu().numpy())
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            log.warning(
                "ICA stopped after %d steps before its directions settled to %g; more steps, fewer components or more "
                "rows help",
                max_steps,
                tolerance,
            )
        else:
            log.warning("ICA: %s", warning.message)
    rotation = torch.from_numpy(fitted.components_).to(white.mean)  # [h h], orthogonal: its transpose goes back
    back = white.back @ rotation.T / scale
    sign = signs(back.T)
    total = moments.covariance().diagonal().sum() * (n - 1) / n
    return Projection(
        mean=white.mean,
        weight=sign[:, None] * (rotation @ white.weight) * scale,
        back=back * sign,
        explained=back.square().sum(0) / total,
    )


# ---- the method


class Ica(ProjectedMethod):
    """Independent components, by scikit-learn's FastICA on a bounded sample; a resumed run fits it again.

    Attributes:
        sample: images it is fitted on at most, drawn at random by the seed.
    """

    kind: Literal["ica"] = "ica"
    sample: int = Field(default=20_000, ge=2)
    max_steps: int = Field(default=200, gt=0)
    tolerance: float = Field(default=1e-4, gt=0)

    @property
    def streams(self) -> bool:
        return False

    @property
    def sampled(self) -> int:
        return self.sample

    def sample_rows(self, images: int, seed: int) -> Tensor:
        drawn = torch.randperm(images, generator=torch.Generator().manual_seed(seed))[: self.sample]
        return drawn.sort().values  # in the source's order, which reads quicker

    def check(self, image_size: int, images: int) -> list[str]:
        if self.sample < images and self.sample <= self.components:
            return [f"fit.components={self.components}: it takes more images than fit.sample={self.sample}; raise it"]
        return super().check(image_size, images)

    @property
    def learner(self) -> type[IcaLearner]:
        return IcaLearner


class IcaLearner(SampleLearner, ProjectionLearner):
    """Is done once it has seen its sample."""

    method: Ica

    def initialise(self, sample: Tensor) -> None:
        fit, rows = self.method, self.rows(sample)
        with user_errors(fit):
            self.settle(ica(rows, fit.components, seed=self.seed, max_steps=fit.max_steps, tolerance=fit.tolerance))

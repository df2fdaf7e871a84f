"""Transfer component analysis as an encoder: a kernel code in which two domains look alike."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from common.augment import AugmentConfig
from common.corruptions import AnyCorruption
from common.data.rows import even_rows
from common.encoders import Encoder, EncoderConfig
from common.encoders.kernel import KernelCode
from common.engine.schedule import seed_step
from common.errors import UserError
from common.machine.distributed import World
from common.solvers.kernels import Kernel, kernel_rows
from pretrain.linear.base import LinearMethod, SampleLearner, user_errors
from pretrain.linear.pca import whitened_codes
from pretrain.linear.tca import KernelProjection, maximum_mean_discrepancy, median_width, tca
from pretrain.method import Second

log = logging.getLogger("retouch")

KERNEL_PCA = 1e6  # a μ at which domains do not matter
COMPARED = 1000  # images of each domain whose codes are compared


class Tca(LinearMethod):
    """Pan et al. 2011, in the span of ``landmarks`` images, half of them from each domain.

    Attributes:
        damage: makes the second domain of the first, or changes ``data.other`` where that is given too.
        sample: images of each domain it is fitted on.
        width: of the RBF kernel; the median distance between landmarks where it is not given.
        mu: weight of the penalty, relative to the squared gap between the domains' mean kernel features: small, and the
            domains must agree; large, and it is kernel PCA.
    """

    kind: Literal["tca"] = "tca"
    components: int = Field(default=16, ge=1, le=1 << 14)
    landmarks: int = Field(default=1000, ge=4, le=1 << 14)
    sample: int = Field(default=5000, ge=2)
    kernel: Kernel = "rbf"
    width: float | None = Field(default=None, gt=0)
    mu: float = Field(default=1e-4, gt=0)
    damage: AnyCorruption | None = None

    @property
    def streams(self) -> bool:
        return False

    @property
    def sampled(self) -> int:
        return self.sample

    @property
    def second(self) -> Second:
        return "domain"

    @property
    def needs(self) -> str:
        return "" if self.damage else "fit.kind=tca needs a second domain: {other}, or fit.damage of the first"

    @model_validator(mode="after")
    def _in_the_span_of_landmarks(self) -> Self:
        if self.components > (most := 2 * (self.landmarks // 2)):
            raise ValueError(f"components {self.components} is more than there are landmarks ({most}): lower it")
        return self

    def check(self, image_size: int, images: int) -> list[str]:
        half, there = self.landmarks // 2, min(images, self.sample)
        if self.sample < half <= images:
            return [
                f"fit.landmarks={self.landmarks} takes {half:,} images of each domain; raise fit.sample={self.sample}"
            ]
        if there < half:
            return [
                f"fit.landmarks={self.landmarks} takes {half:,} images of each domain; there are {there:,}: lower it"
            ]
        return []

    def encoder_config(self) -> EncoderConfig:
        args = {"code": self.components, "landmarks": 2 * (self.landmarks // 2), "kernel": self.kernel}
        return EncoderConfig(name="kernel", model_args=args | ({"width": self.width} if self.width else {}))

    @property
    def learner(self) -> type[TcaLearner]:
        return TcaLearner


class TcaLearner(SampleLearner):
    """Is done once it has seen a sample of each domain."""

    encoder: KernelCode
    method: Tca

    def __init__(self, encoder: Encoder, method: Tca, augment: AugmentConfig, world: World, seed: int) -> None:
        super().__init__(encoder, method, augment, world, seed)
        self._discrepancy: dict[str, float] = {}

    @property
    def discrepancy(self) -> dict[str, float]:
        return self._discrepancy

    def second_domain(self) -> Tensor:
        """A sample of the second source, or of the first, as its damage makes it: ``[N 3 S S]`` in [0, 1]."""
        images = self.sample(self.other or self.images)
        if self.method.damage is None:
            return images
        seed_step(self.seed, 0)
        return self.method.damage(images)

    def initialise(self, sample: Tensor) -> None:
        fit, encoder, other = self.method, self.encoder, self.second_domain()
        encoder.fit_centre(torch.cat([sample, other]))
        source, target = encoder.vectors(sample).double(), encoder.vectors(other).double()
        half = fit.landmarks // 2
        if problems := fit.check(encoder.image_size, min(len(source), len(target))):
            raise UserError(*problems)
        landmarks = torch.cat([spread(source, half), spread(target, half)])
        width = fit.width
        if width is None and fit.kernel == "rbf":
            with user_errors(fit):
                width = median_width(landmarks)
        gap = mean_gap(source, target, landmarks, fit.kernel, width)

        def fitted_at(mu: float) -> KernelProjection:
            scaled = mu * max(gap, 1e-12)
            return tca(source, target, landmarks, fit.components, kernel=fit.kernel, width=width, mu=scaled)

        with user_errors(fit):
            fitted = fitted_at(fit.mu)
        args = encoder.args.model_copy(update={"width": width or encoder.args.width})
        encoder.args = args
        encoder.config = encoder.config.model_copy(update={"model_args": args.model_dump()})
        encoder.landmarks.copy_(fitted.landmarks)
        encoder.weight.copy_(fitted.weight)
        encoder.shift.copy_(fitted.shift)
        # beside it what asks for variance only; all have components of variance 1
        a, b = spread(source, COMPARED), spread(target, COMPARED)
        codes: dict[str, Callable[[Tensor], Tensor]] = {
            "pixels": lambda rows: rows,
            # of the compared rows alone: moments of all rows would be d x d, and d grows with the images' area
            "pca": lambda rows: whitened_codes(rows, fit.components),
            "kernel_pca": lambda rows: fitted_at(KERNEL_PCA).apply(rows),
            "tca": fitted.apply,
        }
        for name, code in codes.items():
            try:
                both = code(torch.cat([a, b]))
                self._discrepancy[name] = maximum_mean_discrepancy(both[: len(a)], both[len(a) :])
            except ValueError as error:  # a comparison that these images do not allow; the fit stands without it
                log.warning("no discrepancy of %s: %s", name, error)
        log.info(
            "maximum mean discrepancy of the two domains: %s",
            ", ".join(f"{name} {value:.4f}" for name, value in self._discrepancy.items()),
        )


def mean_gap(source: Tensor, target: Tensor, landmarks: Tensor, kernel: Kernel, width: float | None) -> float:
    """``‖δ‖²``: the squared distance of the domains' mean kernel features; rows ``[n d]``, float64."""
    means = [
        torch.stack([kernel_rows(rows, landmarks, kernel, width).sum(0) for rows in torch.split(domain, 1024)]).sum(0)
        / len(domain)
        for domain in (source, target)
    ]
    return float((means[0] - means[1]).square().sum())


def spread(rows: Tensor, count: int) -> Tensor:
    """At most ``count`` of the rows, evenly spread."""
    return rows[even_rows(len(rows), count).to(rows.device)]

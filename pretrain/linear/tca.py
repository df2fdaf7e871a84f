"""Transfer component analysis: a kernel code that aligns two domains and keeps their variance.

Over all n = n1 + n2 rows, source first, with kernel matrix K, centring H = I - 11ᵀ/n, and L = e eᵀ, where e is 1/n1 on
source rows and -1/n2 on target rows, so that tr(Wᵀ K L K W) is the squared distance between the domains' mean codes,

    minimize over W [n h]   tr(Wᵀ K L K W) + μ tr(WᵀW)    subject to   Wᵀ K H K W = I

The solutions are the leading eigenvectors of (K L K + μ I)⁻¹ K H K (Pan, Tsang, Kwok, Yang 2011, "Domain adaptation
via transfer component analysis"). That costs n² memory and n³ time. Here codes are restricted to combinations of m
landmarks (the subset of regressors): with Φ = k(rows, landmarks) [n m] and A [m h],

    minimize over A   tr(Aᵀ Φᵀ L Φ A) + μ tr(AᵀA)    subject to   Aᵀ Φᵀ H Φ A = I

The penalty on A is the identity, like Pan's on W, and not the landmarks' kernel matrix, which would be the norm of the
function. So if every row is a landmark, Φ = K and A = W, and the codes equal Pan's up to scale and sign.

Since Φᵀ L Φ = δδᵀ with δ the difference of the domains' mean features, P = δδᵀ + μ I has a known inverse root,

    P^-½ = μ^-½ ( I - (1 - √(μ / (μ + ‖δ‖²))) δδᵀ / ‖δ‖² )

and one symmetric eigenproblem P^-½ Φᵀ H Φ P^-½ = U Λ Uᵀ remains, with A = P^-½ U Λ^-½. It needs only moments of Φ,
accumulated block by block.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self, get_args

import torch
from pydantic import Field, model_validator
from torch import Tensor

from common.augment import AugmentConfig
from common.config import MANY
from common.corruptions import AnyCorruption
from common.data.rows import even_rows
from common.encoders import Encoder, EncoderConfig
from common.encoders.kernel import KernelCode
from common.engine.schedule import seed_step
from common.errors import UserError
from common.machine.distributed import World
from common.pixels import split_rows
from common.solvers.kernels import Kernel, check_width, kernel_rows, squared_distances
from pretrain.linear.base import SampledMethod, SampleLearner, user_errors
from pretrain.linear.moments import Moments, check_rows
from pretrain.linear.pca import whitened_codes
from pretrain.linear.projection import check_components, signs
from pretrain.method import Second

log = logging.getLogger("retouch")

KERNEL_PCA = 1e6  # a μ so large that the domains do not matter
COMPARED = 1000  # images per domain whose codes are compared
CHUNK = 2**22  # kernel values at a time: 32 MB in float64
MEDIAN_ROWS = 2000  # rows whose distances give the median width


@dataclass(frozen=True, eq=False)
class KernelProjection:
    """A fitted kernel code: ``code = k(x, landmarks) weight - shift``; all tensors float64."""

    landmarks: Tensor  # [m d]
    weight: Tensor  # [m h]
    kernel: Kernel
    width: float | None  # width of the RBF kernel; None with the linear one
    shift: Tensor  # [h]

    def apply(self, rows: Tensor) -> Tensor:
        """Rows ``[n d]`` -> codes ``[n h]``, float64, on the landmarks' device, in chunks of bounded memory.

        Raises:
            ValueError: rows that are not finite, or not ``[n d]``.
        """
        check_rows(rows, "rows", self.landmarks.shape[1])
        chunks = split_rows(rows, len(self.landmarks), CHUNK)
        codes = [kernel_rows(x, self.landmarks, self.kernel, self.width) @ self.weight for x in chunks]
        return torch.cat(codes) - self.shift


def tca(
    source: Tensor,
    target: Tensor,
    landmarks: Tensor,
    components: int,
    *,
    kernel: Kernel = "rbf",
    width: float | None = None,
    mu: float = 1.0,
) -> KernelProjection:
    """Fit ``components`` transfer components, best first.

    Codes are scaled: over all rows together they are centered, uncorrelated and of (sample) variance 1. The loading
    of the largest magnitude of each component is positive.

    Args:
        source: rows of the first domain ``[n1 d]``.
        target: rows of the second domain ``[n2 d]``.
        landmarks: rows ``[m d]`` from both domains; the code combines their kernel functions.
        components: length h of the code.
        kernel: ``linear`` is x·y; ``rbf`` is exp(-‖x - y‖² / (2 width²)).
        width: width of the RBF kernel; ``None`` takes :func:`median_width` of the landmarks. The linear one ignores it.
        mu: weight μ of the penalty, on the scale of ‖δ‖²: a small one forces the domains to agree, a
            large one gives kernel PCA.

    Raises:
        ValueError: rows that are not finite or differ in columns, an empty domain, too many components, an unknown
            kernel, or a width or ``mu`` that is not positive.
    """
    _check(source, target, landmarks, components, kernel, mu)
    landmarks = landmarks.to(source.device, torch.float64, copy=True)
    if kernel == "linear":
        width = None
    elif width is None:
        width = median_width(landmarks)
    moments, gap = _feature_moments(source, target, landmarks, kernel, width)
    weight = _components(moments.covariance(), gap, mu, components)
    return KernelProjection(landmarks, weight, kernel, width, moments.mean @ weight)


def _check(source: Tensor, target: Tensor, landmarks: Tensor, components: int, kernel: Kernel, mu: float) -> None:
    check_rows(landmarks, "landmarks")
    m, d = landmarks.shape
    check_rows(source, "source", d)
    check_rows(target, "target", d)
    n = len(source) + len(target)
    if min(len(source), len(target), m) < 1:
        raise ValueError(f"each needs at least one row: source {len(source)}, target {len(target)}, landmarks {m}")
    if kernel not in get_args(Kernel):
        raise ValueError(f"kernel must be one of {', '.join(get_args(Kernel))}, not {kernel!r}")
    if not (mu > 0 and math.isfinite(mu)):
        raise ValueError(f"mu must be positive, got {mu}")
    check_components(components, min(m, n - 1), f"{n} rows and {m} landmarks")


def _feature_moments(
    source: Tensor, target: Tensor, landmarks: Tensor, kernel: Kernel, width: float | None
) -> tuple[Moments, Tensor]:
    """Moments of the kernel features Φ of both domains together, and δ ``[m]``, the difference of their means."""
    m = len(landmarks)
    pooled = Moments(m, source.device)
    means = []
    for domain in (source, target):
        total = torch.zeros(m, dtype=torch.float64, device=source.device)
        for rows in split_rows(domain, m, CHUNK):
            features = kernel_rows(rows, landmarks, kernel, width)
            pooled.add(features)
            total += features.sum(0)
        means.append(total / len(domain))
    return pooled, means[0] - means[1]


def _components(covariance: Tensor, gap: Tensor, mu: float, components: int) -> Tensor:
    """``A = P^-½ U Λ^-½`` of the leading components ``[m h]``, from ``Φᵀ H Φ / (n - 1)`` ``[m m]`` and δ ``[m]``.

    Dividing by n - 1 makes the constraint a variance of 1. P^-½ is used without its factor μ^-½, which Λ^-½ cancels.

    Raises:
        ValueError: the features vary in fewer directions.
    """
    square = gap.square().sum()
    shrink = (1 - (mu / (mu + square)).sqrt()) / square.clamp_min(torch.finfo(gap.dtype).tiny)

    def times_root(matrix: Tensor) -> Tensor:
        """``P^-½ √μ`` times ``[m k]``."""
        return matrix - shrink * torch.outer(gap, gap @ matrix)

    values, basis = torch.linalg.eigh(times_root(times_root(covariance).T))
    values, basis = values.flip(0), basis.flip(1)
    rank = int((values > len(gap) * torch.finfo(values.dtype).eps * values[0].clamp_min(0)).sum())
    if components > rank:
        raise ValueError(f"components is {components}, but the kernel features vary in only {rank} directions")
    weight: Tensor = times_root(basis[:, :components]) / values[:components].sqrt()
    return weight * signs(weight.T)


def maximum_mean_discrepancy(a: Tensor, b: Tensor, *, width: float | None = None) -> float:
    """The distance of two samples a ``[n h]`` and b ``[m h]``: the squared MMD with an RBF kernel, biased, in 0..2.

        MMD² = mean k(a, a') + mean k(b, b') - 2 mean k(a, b)

    over all pairs, including each row with itself (Gretton et al. 2012, "A kernel two-sample test"). Memory is
    bounded, time is (n + m)² h. ``width=None`` takes :func:`median_width` of both samples together, so the result
    does not depend on the scale of the codes.

    Raises:
        ValueError: samples that are empty, not finite or differ in columns; a width that is not positive.
    """
    check_rows(a, "a")
    check_rows(b, "b", a.shape[1])
    if min(len(a), len(b)) < 1:
        raise ValueError(f"each needs at least one row: a {len(a)}, b {len(b)}")
    a, b = a.double(), b.to(a.device).double()
    width = median_width(torch.cat([a, b])) if width is None else check_width(width)
    discrepancy = _mean_kernel(a, a, width) + _mean_kernel(b, b, width) - 2 * _mean_kernel(a, b, width)
    return max(0.0, discrepancy)


def median_width(rows: Tensor) -> float:
    """The median distance between two rows of ``[n d]``: from at most 2000 evenly spaced rows, so it is deterministic.

    Raises:
        ValueError: fewer than two rows, or a median of zero.
    """
    check_rows(rows, "rows")
    if len(rows) > MEDIAN_ROWS:
        rows = spread(rows, MEDIAN_ROWS)
    rows = rows.double()
    above = torch.ones(len(rows), len(rows), dtype=torch.bool, device=rows.device).triu(1)
    squares = squared_distances(rows, rows, rows.mean(0))[above]
    width = float(squares.median().sqrt()) if len(squares) else 0.0
    if not width > 0:
        raise ValueError(f"the median distance between {len(rows)} rows is 0: give a width")
    return width


def _mean_kernel(a: Tensor, b: Tensor, width: float) -> float:
    """Mean of the RBF kernel over all pairs."""
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    for rows in split_rows(a, len(b), CHUNK):
        total += kernel_rows(rows, b, "rbf", width).sum()
    return float(total / (len(a) * len(b)))


# ---- the method


class Tca(SampledMethod):
    """Pan et al. 2011, in the span of ``landmarks`` images, half of them from each domain."""

    kind: Literal["tca"] = "tca"
    components: int = Field(default=16, ge=1, le=1 << 14)
    """Length of the code."""
    landmarks: int = Field(default=1000, ge=4, le=1 << 14)
    """Images whose kernel functions span the code, half of them from each domain."""
    sample: int = Field(default=5000, ge=2, le=MANY)
    """Images per domain to fit on."""
    kernel: Kernel = "rbf"
    """Kernel of the feature space in which the domains are compared."""
    width: float | None = Field(default=None, ge=1e-6, le=1e6)
    """Width of the RBF kernel; by default the median distance between landmarks."""
    mu: float = Field(default=1e-4, ge=1e-12, le=1e12)
    """Weight of the penalty, relative to the squared gap between the domains' mean kernel features: a small one forces
    the domains to agree, a large one gives kernel PCA."""
    damage: AnyCorruption | None = None
    """Makes the second domain from the first, or is applied to data.other if that is given."""

    @property
    def second(self) -> Second:
        return "domain"

    @property
    def needs(self) -> str:
        return (
            "" if self.damage else "fit.kind=tca needs a second domain: set {other}, or damage the first (fit.damage)"
        )

    @model_validator(mode="after")
    def _in_the_span_of_landmarks(self) -> Self:
        if self.components > (most := 2 * (self.landmarks // 2)):
            raise ValueError(f"components is {self.components}, but there are only {most} landmarks: lower it")
        return self

    def check(self, image_size: int, images: int) -> list[str]:
        half, there = self.landmarks // 2, min(images, self.sample)
        needed = f"fit.landmarks={self.landmarks} needs {half:,} images per domain"
        problems = [f"fit.damage: {problem}" for problem in (self.damage.check(image_size) if self.damage else [])]
        if self.sample < half <= images:
            problems.append(f"{needed}: raise fit.sample={self.sample}")
        elif there < half:
            problems.append(f"{needed}, but there are {there:,}: lower it")
        return problems

    def encoder_config(self) -> EncoderConfig:
        args = {"code": self.components, "landmarks": 2 * (self.landmarks // 2), "kernel": self.kernel}
        return EncoderConfig(name="kernel", model_args=args | ({"width": self.width} if self.width else {}))

    @property
    def learner(self) -> type[TcaLearner]:
        return TcaLearner


class TcaLearner(SampleLearner):
    """Fits everything on a sample of each domain, without steps."""

    encoder: KernelCode
    method: Tca

    def __init__(self, encoder: Encoder, method: Tca, augment: AugmentConfig, world: World, seed: int) -> None:
        super().__init__(encoder, method, augment, world, seed)
        self._discrepancy: dict[str, float] = {}

    @property
    def discrepancy(self) -> dict[str, float]:
        return self._discrepancy

    def second_domain(self) -> Tensor:
        """A sample of the second source (or of the first, if there is none), damaged: ``[N 3 S S]`` in [0, 1]."""
        images = self.sample(self.other or self.images)
        if self.method.damage is None:
            return images
        seed_step(self.seed, 0)
        return self.method.damage(images)

    def initialize(self, sample: Tensor) -> None:
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
        # compared with codes that ignore the domains; all components have variance 1
        a, b = spread(source, COMPARED), spread(target, COMPARED)
        codes: dict[str, Callable[[Tensor], Tensor]] = {
            "pixels": lambda rows: rows,
            # from the compared rows only: moments of all rows would be d x d, and d grows with the images' area
            "pca": lambda rows: whitened_codes(rows, fit.components),
            "kernel_pca": lambda rows: fitted_at(KERNEL_PCA).apply(rows),
            "tca": fitted.apply,
        }
        for name, code in codes.items():
            try:
                both = code(torch.cat([a, b]))
                self._discrepancy[name] = maximum_mean_discrepancy(both[: len(a)], both[len(a) :])
            except ValueError as error:  # these images do not allow this comparison; the fit is valid without it
                log.warning("no discrepancy for %s: %s", name, error)
        log.info(
            "maximum mean discrepancy between the two domains: %s",
            ", ".join(f"{name} {value:.4f}" for name, value in self._discrepancy.items()),
        )


def mean_gap(source: Tensor, target: Tensor, landmarks: Tensor, kernel: Kernel, width: float | None) -> float:
    """``‖δ‖²``: the squared distance between the domains' mean kernel features; rows ``[n d]``, float64."""
    means = [
        torch.stack([kernel_rows(rows, landmarks, kernel, width).sum(0) for rows in torch.split(domain, 1024)]).sum(0)
        / len(domain)
        for domain in (source, target)
    ]
    return float((means[0] - means[1]).square().sum())


def spread(rows: Tensor, count: int) -> Tensor:
    """At most ``count`` of the rows, evenly spaced."""
    return rows[even_rows(len(rows), count).to(rows.device)]

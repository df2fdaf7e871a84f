"""Transfer component analysis: a kernel code in which two domains lie on each other and still vary.

Over all n = n1 + n2 rows, source first, with kernel matrix K, centring H = I - 11ᵀ/n, and L = e eᵀ, where e is 1/n1 on
source rows and -1/n2 on target rows, so that tr(Wᵀ K L K W) is the squared distance between the domains' mean codes,

    minimise over W [n h]   tr(Wᵀ K L K W) + μ tr(WᵀW)    subject to   Wᵀ K H K W = I

whose solutions are the leading eigenvectors of (K L K + μ I)⁻¹ K H K (Pan, Tsang, Kwok, Yang 2011, "Domain adaptation
via transfer component analysis"). That costs n² memory and n³ time. Here codes are sought among
combinations of m landmarks only (the subset of regressors): with Φ = k(rows, landmarks) [n m] and A [m h],

    minimise over A   tr(Aᵀ Φᵀ L Φ A) + μ tr(AᵀA)    subject to   Aᵀ Φᵀ H Φ A = I

The penalty on A is the identity, as Pan's is on W, and not the landmarks' kernel matrix, which would be the norm of the
function: so with every row a landmark Φ = K, A = W, and the codes are Pan's, but for scale and sign.

Since Φᵀ L Φ = δδᵀ with δ the difference of the domains' mean features, P = δδᵀ + μ I has a known inverse root,

    P^-½ = μ^-½ ( I - (1 - √(μ / (μ + ‖δ‖²))) δδᵀ / ‖δ‖² )

and one symmetric eigenproblem P^-½ Φᵀ H Φ P^-½ = U Λ Uᵀ is left, A = P^-½ U Λ^-½; it needs moments of Φ only, gathered
block by block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from common.pixels import split_rows
from common.solvers.kernels import Kernel, check_width, kernel_rows, squared_distances
from pretrain.linear.moments import Moments, check_rows
from pretrain.linear.projection import check_components, signs

CHUNK = 2**22  # kernel values at a time: 32 MB in float64
MEDIAN_ROWS = 2000  # rows whose distances give the median width


@dataclass(frozen=True, eq=False)
class KernelProjection:
    """A fitted kernel code: ``code = k(x, landmarks) weight - shift``; all tensors float64."""

    landmarks: Tensor  # [m d]
    weight: Tensor  # [m h]
    kernel: Kernel
    width: float | None  # of the RBF kernel; None with the linear one
    shift: Tensor  # [h]

    def apply(self, rows: Tensor) -> Tensor:
        """Rows ``[n d]`` -> codes ``[n h]``, float64, on the landmarks' device, in chunks of bounded memory.

        Raises:
            ValueError: rows that are not finite, or not ``[n d]``.
        """
        check_rows(rows, "rows", self.landmarks.shape[1])
        chunks = _chunks(rows, len(self.landmarks))
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

    Codes are scaled: over all rows together they are centred, uncorrelated and of (sample) variance 1. The loading of
    largest magnitude of each component is positive.

    Args:
        source: rows of the first domain ``[n1 d]``.
        target: rows of the second domain ``[n2 d]``.
        landmarks: rows ``[m d]`` whose kernel functions the code is made of, drawn from both domains.
        components: length h of the code.
        kernel: ``linear`` is x·y; ``rbf`` is exp(-‖x - y‖² / (2 width²)).
        width: of the RBF kernel; ``None`` takes :func:`median_width` of the landmarks. The linear one ignores it.
        mu: weight μ of the penalty, on the scale of ‖δ‖²: small, and domains must agree; large, and it is a kernel PCA.

    Raises:
        ValueError: rows that are not finite or differ in columns, an empty domain, too many components, an unknown
            kernel, or a width or ``mu`` that is not positive.
    """
    check_rows(landmarks, "landmarks")
    m, d = landmarks.shape
    check_rows(source, "source", d)
    check_rows(target, "target", d)
    n = len(source) + len(target)
    if min(len(source), len(target), m) < 1:
        raise ValueError(f"needs rows of each: source {len(source)}, target {len(target)}, landmarks {m}")
    if kernel not in get_args(Kernel):
        raise ValueError(f"kernel must be one of {', '.join(get_args(Kernel))}, not {kernel!r}")
    if not (mu > 0 and math.isfinite(mu)):
        raise ValueError(f"mu must be positive, not {mu}")
    check_components(components, min(m, n - 1), f"{n} rows and {m} landmarks")
    landmarks = landmarks.to(source.device, torch.float64, copy=True)
    if kernel == "linear":
        width = None
    elif width is None:
        width = median_width(landmarks)

    pooled = Moments(m, source.device)
    sums = []
    for domain in (source, target):
        total = torch.zeros(m, dtype=torch.float64, device=source.device)
        for rows in _chunks(domain, m):
            features = kernel_rows(rows, landmarks, kernel, width)
            pooled.add(features)
            total += features.sum(0)
        sums.append(total / len(domain))
    gap = sums[0] - sums[1]  # δ, [m]

    square = gap.square().sum()
    shrink = (1 - (mu / (mu + square)).sqrt()) / square.clamp_min(torch.finfo(gap.dtype).tiny)

    def times_root(matrix: Tensor) -> Tensor:
        """``P^-½ √μ`` times ``[m k]``."""
        return matrix - shrink * torch.outer(gap, gap @ matrix)

    # Φᵀ H Φ / (n - 1): the constraint is then a variance of 1, and U Λ only changes scale
    covariance = pooled.covariance()
    values, basis = torch.linalg.eigh(times_root(times_root(covariance).T))
    values, basis = values.flip(0), basis.flip(1)
    rank = int((values > m * torch.finfo(values.dtype).eps * values[0].clamp_min(0)).sum())
    if components > rank:
        raise ValueError(f"components is {components}, but the kernel features vary in {rank} directions only")
    weight = times_root(basis[:, :components]) / values[:components].sqrt()
    weight = weight * signs(weight.T)
    return KernelProjection(landmarks, weight, kernel, width, pooled.mean @ weight)


def maximum_mean_discrepancy(a: Tensor, b: Tensor, *, width: float | None = None) -> float:
    """How far apart two samples a ``[n h]`` and b ``[m h]`` lie: the squared MMD with an RBF kernel, biased, in 0..2.

        MMD² = mean k(a, a') + mean k(b, b') - 2 mean k(a, b)

    over all pairs, a row with itself included (Gretton et al. 2012, "A kernel two-sample test"). Memory is
    bounded, time is (n + m)² h. ``width=None`` takes :func:`median_width` of both samples together, so that the number
    does not depend on the scale of the codes.

    Raises:
        ValueError: samples that are empty, not finite or differ in columns; a width that is not positive.
    """
    check_rows(a, "a")
    check_rows(b, "b", a.shape[1])
    if min(len(a), len(b)) < 1:
        raise ValueError(f"needs rows of each: a {len(a)}, b {len(b)}")
    a, b = a.double(), b.to(a.device).double()
    width = median_width(torch.cat([a, b])) if width is None else check_width(width)
    discrepancy = _mean_kernel(a, a, width) + _mean_kernel(b, b, width) - 2 * _mean_kernel(a, b, width)
    return max(0.0, discrepancy)


def median_width(rows: Tensor) -> float:
    """The median distance between two rows of ``[n d]``: of at most 2000, evenly spaced, so nothing is drawn at random.

    Raises:
        ValueError: fewer than two rows, or a median of zero.
    """
    check_rows(rows, "rows")
    if len(rows) > MEDIAN_ROWS:
        rows = rows[torch.linspace(0, len(rows) - 1, MEDIAN_ROWS, dtype=torch.float64).round().long().to(rows.device)]
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
    for rows in _chunks(a, len(b)):
        total += kernel_rows(rows, b, "rbf", width).sum()
    return float(total / (len(a) * len(b)))


def _chunks(rows: Tensor, columns: int) -> tuple[Tensor, ...]:
    """``rows`` in runs whose products with ``columns`` landmarks hold at most ``CHUNK`` numbers."""
    return split_rows(rows, columns, CHUNK)

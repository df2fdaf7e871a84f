"""TCA against Pan's equation solved directly in float64, and MMD against all pairs written out."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.solvers.kernels import Kernel
from pretrain.linear import tca as module
from pretrain.linear.moments import Moments
from pretrain.linear.pca import pca
from pretrain.linear.tca import maximum_mean_discrepancy, median_width, tca


def domains(n1: int = 40, n2: int = 30, d: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The same cloud twice, ``[n1 d]`` and ``[n2 d]``; the second shifted along the first column and rotated a bit."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(1.5, 0.5, d, dtype=torch.float64)
    source = torch.randn(n1, d, generator=generator, dtype=torch.float64) * scale
    target = torch.randn(n2, d, generator=generator, dtype=torch.float64) * scale
    cos, sin = np.cos(0.2), np.sin(0.2)
    target[:, 1:3] = target[:, 1:3] @ torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    target[:, 0] += 3
    return source, target


def pan(source: Tensor, target: Tensor, kernel: str, width: float, mu: float, components: int) -> Tensor:
    """Codes K W of all rows ``[n h]``: W the leading eigenvectors of (K L K + μ I)⁻¹ K H K, all written out."""
    x = torch.cat([source, target]).numpy()
    n1, n2 = len(source), len(target)
    n = n1 + n2
    K = x @ x.T if kernel == "linear" else np.exp(-((x[:, None] - x[None]) ** 2).sum(-1) / (2 * width**2))
    e = np.r_[np.full(n1, 1 / n1), np.full(n2, -1 / n2)]
    H = np.eye(n) - 1 / n
    values, vectors = scipy.linalg.eig(np.linalg.solve(K @ np.outer(e, e) @ K + mu * np.eye(n), K @ H @ K))
    leading = np.argsort(values.real)[::-1][:components]
    return torch.from_numpy(K @ vectors[:, leading].real)


def standard(codes: Tensor) -> Tensor:
    return (codes - codes.mean(0)) / codes.std(0)


@pytest.mark.parametrize("mu", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_if_every_row_is_a_landmark_it_is_pans_solution(kernel: Kernel, mu: float) -> None:
    source, target = domains()
    everything = torch.cat([source, target])
    fitted = tca(source, target, everything, 3, kernel=kernel, width=2.0 if kernel == "rbf" else None, mu=mu)
    codes = fitted.apply(everything)
    reference = standard(pan(source, target, kernel, 2.0, mu, 3))
    torch.testing.assert_close(codes, reference * (codes * reference).sum(0).sign(), rtol=1e-6, atol=1e-7)


@given(seed=st.integers(0, 999), mu=st.floats(1e-3, 1e3))
@settings(max_examples=25, deadline=None)
def test_codes_are_centered_uncorrelated_and_of_variance_one(seed: int, mu: float) -> None:
    source, target = domains(20, 25, 4, seed)
    codes = tca(source, target, source[::2], 3, mu=mu).apply(torch.cat([source, target]))
    torch.testing.assert_close(codes.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-8)
    torch.testing.assert_close(torch.cov(codes.T), torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-7)


def test_a_subset_of_landmarks_minimizes_the_stated_objective() -> None:
    source, target = domains()
    landmarks = torch.cat([source[::5], target[::5]])
    m, mu = len(landmarks), 0.5
    fitted = tca(source, target, landmarks, 2, width=2.0, mu=mu)
    features = torch.exp(-torch.cdist(torch.cat([source, target]), landmarks).square() / 8)
    gap = features[:40].mean(0) - features[40:].mean(0)
    penalty = torch.outer(gap, gap) + mu * torch.eye(m, dtype=torch.float64)
    values, vectors = scipy.linalg.eigh(torch.cov(features.T).numpy(), penalty.numpy())
    found = torch.from_numpy((vectors[:, ::-1][:, :2] / values[::-1][:2] ** 0.5).copy())
    torch.testing.assert_close(fitted.weight, found * (fitted.weight * found).sum(0).sign(), rtol=1e-7, atol=1e-8)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = domains()
    whole = tca(source, target, source, 3)
    distance = maximum_mean_discrepancy(source, target)
    monkeypatch.setattr(module, "CHUNK", 100)
    parts = tca(source, target, source, 3)
    torch.testing.assert_close(parts.apply(target), whole.apply(target), rtol=1e-7, atol=1e-8)
    assert maximum_mean_discrepancy(source, target) == pytest.approx(distance, rel=1e-12)
    assert whole.apply(target[:0]).shape == (0, 3)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_domains_lie_closer_than_under_pca(kernel: Kernel) -> None:
    source, target = domains(300, 250)
    everything = torch.cat([source, target])
    fitted = tca(source, target, torch.cat([source[::5], target[::5]]), 2, kernel=kernel, mu=0.1)
    together = maximum_mean_discrepancy(fitted.apply(source), fitted.apply(target))
    moments = Moments(5)
    moments.add(everything)
    plain = pca(moments, 2, whiten=True)
    apart = maximum_mean_discrepancy(plain.encode(source), plain.encode(target))
    # with a large mu the gap between domains does not matter: kernel PCA
    kernel_pca = tca(source, target, torch.cat([source[::5], target[::5]]), 2, kernel=kernel, mu=1e9)
    apart = min(apart, maximum_mean_discrepancy(kernel_pca.apply(source), kernel_pca.apply(target)))
    assert together < 0.2 * apart


def test_a_large_mu_is_a_principal_component_analysis_of_the_features() -> None:
    source, target = domains()
    everything = torch.cat([source, target])
    fitted = tca(source, target, torch.eye(5), 3, kernel="linear", mu=1e9)  # linear features of the axes: the rows
    moments = Moments(5)
    moments.add(everything)
    codes, reference = fitted.apply(everything), pca(moments, 3, whiten=True).encode(everything)
    torch.testing.assert_close(codes, reference * (codes * reference).sum(0).sign(), rtol=1e-5, atol=1e-6)


def test_two_domains_with_the_same_mean_are_handled() -> None:
    rows = domains()[0]
    codes = tca(rows, rows, rows, 2).apply(rows)
    assert torch.isfinite(codes).all()


def test_rows_far_from_zero_lose_no_precision() -> None:
    source, target = domains()
    near = tca(source, target, source, 2, width=2.0)
    far = tca(source + 1e5, target + 1e5, source + 1e5, 2, width=2.0)
    torch.testing.assert_close(far.apply(target + 1e5), near.apply(target), rtol=1e-5, atol=1e-6)


def test_discrepancy_is_the_mean_over_all_pairs() -> None:
    a, b = domains(7, 5, 3)

    def mean_kernel(x: Tensor, y: Tensor) -> float:
        return float(np.mean([np.exp(-float((i - j).square().sum()) / (2 * 1.5**2)) for i in x for j in y]))

    expected = mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b)
    assert maximum_mean_discrepancy(a, b, width=1.5) == pytest.approx(expected, rel=1e-10)
    assert maximum_mean_discrepancy(a, a) == pytest.approx(0, abs=1e-12)
    scaled = maximum_mean_discrepancy(100 * a.float(), 100 * b.float())
    assert scaled == pytest.approx(maximum_mean_discrepancy(a, b), rel=1e-5)  # the median width follows the scale


def test_the_median_width_is_the_median_distance() -> None:
    assert median_width(torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx(2.0)
    many = torch.arange(5000.0)[:, None]
    assert median_width(many) == pytest.approx(5000 * (1 - 0.5**0.5), rel=0.01)
    with pytest.raises(ValueError, match="the median distance between 4 rows is 0"):
        median_width(torch.ones(4, 2))


def test_mistakes_are_refused() -> None:
    source, target = domains()
    with pytest.raises(ValueError, match="components is 9; 70 rows and 8 landmarks allow 1 to 8"):
        tca(source, target, source[:8], 9)
    with pytest.raises(ValueError, match="components is 6, but the kernel features vary in only 5 directions"):
        tca(source, target, source, 6, kernel="linear")
    with pytest.raises(ValueError, match="kernel must be one of linear, rbf, not 'cubic'"):
        tca(source, target, source, 2, kernel="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"target must be \[rows 5\], not \[30, 4\]"):
        tca(source, target[:, 1:], source, 2)
    with pytest.raises(ValueError, match="source contain numbers that are not finite"):
        tca(source / 0, target, target, 2)
    with pytest.raises(ValueError, match="source 40, target 0, landmarks 40"):
        tca(source, target[:0], source, 2)
    for mu in (0.0, float("nan")):
        with pytest.raises(ValueError, match="mu must be positive"):
            tca(source, target, source, 2, mu=mu)
    with pytest.raises(ValueError, match="width must be positive, not -1"):
        tca(source, target, source, 2, width=-1.0)
    with pytest.raises(ValueError, match="width must be positive, not 0"):
        maximum_mean_discrepancy(source, target, width=0.0)
    with pytest.raises(ValueError, match=r"rows must be \[rows 5\], not \[40, 4\]"):
        tca(source, target, source, 2).apply(source[:, 1:])

"""PSNR and SSIM against independent ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from pretrain.restoring import scores
from pretrain.restoring.scores import psnr, score, ssim


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(0)
    clean = ndimage.gaussian_filter(random.normal(size=(3, 60, 45)), (0, 2, 2)) * 400 + 128
    other = clean + random.normal(size=clean.shape) * 12
    return tuple(torch.from_numpy(one.clip(0, 255).astype(np.uint8)) for one in (other, clean))  # type: ignore[return-value]


def ssim_by_hand(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Equation 13 of Wang et al. 2004, channel by channel, in float64."""

    def mean(image: NDArray[np.float64]) -> NDArray[np.float64]:
        return ndimage.gaussian_filter(image, (0, 1.5, 1.5), truncate=3.5)[:, 5:-5, 5:-5]

    a, b = mean(one), mean(other)
    va, vb, both = mean(one**2) - a**2, mean(other**2) - b**2, mean(one * other) - a * b
    c, d = 0.01**2, 0.03**2
    return float(((2 * a * b + c) * (2 * both + d) / ((a**2 + b**2 + c) * (va + vb + d))).mean())


def test_ssim_is_that_of_the_paper_and_of_scikit_image(pair: tuple[Tensor, Tensor]) -> None:
    one, other = (image.double().numpy() / 255 for image in pair)
    assert ssim(*pair) == pytest.approx(ssim_by_hand(one, other), abs=1e-6)
    metrics = pytest.importorskip("skimage.metrics")
    theirs = metrics.structural_similarity(
        one, other, channel_axis=0, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(*pair) == pytest.approx(theirs, abs=1e-6)


def test_psnr_is_that_of_the_mean_squared_error(pair: tuple[Tensor, Tensor]) -> None:
    one, other = (image.double().numpy() / 255 for image in pair)
    assert psnr(*pair) == pytest.approx(-10 * np.log10(((one - other) ** 2).mean()), abs=1e-4)
    assert psnr(pair[0], pair[0]) == 100
    counted = torch.zeros(1, 60, 45, dtype=torch.bool)
    counted[:, 10:20, 5:9] = True
    part = ((one - other) ** 2)[:, 10:20, 5:9].mean()
    assert psnr(*pair, counted) == pytest.approx(-10 * np.log10(part), abs=1e-4)


def test_large_pictures_are_scored_in_parts_to_the_same_numbers(
    pair: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score(*pair)
    for rows in (7, 25, 50):
        monkeypatch.setattr(scores, "PIXELS", 45 * rows + 3)
        assert score(*pair) == whole


def test_what_cannot_be_said_is_none(pair: tuple[Tensor, Tensor]) -> None:
    small = score(pair[0][:, :10], pair[1][:, :10])
    assert small is not None
    assert small.ssim is None
    assert score(*pair, torch.zeros(1, 60, 45, dtype=torch.bool)) is None

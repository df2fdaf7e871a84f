"""Trivial restorers, as scikit-image has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.color import rgb2lab
from skimage.filters import gaussian, median, unsharp_mask
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import denoise_nl_means
from torch import Tensor

from pretrain.ruler.restorers import (
    COLOR,
    Damaged,
    gaussian_filter,
    median_filter,
    noise_level,
    non_local_means,
    psnr,
    sharpen,
)

INNER = slice(5, -5)  # borders are continued in other ways


@pytest.fixture
def noisy(photographs: Tensor) -> Damaged:
    torch.manual_seed(0)
    larger = torch.nn.functional.interpolate(photographs[:2], scale_factor=2, mode="bilinear")
    images = larger + 0.1 * torch.randn_like(larger)
    return Damaged(images, torch.zeros_like(images[:, :1]))


def last(image: Tensor) -> NDArray[np.float64]:
    """Colors last, as scikit-image has them."""
    return image.permute(1, 2, 0).double().numpy()


def test_psnr_is_that_of_scikit_image(photographs: Tensor, noisy: Damaged) -> None:
    clean = torch.nn.functional.interpolate(photographs[:2], scale_factor=2, mode="bilinear")
    expected = [
        peak_signal_noise_ratio(a.double().numpy(), b.double().numpy(), data_range=1)
        for a, b in zip(clean, noisy.images, strict=True)
    ]
    assert psnr(noisy.images, clean).tolist() == pytest.approx(expected)


def test_filters_are_those_of_scikit_image(noisy: Damaged) -> None:
    for place, image in enumerate(noisy.images):
        smooth = gaussian(last(image), sigma=1.4, mode="reflect", truncate=4, channel_axis=-1)
        np.testing.assert_allclose(last(gaussian_filter(noisy, 1.4)[place]), smooth, atol=1e-5)
        planes = np.stack([median(plane.numpy(), np.ones((3, 3))) for plane in image], -1)
        np.testing.assert_allclose(last(median_filter(noisy, 3)[place]), planes, atol=1e-5)
        # plane by plane: given all colors at once, scikit-image 0.26 does not do what it says
        each = [unsharp_mask(plane.double().numpy(), radius=1.0, amount=2.0, preserve_range=True) for plane in image]
        sharp = np.stack(each, -1)
        found = last(sharpen(noisy, 2.0)[place])
        np.testing.assert_allclose(found[INNER, INNER], sharp[INNER, INNER], atol=1e-5)


def test_non_local_means_are_those_of_scikit_image(noisy: Damaged) -> None:
    strength = 3.0  # so wide that scikit-image leaves no weight out
    found = non_local_means(noisy, strength, reach=4, side=5)
    for place, image in enumerate(noisy.images):
        sigma = float(noise_level(noisy.images)[place])
        expected = denoise_nl_means(
            last(image), patch_size=5, patch_distance=4, h=strength * sigma, sigma=sigma, fast_mode=True,
            preserve_range=True, channel_axis=-1,
        )  # fmt: skip
        inner = last(found[place])[INNER, INNER]
        np.testing.assert_allclose(inner, expected[INNER, INNER], atol=2e-3)
        assert np.abs(inner - last(image)[INNER, INNER]).max() > 0.1  # and not because nothing was done


def test_gray_images_that_are_given_a_color_keep_their_lightness(photographs: Tensor) -> None:
    [restore] = COLOR.candidates(photographs[:8])
    gray = photographs[8:10].mean(1, keepdim=True).repeat(1, 3, 1, 1)
    restored = restore(Damaged(gray, torch.zeros_like(gray[:, :1])))
    for before, after in zip(gray, restored, strict=True):
        inside = ((after > 0.01) & (after < 0.99)).all(0).numpy()  # where no color had to be clipped
        assert inside.mean() > 0.3
        np.testing.assert_allclose(rgb2lab(last(after))[inside, 0], rgb2lab(last(before))[inside, 0], atol=0.2)

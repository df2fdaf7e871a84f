"""Trivial restorers against scipy, scikit-learn and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kornia.color import rgb_to_lab
from scipy import ndimage, signal
from sklearn.decomposition import PCA
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from common.corruptions import Gaussian, Gray, Holes
from pretrain.ruler.restorers import (
    COLOR,
    MEAN_IMAGE,
    Damaged,
    for_damage,
    gaussian_filter,
    median_filter,
    nearest_visible,
    noise_level,
    non_local_means,
    pca,
    psnr,
    sharpen,
    smooth_inpainting,
    wiener_filter,
)

CENTRE = (slice(None), slice(None), slice(4, -4), slice(4, -4))  # scipy's borders differ from ours


def damaged(images: Tensor, hidden: Tensor | None = None) -> Damaged:
    return Damaged(images, torch.zeros_like(images[:, :1]) if hidden is None else hidden)


def noisy(images: Tensor, sigma: float = 0.2) -> Tensor:
    torch.manual_seed(0)
    return images + sigma * torch.randn_like(images)


def test_psnr_of_a_known_error_where_error_counts() -> None:
    clean = torch.zeros(2, 3, 4, 4)
    assert psnr(clean + 0.1, clean).tolist() == pytest.approx([20, 20])
    assert psnr(clean, clean).tolist() == [100, 100]
    weight = torch.zeros(2, 1, 4, 4)
    weight[..., 0] = 1
    assert psnr(clean + 0.1 * weight, clean, weight).tolist() == pytest.approx([20, 20])


def test_filters_are_those_of_scipy(photographs: Tensor) -> None:
    for channel in (0, 2):
        plane = photographs[3, channel].numpy()
        found = gaussian_filter(damaged(photographs), 1.3)[3, channel]
        torch.testing.assert_close(found, torch.from_numpy(ndimage.gaussian_filter(plane, 1.3)))
        found = median_filter(damaged(photographs), 3)[3, channel]
        torch.testing.assert_close(found, torch.from_numpy(ndimage.median_filter(plane, 3)))


def test_wiener_filter_is_that_of_scipy_with_the_same_noise(photographs: Tensor) -> None:
    images = noisy(photographs)[:2]
    noise = noise_level(images).square()
    found = wiener_filter(damaged(images), 1.0)
    for image in range(2):
        expected = signal.wiener(images[image, 0].double().numpy(), 5, noise=float(noise[image]))
        torch.testing.assert_close(
            found[image, 0][CENTRE[2:]], torch.from_numpy(expected)[CENTRE[2:]].float(), atol=1e-4, rtol=1e-4
        )


def test_noise_level_is_found_from_the_image(photographs: Tensor) -> None:
    found = noise_level(noisy(torch.nn.functional.interpolate(photographs, scale_factor=8, mode="bilinear"), 0.15))
    assert found.flatten().tolist() == pytest.approx([0.15] * len(found), rel=0.05)


def test_non_local_means_is_its_formula_pixel_by_pixel(photographs: Tensor) -> None:
    images, strength = noisy(photographs)[:1, :, :9, :9], 0.8
    found = non_local_means(damaged(images), strength, reach=2, side=3)
    x = images[0].double().numpy()
    variance = float(noise_level(images)) ** 2
    around = np.pad(x, ((0, 0), (2, 2), (2, 2)), mode="reflect")
    total, weights = np.zeros_like(x), np.zeros((9, 9))
    for down in range(5):
        for right in range(5):
            moved = around[:, down : down + 9, right : right + 9]
            wrong = ((x - moved) ** 2).mean(0)
            for row in range(9):
                for column in range(9):
                    apart = wrong[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].mean()
                    weight = np.exp(-max(apart - 2 * variance, 0) / (strength**2 * variance))
                    weight = 1.0 if (down, right) == (2, 2) else weight
                    total[:, row, column] += weight * moved[:, row, column]
                    weights[row, column] += weight
    torch.testing.assert_close(found[0], torch.from_numpy(total / weights).float(), atol=1e-4, rtol=1e-4)


def test_non_local_means_is_the_same_in_few_passes_and_in_many(photographs: Tensor) -> None:
    """81 shifts of 3 images of 16 px: one at a time, five (the last pass has one), and all."""
    given, plane = damaged(noisy(photographs)[:3]), 3 * 16 * 16
    expected = non_local_means(given, 0.8)
    for at_once, passes in ((1, 81), (5 * plane, 17), (81 * plane, 1)):
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            found = non_local_means(given, 0.8, at_once=at_once)
        assert [one.count for one in seen.key_averages() if one.key == "aten::exp_"] == [passes]
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("restore", [gaussian_filter, wiener_filter, non_local_means])
def test_filters_for_noise_remove_noise(photographs: Tensor, restore: object) -> None:
    assert callable(restore)
    restored = restore(damaged(noisy(photographs)), 1.0)
    assert psnr(restored, photographs).mean() > psnr(noisy(photographs), photographs).mean() + 3


def test_sharpening_undoes_part_of_a_blur(photographs: Tensor) -> None:
    blurred = gaussian_filter(damaged(photographs), 1.0)
    assert psnr(sharpen(damaged(blurred), 1.0), photographs).mean() > psnr(blurred, photographs).mean() + 3


def test_holes_take_the_nearest_visible_pixel_of_their_own_image() -> None:
    images = torch.arange(2 * 3 * 16.0).view(2, 3, 4, 4)
    hidden = torch.zeros(2, 1, 4, 4)
    hidden[0, 0] = 1
    hidden[0, 0, 0, 0] = 0  # a single visible pixel in the first image, while the second image has all of its own
    hidden[1, 0, :, 2:] = 1
    found = nearest_visible(damaged(images, hidden))
    assert torch.equal(found[0], images[0, :, :1, :1].expand(3, 4, 4))
    assert torch.equal(found[1], images[1][:, :, [0, 1, 1, 1]])


def test_smooth_inpainting_is_normalized_convolution(photographs: Tensor) -> None:
    torch.manual_seed(0)
    hidden = (torch.rand(len(photographs), 1, 16, 16) < 0.6).float()
    found = smooth_inpainting(damaged(torch.where(hidden > 0, 0.5, photographs), hidden), 1.0)
    assert torch.equal(torch.where(hidden > 0, 0, found), torch.where(hidden > 0, 0, photographs))
    seen = (1 - hidden[5, 0]).double().numpy()
    sums = ndimage.gaussian_filter(photographs[5, 1].double().numpy() * seen, 1.0, mode="constant")
    expected = torch.from_numpy(sums / ndimage.gaussian_filter(seen, 1.0, mode="constant")).float()
    where = hidden[5, 0] > 0
    torch.testing.assert_close(found[5, 1][where], expected[where], atol=1e-2, rtol=0)
    assert psnr(found, photographs, hidden).min() > 20


def test_color_of_lightness_is_the_mean_color_where_lightness_decides_it() -> None:
    ramp = torch.linspace(0.1, 0.9, 16)
    training = torch.stack([ramp, 0.8 * ramp, 0.5 * ramp]).view(1, 3, 1, 16).expand(4, 3, 16, 16)
    [restore] = COLOR.candidates(training)
    gray = Gray()(training)
    assert psnr(restore(damaged(gray)), training).min() > 25 > 20 > psnr(gray, training).max()
    lab = rgb_to_lab(restore(damaged(gray)))
    torch.testing.assert_close(lab[:, 0], rgb_to_lab(gray)[:, 0], atol=0.1, rtol=0)


def test_mean_image_is_that_of_training_images(photographs: Tensor) -> None:
    [restore] = MEAN_IMAGE.candidates(photographs[:8])
    torch.testing.assert_close(restore(damaged(photographs[8:])), photographs[:8].mean(0).expand(8, 3, 16, 16))


def test_pca_of_equal_size_is_that_of_scikit_learn(photographs: Tensor) -> None:
    [restore] = pca(5)(photographs[:12])
    fitted = PCA(5, svd_solver="full").fit(photographs[:12].flatten(1).double().numpy())
    rows = photographs[12:].flatten(1).double().numpy()
    expected = torch.from_numpy(fitted.inverse_transform(fitted.transform(rows))).float().view(4, 3, 16, 16)
    torch.testing.assert_close(restore(damaged(photographs[12:])), expected, atol=1e-3, rtol=1e-3)
    assert pca(15)(photographs) == []  # as many numbers as images span: it would give every training image back


def test_damage_has_its_restorers_once_and_holes_only_where_they_are_known() -> None:
    assert [one.name for one in for_damage([Gaussian(), Gaussian(), Gray()], holes_known=True)] == [
        "doing nothing", "the mean image", "a Gaussian filter", "a Wiener filter", "non-local means",
        "the mean color of equal lightness",
    ]  # fmt: skip
    assert len(for_damage([Holes()], holes_known=True)) == 4
    assert len(for_damage([Holes()], holes_known=False)) == 2

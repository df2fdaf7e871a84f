"""Trivial restorers: small pure functions from damaged images to images on the same device, with names.

A network that restores no better than these has learned nothing beyond a few lines of code. Filters are tuned like
everything else, on training images: a restorer has a candidate for each strength, and the one that restores damaged
training images best is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice, product
from typing import NamedTuple

import numpy as np
import torch
from kornia.color import lab_to_rgb, rgb_to_grayscale, rgb_to_lab
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from common.corruptions import AnyCorruption
from common.pixels import rows_within

LEAST_ERROR = 1e-10  # mean squared error below which images in [0, 1] are the same: 100 dB
INVISIBLE = 48.0  # dB: an error of about one of 255 levels, below which pictures of 8 bits look and measure the same
NORMAL_MEDIAN = 0.6745  # median magnitude of a standard normal number
LIGHTNESS_BINS = 32
# Pixels compared in one pass of non-local means: as many as a processor's cache holds; more in fewer passes on a GPU.
COMPARED, COMPARED_ON_GPU = 1 << 17, 1 << 23
COLOR_IMAGES = 256  # images on which the mean color of equal lightness is measured


class Damaged(NamedTuple):
    """What a restorer is given."""

    images: Tensor  # RGB [B 3 S S], damaged: noise may exceed [0, 1], hidden pixels are gray
    hidden: Tensor  # [B 1 S S], 1 where a pixel is known to be hidden


Restore = Callable[[Damaged], Tensor]  # -> RGB [B 3 S S]; the caller clips it to [0, 1]


class Restorer(NamedTuple):
    """A restorer by name. ``candidates`` gives one function per strength, from clean training images ``[N 3 S S]``.

    There are none if it cannot be fitted to so few images.
    """

    name: str
    candidates: Callable[[Tensor], Sequence[Restore]]


def psnr(restored: Tensor, clean: Tensor, weight: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of images ``[B 3 S S]`` in [0, 1], in dB, ``[B]``.

    ``-10 log10`` of the mean squared error; ``weight`` ``[B 1 S S]`` says where error counts. Equal images have 100 dB.
    """
    wrong = (restored.double() - clean.double()).square()
    if weight is None:
        return -10 * wrong.mean((1, 2, 3)).clamp_min(LEAST_ERROR).log10()
    counted = weight.double().expand_as(wrong)
    mean = (wrong * counted).sum((1, 2, 3)) / counted.sum((1, 2, 3)).clamp_min(1)
    return -10 * mean.clamp_min(LEAST_ERROR).log10()


def anything_lost(trivial: Tensor, spared: str) -> Tensor:
    """Whether there was anything to restore in images that a trivial restorer restores with this PSNR in dB, ``[B]``.

    A gray image has no color to restore, and the hidden pixels of a blank one are known. Such an image has up to 100 dB
    without any network: it says nothing about one, and would dominate a mean.

    Args:
        spared: of the pretext; if it is empty, something is lost in every image.
    """
    return trivial < INVISIBLE if spared else torch.ones_like(trivial, dtype=torch.bool)


# ---- for any damage


def do_nothing(damaged: Damaged) -> Tensor:
    return damaged.images


def same_image(damaged: Damaged, image: Tensor) -> Tensor:
    """``image`` ``[3 S S]``, whatever the input."""
    return image.expand_as(damaged.images)


# ---- for noise


def gaussian_filter(damaged: Damaged, width: float) -> Tensor:
    """Convolution with a Gaussian of this standard deviation in pixels."""
    return _filtered(ndimage.gaussian_filter, damaged.images, sigma=(0, 0, width, width))


def median_filter(damaged: Damaged, side: int) -> Tensor:
    """The median of each square of ``side`` pixels."""
    return _filtered(ndimage.median_filter, damaged.images, size=(1, 1, side, side))


def wiener_filter(damaged: Damaged, strength: float, side: int = 5) -> Tensor:
    """The adaptive Wiener filter (Lim 1990): each pixel is pulled towards its local mean, where noise explains it.

    ``m + max(v - n, 0) / v (x - m)`` with the mean ``m`` and variance ``v`` of a square of ``side`` pixels. The noise
    variance ``n`` is estimated from each image, times the square of ``strength``.
    """
    images = damaged.images
    noise = (strength * noise_level(images)).square()
    mean = _box(images, side)
    variance = (_box(images.square(), side) - mean.square()).clamp_min(1e-12)
    return mean + (variance - noise).clamp_min(0) / variance * (images - mean)


def non_local_means(
    damaged: Damaged, strength: float, reach: int = 4, side: int = 5, at_once: int | None = None
) -> Tensor:
    """Non-local means (Buades, Coll and Morel 2005): the mean of pixels around which the image looks alike.

    Pixels up to ``reach`` away weigh ``exp(-max(d² - 2σ², 0) / h²)``, where ``d²`` is the mean squared difference of
    the squares of ``side`` pixels around them, over colors. σ is estimated from each image; ``h`` is ``strength`` σ.

    Args:
        at_once: pixels that are compared in one pass, over all images and shifts; results differ only by rounding.
            None: as suits the device.
    """
    images = damaged.images
    height, width = images.shape[2:]
    reach = min(reach, height - 1, width - 1)
    if at_once is None:
        at_once = COMPARED if images.device.type == "cpu" else COMPARED_ON_GPU
    variance = noise_level(images).square()
    scale = (strength**2 * variance).clamp_min(1e-8)
    share = -1 / (images.shape[1] * _inside(images, side) * scale[:, 0])  # turns a sum of squares into -d² / h²
    by_noise = (2 * variance / scale)[:, 0]  # what noise alone adds to d² / h²
    around = F.pad(images, [reach] * 4, mode="reflect")
    shifts = product(range(2 * reach + 1), repeat=2)
    total, weights = torch.zeros_like(images), torch.zeros_like(images[:, 0])
    while some := list(islice(shifts, rows_within(weights.numel(), at_once))):
        moved = [around[:, :, down : down + height, right : right + width] for down, right in some]
        apart = images.new_empty(len(moved), *weights.shape)  # [shifts B H W], filled in place, as it is faster
        for one, squares in zip(moved, apart, strict=True):
            torch.sum(F.mse_loss(images, one, reduction="none"), 1, out=squares)
        weight = _sums(apart, side).mul_(share).add_(by_noise).clamp_max_(0).exp_()
        for one, alike in zip(moved, weight, strict=True):
            total.addcmul_(alike[:, None], one)
            weights += alike
    return total / weights[:, None]


def noise_level(images: Tensor) -> Tensor:
    """The standard deviation of noise in images ``[B 3 S S]``, ``[B 1 1 1]`` (Donoho and Johnstone 1994).

    From the median magnitude of the finest diagonal Haar coefficients, where natural images have little.
    """
    even = images[:, :, : images.shape[2] // 2 * 2, : images.shape[3] // 2 * 2]
    a, b = even[:, :, ::2, ::2], even[:, :, ::2, 1::2]
    c, d = even[:, :, 1::2, ::2], even[:, :, 1::2, 1::2]
    return ((a - b - c + d) / 2).abs().flatten(1).median(1).values.view(-1, 1, 1, 1) / NORMAL_MEDIAN


# ---- for blur


def sharpen(damaged: Damaged, amount: float) -> Tensor:
    """Unsharp masking: what a Gaussian filter of one pixel takes away is added ``amount`` times."""
    return damaged.images + amount * (damaged.images - gaussian_filter(damaged, 1.0))


# ---- for lost color


def color_of_lightness(damaged: Damaged, table: Tensor) -> Tensor:
    """The image's lightness with the ``ab`` of its bin in ``table`` ``[bins 2]`` (CIELAB)."""
    lightness = rgb_to_lab(damaged.images.clamp(0, 1))[:, :1]
    colors = table[_lightness_bin(lightness[:, 0])].permute(0, 3, 1, 2)
    restored: Tensor = lab_to_rgb(torch.cat([lightness, colors], 1))
    return restored


def fit_color_of_lightness(training: Tensor) -> list[Restore]:
    """The mean color of training pixels that are equally light once gray."""
    some = training[:COLOR_IMAGES]
    colors = rgb_to_lab(some)[:, 1:].permute(0, 2, 3, 1).reshape(-1, 2)
    bins = _lightness_bin(rgb_to_lab(rgb_to_grayscale(some).repeat(1, 3, 1, 1))[:, 0]).flatten()
    counts = bins.bincount(minlength=LIGHTNESS_BINS)[:, None]
    sums = colors.new_zeros(LIGHTNESS_BINS, 2).index_add_(0, bins, colors)
    table = torch.where(counts > 0, sums / counts.clamp_min(1), colors.mean(0))
    return [partial(color_of_lightness, table=table)]


def _lightness_bin(lightness: Tensor) -> Tensor:
    return (lightness * (LIGHTNESS_BINS / 100)).long().clamp(0, LIGHTNESS_BINS - 1)


# ---- for holes


def nearest_visible(damaged: Damaged) -> Tensor:
    """Every hidden pixel takes the color of the nearest visible one of its image."""
    hidden = damaged.hidden[:, 0].cpu().numpy() > 0
    apart = 4 * sum(hidden.shape[1:])  # images lie further apart than their own pixels
    where = ndimage.distance_transform_edt(hidden, (apart, 1, 1), return_distances=False, return_indices=True)
    number, row, column = (torch.from_numpy(index).long().to(damaged.images.device) for index in where)
    return damaged.images.permute(0, 2, 3, 1)[number, row, column].permute(0, 3, 1, 2)


def smooth_inpainting(damaged: Damaged, width: float) -> Tensor:
    """Every hidden pixel is a mean of visible ones, weighted by a Gaussian (normalized convolution).

    Knutsson and Westin 1993. Far from all of them, it is the mean of all.
    """
    visible = 1 - damaged.hidden
    mean = (damaged.images * visible).mean((2, 3), keepdim=True) / visible.mean((2, 3), keepdim=True).clamp_min(1e-6)
    sums, weights = (
        _filtered(ndimage.gaussian_filter, part, sigma=(0, 0, width, width), mode="constant")
        for part in (damaged.images * visible, visible)
    )
    return torch.where(damaged.hidden > 0, (sums + 1e-4 * mean) / (weights + 1e-4), damaged.images)


# ---- for a narrow code


def pca(size: int) -> Callable[[Tensor], list[Restore]]:
    """Candidates of the best linear code of ``size`` numbers per image; none if it could hold every training image."""

    def candidates(training: Tensor) -> list[Restore]:
        rows = training.flatten(1).cpu().numpy()
        if size >= min(len(rows) - 1, rows.shape[1]):
            return []
        from sklearn.decomposition import PCA  # takes a second to import

        fitted = PCA(size, svd_solver="randomized", random_state=0).fit(rows)
        mean, basis = (torch.from_numpy(part).to(training.device) for part in (fitted.mean_, fitted.components_))
        return [partial(projected, mean=mean, basis=basis)]

    return candidates


def projected(damaged: Damaged, mean: Tensor, basis: Tensor) -> Tensor:
    """The nearest images in the space ``mean [d]`` plus the rows of ``basis [k d]``."""
    rows = damaged.images.flatten(1) - mean
    return (mean + rows @ basis.T @ basis).view_as(damaged.images)


# ---- their names, and what they are for


def _fixed(*functions: Restore) -> Callable[[Tensor], Sequence[Restore]]:
    """Candidates that need no training images."""
    return lambda training: functions


NOTHING = Restorer("doing nothing", _fixed(do_nothing))
GRAY = Restorer("leaving it gray", _fixed(do_nothing))
MEAN_IMAGE = Restorer("the mean image", lambda training: [partial(same_image, image=training.mean(0))])
GAUSSIAN = Restorer("a Gaussian filter", _fixed(*(partial(gaussian_filter, width=w) for w in (0.4, 0.6, 0.9, 1.4))))
WIENER = Restorer("a Wiener filter", _fixed(*(partial(wiener_filter, strength=k) for k in (0.7, 1.0, 1.4))))
NON_LOCAL = Restorer("non-local means", _fixed(*(partial(non_local_means, strength=k) for k in (0.5, 0.8, 1.2))))
MEDIAN = Restorer("a median filter", _fixed(*(partial(median_filter, side=n) for n in (3, 5))))
SHARPEN = Restorer("sharpening", _fixed(*(partial(sharpen, amount=a) for a in (0.5, 1.0, 2.0))))
COLOR = Restorer("the mean color of equal lightness", fit_color_of_lightness)
NEAREST = Restorer("the nearest visible pixel", _fixed(nearest_visible))
SMOOTH = Restorer("smooth inpainting", _fixed(*(partial(smooth_inpainting, width=w) for w in (1.0, 2.0, 4.0))))

# For a corruption that is not listed, doing nothing and the mean image are enough.
FOR_DAMAGE: dict[str, tuple[Restorer, ...]] = {
    "gaussian": (GAUSSIAN, WIENER, NON_LOCAL),
    "salt_pepper": (MEDIAN,),
    "blur": (SHARPEN,),
    "jpeg": (GAUSSIAN, NON_LOCAL),
    "gray": (COLOR,),
    "holes": (NEAREST, SMOOTH),  # they need to know where the holes are
}


def for_damage(corruptions: Iterable[AnyCorruption], *, holes_known: bool) -> tuple[Restorer, ...]:
    """Restorers for images with this damage; ``holes_known``: the encoder knows where holes are."""
    usable = [damage.kind for damage in corruptions if holes_known or damage.kind != "holes"]
    found = [one for kind in usable for one in FOR_DAMAGE.get(kind, ())]
    return tuple(dict.fromkeys([NOTHING, MEAN_IMAGE, *found]))


def _box(images: Tensor, side: int) -> Tensor:
    """The mean of each square of ``side`` pixels (odd), cut off at the border: ten times as fast as ``avg_pool2d``."""
    return _sums(images, side) / _inside(images, side)


def _sums(images: Tensor, side: int) -> Tensor:
    """The sum of each square of ``side`` pixels (odd), cut off at the border."""
    sums = F.pad(images, [side // 2] * 4)
    for axis in (3, 2):
        around, length = sums, images.shape[axis]
        sums = around.narrow(axis, 0, length).clone()
        for shift in range(1, side):
            sums += around.narrow(axis, shift, length)
    return sums


def _inside(images: Tensor, side: int) -> Tensor:
    """How many pixels of the square around each one lie in the image, ``[H W]``."""
    rows, columns = (torch.arange(length, device=images.device) for length in images.shape[2:])
    reach = side // 2
    down = rows.clamp(max=reach) + rows.flip(0).clamp(max=reach) + 1
    right = columns.clamp(max=reach) + columns.flip(0).clamp(max=reach) + 1
    return down[:, None] * right


def _filtered(function: Callable[..., NDArray[np.float32]], images: Tensor, **settings: object) -> Tensor:
    return torch.from_numpy(function(images.cpu().numpy(), **settings)).to(images.device)

"""PSNR and SSIM of pictures of any size, a part at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

from kornia.metrics import ssim as ssim_map
from torch import Tensor

from pretrain.restoring.results import Scores
from pretrain.ruler.restorers import LEAST_ERROR

PIXELS = 1 << 21  # pixels of a picture that are compared at a time, in whole rows
WINDOW = 11  # side of SSIM's Gaussian window, whose standard deviation is 1.5 pixels


def score(picture: Tensor, clean: Tensor, counted: Tensor | None = None) -> Scores | None:
    """PSNR and SSIM of pictures ``[3 H W]``, uint8. None if no pixel counts.

    Args:
        counted: bool ``[1 H W]``, the pixels that PSNR is of; by default, all.
    """
    found = psnr(picture, clean, counted)
    return None if found is None else Scores(psnr=found, ssim=ssim(picture, clean))


def psnr(picture: Tensor, clean: Tensor, counted: Tensor | None = None) -> float | None:
    """``-10 log10`` of the mean squared error of pictures ``[3 H W]``, uint8 as 0..1, in dB; 100 dB if they are equal.

    ``counted``: as for ``score``.
    """
    wrong = pixels = 0
    for rows in _parts(picture.shape[1], picture.shape[2], 0):
        apart = (picture[:, rows].int() - clean[:, rows].int()).square()
        wrong += int((apart if counted is None else apart * counted[:, rows]).sum())
        pixels += apart.numel() if counted is None else 3 * int(counted[:, rows].sum())
    return round(-10 * math.log10(max(wrong / pixels / 255**2, LEAST_ERROR)), 4) if pixels else None


def ssim(picture: Tensor, clean: Tensor) -> float | None:
    """Structural similarity (Wang et al. 2004) of pictures ``[3 H W]``, uint8, over all places of the window.

    None if a side is shorter than the window.
    """
    if min(picture.shape[1:]) < WINDOW:
        return None
    total = places = 0.0
    for rows in _parts(picture.shape[1] - WINDOW + 1, picture.shape[2], WINDOW - 1):
        parts = (image[None, :, rows].double() / 255 for image in (picture, clean))
        found: Tensor = ssim_map(*parts, WINDOW, padding="valid")
        total, places = total + float(found.sum()), places + found.numel()
    return round(total / places, 6)


def _parts(height: int, width: int, more: int) -> Iterator[slice]:
    """The rows of a picture in parts, each with ``more`` rows of the next."""
    some = max(1, PIXELS // width)
    for top in range(0, height, some):
        yield slice(top, min(top + some, height) + more)

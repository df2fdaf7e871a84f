"""Bounded samples of the training images, for statistics, reports and panels."""

from __future__ import annotations

from torch import Tensor

from common.data import Images
from common.data.rows import even_rows
from common.pixels import to_float

SAMPLE_IMAGES, SAMPLE_BYTES = 2048, 1 << 28  # at most this many images, and this many bytes as floats
PANEL_IMAGES = 8


def sample(images: Images, count: int = SAMPLE_IMAGES, *, size: int | None = None) -> Tensor:
    """At most ``count`` images ``[N 3 S S]`` in [0, 1], evenly spaced, on the CPU, of at most ``SAMPLE_BYTES``.

    ``size`` crops them to this side, for methods that load larger images than their encoder sees.
    """
    return to_float(images.rows(sampled(images, count)))[:, :, :size, :size]


def sampled(images: Images, count: int = SAMPLE_IMAGES) -> Tensor:
    """The rows of ``sample``, int64 ``[N]``."""
    most = max(1, SAMPLE_BYTES // (4 * 3 * images.size**2))
    return even_rows(len(images), min(count, most))

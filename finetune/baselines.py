"""Baselines: the untrained twin of the encoder, and raw pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from common.data import Images
from common.data.rows import even_rows
from common.encoders import statistics
from common.encoders.base import Encoder
from common.encoders.load import load_encoder, random_twin
from common.pixels import to_float
from finetune.solvers.gram import blocks

# for the untrained twin's BatchNorm: estimates channel means to about 1% of a standard deviation
STATISTICS_IMAGES = 1024
PIXEL_SIDE = 32  # px; larger images are area-averaged to this side before their pixels become features


class Pixels(Encoder):
    """Raw pixels: the image itself is the only map, area-averaged to at most 32 px per side."""

    def __init__(self, image_size: int) -> None:
        super().__init__("pixels", image_size, "rgb", mask_channel=False)
        self.side = min(image_size, PIXEL_SIDE)
        self.settle()

    def layers(self, images: Tensor) -> list[Tensor]:
        """Images ``[B 3 S S]``, RGB in [0, 1] -> the image as one map, ``[B 3 s s]``."""
        if images.shape[2] == self.side:
            return [images]
        return [interpolate(images, (self.side, self.side), mode="area")]


def untrained(folder: Path, seed: int, images: Images, device: torch.device) -> Encoder:
    """The untrained twin of the encoder in ``folder``: random initialization, frozen, with the statistics of its data.

    Args:
        images: training images; their labels are not used.
    """
    twin = random_twin(folder, seed)
    share_statistics(twin, folder, images, device)
    return twin.freeze()


def share_statistics(twin: Encoder, folder: Path, images: Images, device: torch.device) -> None:
    """``common.encoders.statistics.share_statistics`` with the encoder in ``folder``, over evenly spaced ``images``.

    The twin is moved to ``device``, and is in eval mode at the end.
    """
    statistics.share_statistics(twin.to(device), load_encoder(folder), _spread_batches(images, device))


def _spread_batches(images: Images, device: torch.device) -> Iterator[Tensor]:
    for part in blocks(even_rows(len(images), STATISTICS_IMAGES), 256):
        yield to_float(images.rows(part).to(device))

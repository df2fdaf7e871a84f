"""What an encoder is measured against: itself untrained, and no network at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.modules.batchnorm import _BatchNorm

from common.data import Images
from common.data.rows import even_rows
from common.encoders.base import Encoder
from common.encoders.load import load_encoder, random_twin
from common.pixels import to_float
from finetune.solvers.gram import blocks

# for BatchNorm of the untrained network: channel means are then known to about 1% of a standard deviation
STATISTICS_IMAGES = 1024
PIXEL_SIDE = 32  # larger images are averaged down to this side before their pixels are taken as features


class Pixels(Encoder):
    """No network: the image itself as its only map, averaged down to at most 32 px a side."""

    def __init__(self, image_size: int) -> None:
        super().__init__("pixels", image_size, "rgb", mask_channel=False)
        self.side = min(image_size, PIXEL_SIDE)
        self.settle()

    def layers(self, images: Tensor) -> list[Tensor]:
        """Images ``[B 3 S S]``, RGB in [0, 1] -> themselves, ``[B 3 s s]``."""
        if images.shape[2] == self.side:
            return [images]
        return [interpolate(images, (self.side, self.side), mode="area")]


def untrained(folder: Path, seed: int, images: Images, device: torch.device) -> Encoder:
    """The encoder in ``folder`` at random initialisation, frozen, with the statistics of its data.

    A trained encoder has seen them; without them an untrained one would be handicapped by more than its weights. Those
    of BatchNorm are averaged over evenly spread training images, whose labels are not used; a mean image or a whitening
    is the trained encoder's own.
    """
    encoder = random_twin(folder, seed)
    if encoder.statistics:
        trained = load_encoder(folder)
        for name in encoder.statistics:
            encoder.get_buffer(name).copy_(trained.get_buffer(name))
    encoder = encoder.to(device)
    norms = [module for module in encoder.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if norms:
        estimate_statistics(encoder, norms, _spread_batches(images, device))
    return encoder.freeze()


def estimate_statistics(encoder: nn.Module, norms: list[_BatchNorm], batches: Iterator[Tensor]) -> None:
    """Set the running statistics of ``norms`` to their plain average over ``batches`` ``[B 3 H W]`` in [0, 1].

    All but the norms stay in eval mode, so dropout draws nothing.
    """
    momenta = [norm.momentum for norm in norms]
    encoder.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average: every batch counts the same
        norm.train()
    with torch.no_grad():
        for batch in batches:
            encoder(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _spread_batches(images: Images, device: torch.device) -> Iterator[Tensor]:
    for part in blocks(even_rows(len(images), STATISTICS_IMAGES), 256):
        if len(part) > 1:  # a variance needs two
            yield to_float(images.rows(part).to(device))

"""The network before training, for comparison."""

from __future__ import annotations

from torch import Tensor

from common.encoders.base import Encoder
from common.encoders.card import rebuild
from common.encoders.statistics import share_statistics
from common.pixels import in_chunks

STATISTICS = 128  # training images that the untrained network's BatchNorm is settled on


def untrained(encoder: Encoder, training: Tensor) -> Encoder:
    """The same network before training, with the statistics of training images ``[N 3 S S]`` in [0, 1]."""
    twin = rebuild(encoder.config, encoder.image_size, encoder.view).to(encoder.mean.device)
    share_statistics(twin, encoder, (some.to(twin.mean.device) for some in in_chunks(training)))
    return twin

"""What an untrained network gets of the data, so that it differs from the trained one in learned weights alone."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.encoders.base import Encoder


def share_statistics(twin: Encoder, encoder: Encoder, batches: Iterable[Tensor]) -> None:
    """Give an untrained twin all that the encoder knows of its data besides learned weights.

    The one rule for every untrained network, whether it is probed, fine-tuned or monitored: twin and encoder
    differ in learned weights alone. The constants that standardize images, and statistics such as a mean image or a
    whitening transform, are copied. BatchNorm statistics belong to the weights below them, so they are averaged for the
    twin's own. The twin is in eval mode at the end.

    Args:
        batches: training images ``[B 3 H W]`` in [0, 1], on the twin's device.
    """
    for name in ("mean", "std", *encoder.statistics):
        twin.get_buffer(name).copy_(encoder.get_buffer(name))
    settle_norms(twin, batches)


def settle_norms(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of every BatchNorm to their plain average over ``batches`` ``[B 3 H W]`` in [0, 1].

    Everything but the norms is in eval mode, so dropout is inactive; so are the norms at the end. A batch of one image
    has no variance and is skipped. Nothing is read if there is no norm.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    network.eval()
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average: every batch counts the same
        norm.train()
    with torch.no_grad():
        for batch in batches:
            if len(batch) > 1:
                network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()

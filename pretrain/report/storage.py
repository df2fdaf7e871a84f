"""The storage size of the code of an image."""

from __future__ import annotations

import torch
from torch import Tensor

from common.encoders.base import Encoder
from common.encoders.storage import ENTRY_BYTES, NONZERO_BYTES
from common.pixels import in_chunks
from pretrain.results import CodeStorage


@torch.no_grad()
def code_storage(encoder: Encoder, images: Tensor) -> CodeStorage:
    """Measured on images ``[N 3 S S]`` in [0, 1]."""
    nonzeros = size = 0
    for some in in_chunks(images):
        codes = encoder(some.to(encoder.mean.device)).flatten(1)
        nonzeros, size = nonzeros + int(codes.count_nonzero()), codes.shape[1]
    mean = nonzeros / len(images)
    return CodeStorage(
        code_size=size,
        nonzeros=round(mean, 2),
        bytes_dense=ENTRY_BYTES * size,
        bytes_sparse=round(NONZERO_BYTES * mean, 1),
    )

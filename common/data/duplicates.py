"""Test images that are also training images."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator

import torch
from torch import Tensor

from common.data.images import Images
from common.data.loader import in_order

log = logging.getLogger("retouch")


def find_duplicates(test: Images, train: Images, *, workers: int = 0) -> Tensor:
    """Rows of ``test`` whose decoded pixels are, byte for byte, those of some row of ``train``: int64, ascending."""
    known = {key for _, key in _hashes(train, workers)}
    return torch.tensor([row for row, key in _hashes(test, workers) if key in known], dtype=torch.int64)


def warn_of_duplicates(test: Images, train: Images, *, workers: int = 0) -> int:
    """Count them; warn of them, and go on."""
    count = len(find_duplicates(test, train, workers=workers))
    if count:
        log.warning(
            "%d of %d test images are byte-identical to training images: the test accuracy may flatter",
            count,
            len(test.readable()),
        )
    return count


def _hashes(images: Images, workers: int) -> Iterator[tuple[int, bytes]]:
    """Each readable row with its 128-bit hash: two different images share one with a chance of 2**-128."""
    for batch in in_order(images, 256, workers):
        for row, image in zip(batch.index.tolist(), batch.images.numpy(), strict=True):
            yield row, hashlib.blake2b(image, digest_size=16).digest()

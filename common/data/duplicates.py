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
    """Rows of ``test`` whose decoded pixels equal those of some row of ``train``: int64, ascending."""
    known = {key for _, key in _hashes(train, workers)}
    return torch.tensor([row for row, key in _hashes(test, workers) if key in known], dtype=torch.int64)


def warn_of_duplicates(test: Images, train: Images, *, workers: int = 0) -> int:
    """Count them, and warn if there are any."""
    count = len(find_duplicates(test, train, workers=workers))
    if count:
        log.warning(
            "%d of %d test images are identical to training images: test accuracy may be too high",
            count,
            len(test) - (0 if test.checked else len(test.unreadable)),
        )
    return count


def _hashes(images: Images, workers: int) -> Iterator[tuple[int, bytes]]:
    """Each readable row with its 128-bit hash; two different images collide with probability 2**-128."""
    for batch in in_order(images, 256, workers):
        for row, image in zip(batch.index.tolist(), batch.images.numpy(), strict=True):
            yield row, hashlib.blake2b(image, digest_size=16).digest()

"""Test images that other images repeat, exactly or nearly.

Exactly: the same decoded pixels. Nearly: another size, compression, brightness or coloring of the same picture, or one
of which a few percent are cut off. Crops of a tenth and more, and mirror images, are mostly not found
(``benchmarks/near_duplicates.py``).

They are found in two steps. A difference hash (dHash, 64 bits: whether each cell of an 8x9 thumbnail is darker than its
right neighbor) names candidates, at most 10 bits apart; a correlation of at least 0.9 between gray 16x16 thumbnails
confirms them.

On CIFAR-10, of pairs whose hashes are at most 3 bits apart, 8 in 10 show the same picture; at most 10 bits, 1 in 30.
The correlation keeps 330 pairs of these 10,144, and they repeat 219 of the 10,000 test images.
"""

from __future__ import annotations

import hashlib
import logging
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from common.data.images import Images
from common.data.loader import in_order
from common.pixels import to_float

log = logging.getLogger("retouch")

BITS, APART = 64, 10  # of a hash, and the most of them that differ between hashes of one picture
SIDE, ALIKE = 16, 0.9  # side in px of correlated thumbnails, and the least correlation of one picture
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
ROWS = 256  # test images that are compared with all others at once
PIECE = 1 << 16  # candidates that are confirmed at once
# candidates above this share of all pairs, beyond the first few, mean that all images look alike; CIFAR-10 has 2e-5
MOST, FEW = 1e-3, 10_000


class Prints(NamedTuple):
    """What images are recognized by."""

    rows: Tensor  # int64 [n], those that can be read
    exact: list[bytes]  # 128-bit hashes of pixels; two different images collide with probability 2**-128
    hashes: Tensor  # bool [n 64]
    thumbnails: Tensor  # uint8 [n 256]


class Pair(NamedTuple):
    """A test image and the image that repeats it, by their rows."""

    test: int
    other: int
    alike: float  # correlation of their thumbnails; 1 only if their pixels are the same


def fingerprints(images: Images, workers: int = 0) -> Prints:
    """One pass over the readable images, in order."""
    rows, exact, hashes, thumbnails = [], list[bytes](), [], []
    for batch in in_order(images, 256, workers):
        exact += [hashlib.blake2b(image, digest_size=16).digest() for image in batch.images.numpy()]
        gray = (to_float(batch.images) * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        rows.append(batch.index)
        hashes.append(difference_hash(gray))
        thumbnails.append((255 * adaptive_avg_pool2d(gray, SIDE)).round().byte().flatten(1))
    return Prints(torch.cat(rows), exact, torch.cat(hashes), torch.cat(thumbnails))


def difference_hash(gray: Tensor) -> Tensor:
    """Gray images ``[b 1 S S]`` -> bool ``[b 64]``: whether each cell of an 8x9 thumbnail is darker than the next."""
    small = adaptive_avg_pool2d(gray, (8, 9))
    return (small[..., :-1] < small[..., 1:]).flatten(1)


def exact_rows(test: Prints, other: Prints) -> Tensor:
    """Rows of test images whose pixels equal those of some other image: int64, ascending."""
    known = set(other.exact)
    return test.rows[torch.tensor([key in known for key in test.exact], dtype=torch.bool)]


def near_pairs(test: Prints, other: Prints) -> list[Pair] | None:
    """Every pair that is nearly the same, exact ones included, the most alike first.

    ``None`` if the images of these sets look so much alike (digits, X-rays) that the hash tells nothing.
    """
    signs = other.hashes.float() * 2 - 1
    found, candidates = [], 0
    for start in range(0, len(test.rows), ROWS):
        agreement = (test.hashes[start : start + ROWS].float() * 2 - 1) @ signs.T  # bits alike minus bits apart
        near = (agreement >= BITS - 2 * APART).nonzero() + torch.tensor([start, 0])
        candidates += len(near)
        if candidates > FEW + MOST * min(start + ROWS, len(test.rows)) * len(other.rows):
            return None
        found += [_confirmed(test, other, piece) for piece in torch.split(near, PIECE)]
    pairs = [pair for some in found for pair in some]
    return sorted(pairs, key=lambda pair: (-pair.alike, pair.test, pair.other))


def _confirmed(test: Prints, other: Prints, near: Tensor) -> list[Pair]:
    """The candidates, places ``[k 2]``, whose thumbnails are alike."""
    left, right = (_centered(prints.thumbnails[near[:, side]]) for side, prints in enumerate((test, other)))
    correlation = (left * right).sum(1)
    pairs = []
    for (mine, theirs), alike in zip(near.tolist(), correlation.tolist(), strict=True):
        same = test.exact[mine] == other.exact[theirs]
        if same or alike >= ALIKE:
            value = 1.0 if same else min(alike, 0.9999)
            pairs.append(Pair(int(test.rows[mine]), int(other.rows[theirs]), round(value, 4)))
    return pairs


def _centered(thumbnails: Tensor) -> Tensor:
    """Thumbnails ``[k 256]``, minus their mean and at length 1; flat ones are 0."""
    values = thumbnails.float()
    values = values - values.mean(1, keepdim=True)
    return torch.nn.functional.normalize(values, dim=1, eps=1e-3)

"""Images held out of training without labels, to measure on."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from common.data.images import Images
from common.data.source import Source
from common.machine.distributed import place
from common.runs.logs import say_once

FEWEST = 100  # of fewer images, none are held out: each is worth more in training
LEAST, MOST = 32, 2048  # images held out; with fewer, a loss 1.5 times as high could be chance,
LARGEST_SHARE = 0.1  # but at most this share of a small set is held out
GENERATED = 64  # at least, of generated images, which cost training none
LARGEST_BYTES = 1 << 28  # held-out images take at most this much as floats


def hold_out(images: Images, share: float, seed: int) -> tuple[Images, Images | None]:
    """Images to train on and images held out, both in the source's order; None if none are held out.

    A function of (images, share, seed): all processes agree, and so does a resumed run. Sources that generate images
    make new ones, so that training keeps all of its own. Rows cut from one image stay together.

    Args:
        share: of the images, in [0, 1); 0 holds out none. Of few images, more are held out: ``LEAST``, or a tenth.
    """
    if not share:
        return images, None
    source, count = images.source, len(images)
    if source.endless:
        first = int(images.kept.max()) + 1
        rows = torch.arange(first, first + min(_most(images.size), max(GENERATED, round(share * count))))
        return images, Images(source, images.size, rows, levels=images.levels)
    held = held_rows(source, images.kept, images.size, share, seed)
    if not held.any():
        if place()[0] == 0:  # every process would say the same
            count = len(torch.unique(images.kept // source.rows_per_image))
            # the contestants of a study learn from the same images
            say_once(logging.INFO, f"{source.spec}: none of {count} images are held out: there are fewer than {FEWEST}")
        return images, None
    return images.only((~held).nonzero().flatten()), images.only(held.nonzero().flatten())


def held_rows(source: Source, kept: Tensor, size: int, share: float, seed: int) -> Tensor:
    """Which of the rows ``kept`` ``[N]`` of a source are held out where they are learned from, bool ``[N]``.

    None of generated images: new ones are made.
    """
    whole = kept // source.rows_per_image  # the image that each row is cut from
    names = torch.from_numpy(np.unique(whole.numpy()))
    if not share or source.endless or len(names) < FEWEST:
        return torch.zeros(len(kept), dtype=torch.bool)
    least = min(LEAST, int(LARGEST_SHARE * len(names)))
    wanted = min(max(least, round(share * len(names))), max(1, _most(size) // source.rows_per_image))
    chosen = np.random.default_rng([seed, len(names)]).permutation(len(names))[:wanted]
    return torch.isin(whole, names[torch.from_numpy(chosen)])


def _most(size: int) -> int:
    """Images that are held out at most, as squares of this side."""
    return min(MOST, LARGEST_BYTES // (4 * 3 * size**2))

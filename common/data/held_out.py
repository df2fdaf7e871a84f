"""Images held out of training without labels, to measure on."""

from __future__ import annotations

import logging

import numpy as np
import torch

from common.data.images import Images
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
    most = min(MOST, LARGEST_BYTES // (4 * 3 * images.size**2))
    if source.endless:
        first = int(images.kept.max()) + 1
        rows = torch.arange(first, first + min(most, max(GENERATED, round(share * count))))
        return images, Images(source, images.size, rows, levels=images.levels)
    whole = images.kept // source.rows_per_image  # the image that each row is cut from
    names = torch.from_numpy(np.unique(whole.numpy()))
    if len(names) < FEWEST:
        if place()[0] == 0:  # every process would say the same
            # the contestants of a study learn from the same images
            say_once(
                logging.INFO, f"{source.spec}: none of {len(names)} images are held out: there are fewer than {FEWEST}"
            )
        return images, None
    least = min(LEAST, int(LARGEST_SHARE * len(names)))
    wanted = min(max(least, round(share * len(names))), max(1, most // source.rows_per_image))
    chosen = np.random.default_rng([seed, len(names)]).permutation(len(names))[:wanted]
    held = torch.isin(whole, names[torch.from_numpy(chosen)])
    return images.only((~held).nonzero().flatten()), images.only(held.nonzero().flatten())

"""The null check of masks: a probe that learned masks of other images knows nothing about the test masks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.data.rows import even_rows
from common.encoders.base import Encoder
from finetune.checks import FREEDOM, null_of_repetitions
from finetune.dense.cells import cell_counts, enlarge, fewer_pixels, in_parts, mean_iou, overlaps
from finetune.dense.data import MaskedSet
from finetune.dense.fitting import Discriminant, Moments, discriminant
from finetune.dense.passes import CHOICE_SIDE, Chosen, maps_of
from finetune.features import Extraction
from finetune.records import NullCheck

NULL_MASKS = 100  # images to fit on, and to test on, at most: each has many pixels


class Exchange(NamedTuple):
    """A mask of another image for each image, rolled."""

    rows: Tensor  # int64 [n], whose mask it gets
    by: Tensor  # int64 [n 2], in px, down and right

    @classmethod
    def drawn(cls, images: int, side: int, random: np.random.Generator) -> Exchange:
        rows, by = random.permutation(images), random.integers(side, size=(images, 2))
        return cls(torch.from_numpy(rows), torch.from_numpy(by))

    def truth(self, some: MaskedSet, index: Tensor) -> Tensor:
        """The exchanged masks of the images ``index``: int64 ``[b S S]``, -1 where nothing counts."""
        masks = some.truth(self.rows[index])
        return torch.stack(
            [
                mask.roll((down, right), (0, 1))
                for mask, (down, right) in zip(masks, self.by[index].tolist(), strict=True)
            ]
        )


def check_null_masks(
    encoder: Encoder, chosen: Chosen, train: MaskedSet, test: MaskedSet, seed: int, how: Extraction
) -> NullCheck | None:
    """Fit and test the chosen probe with masks exchanged among training images; ``None`` with fewer than two images.

    Each mask is also rolled, by a distance of its own: masks of other images still know that skies are above, and so do
    features. Its mean IoU is compared with that of the same answers on the masks of other test images, which is chance
    and depends on how often each class is answered. It takes one pass over the images that are used, at the resolution
    of the choices.
    """
    train = train.only(even_rows(len(train.images), NULL_MASKS))
    test = test.only(even_rows(len(test.images), NULL_MASKS))
    if min(len(train.images), len(test.images)) < 2:
        return None
    random = [np.random.default_rng([seed, number]) for number in range(FREEDOM)]
    exchanges = [Exchange.drawn(len(train.images), train.images.size, one) for one in random]
    others = [other_images(len(test.images), one) for one in random]
    fits = _fitted(encoder, chosen, train, exchanges, how)
    mine, theirs = _overlaps(encoder, chosen, fits, test, others, how)
    return null_of_repetitions(mean_iou(mine).tolist(), mean_iou(theirs).tolist(), len(train.images))


def other_images(images: int, random: np.random.Generator) -> Tensor:
    """Another image for each of ``n``, none twice: int64 ``[n]``."""
    order = random.permutation(images)
    found = np.empty(images, np.int64)
    found[order] = np.roll(order, 1)
    return torch.from_numpy(found)


def _fitted(
    encoder: Encoder, chosen: Chosen, train: MaskedSet, exchanges: list[Exchange], how: Extraction
) -> list[Discriminant]:
    """A classifier of each exchange."""
    classes, center = len(train.classes.names), None
    sums: list[Moments] = []
    for batch in maps_of(encoder, train, how, [chosen.layer]):
        maps = batch.maps[chosen.layer].float()
        _, D, h, w = maps.shape
        if center is None:
            center = maps.mean((0, 2, 3))
            sums = [Moments.none(D, classes, how.device) for _ in exchanges]
        for exchange, moments in zip(exchanges, sums, strict=True):
            truth = exchange.truth(train, batch.index).to(how.device)
            for some in in_parts(len(maps), h * w * (D + classes)):
                counts = cell_counts(truth[some], h, w, classes).flatten(0, 2)
                cells = maps[some].permute(0, 2, 3, 1).flatten(0, 2)
                counted = counts.sum(1) > 0
                moments.add_(cells[counted], counts[counted], center)
    assert center is not None
    return [discriminant(one, center, [chosen.strength]) for one in sums]


def _overlaps(
    encoder: Encoder, chosen: Chosen, fits: list[Discriminant], test: MaskedSet, others: list[Tensor], how: Extraction
) -> tuple[Tensor, Tensor]:
    """Overlaps of each classifier with the masks of the test images, and with those of others: int64 ``[R 3 C]``."""
    side, classes = min(CHOICE_SIDE, test.images.size), len(test.classes.names)
    found = torch.zeros(2, len(fits), 3, classes, dtype=torch.int64, device=how.device)
    for batch in maps_of(encoder, test, how, [chosen.layer]):
        maps = batch.maps[chosen.layer]
        for some in in_parts(len(maps), classes * side * side):
            index = batch.index[some]
            for number, (fit, other) in enumerate(zip(fits, others, strict=True)):
                scores = enlarge(fit.scores(maps[some])[0], side) + fit.shares(chosen.prior)[:, None, None]
                answers = scores.argmax(1)
                for place, truth in enumerate((batch.truth[some], test.truth(other[index]).to(how.device))):
                    found[place, number] += overlaps(answers, fewer_pixels(truth, side), classes).sum(0)
    return found[0], found[1]

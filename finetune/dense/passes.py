"""The three passes of a mask probe over a frozen encoder's maps: sums to fit from, choices, and the test.

Maps are used batch by batch and never kept. Only the moments of each part of the split of the training images stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from common.data import in_order
from common.data.multilabel import iterative_parts
from common.data.rows import even_rows
from common.encoders.base import Encoder
from common.errors import UserError
from common.machine.layout import channels_last
from common.machine.precision import autocast
from common.pixels import to_float
from finetune.dense.cells import cell_counts, enlarge, fewer_pixels, in_parts, mean_iou, overlaps
from finetune.dense.data import MaskedSet
from finetune.dense.fitting import Discriminant, Moments, discriminant
from finetune.features import Extraction, Features, check_finite
from finetune.pooling import Part
from finetune.probes.search import FEW_IMAGES, Search
from finetune.records import ProbeChoice, SpaceScore

PRIORS = (0.0, 0.5, 1.0)  # how much the share of a class counts
CHOICE_IMAGES = 2000  # held-out images that choices are made on, at most
CHOICE_SIDE = 64  # px: choices are made at this resolution, or that of smaller images


class Parts(NamedTuple):
    """A split of the training images into parts."""

    of: Tensor  # int64 [n], the part of each image
    held: tuple[int, ...]  # those that choices are made on, by classifiers of all others
    how: str  # in words

    @property
    def number(self) -> int:
        return 1 + int(self.of.max())


def build_parts(present: Tensor, search: Search, seed: int) -> Parts:
    """Split images by iterative stratification, so that each class, bool ``[n C]``, is shown in each part.

    Cross-validation below 5,000 images, a held-out share above.

    Raises:
        UserError: too few training images.
    """
    n = len(present)
    crossed = search.folds > 1 and n < FEW_IMAGES
    folds = min(search.folds, n)
    shares = [1 / folds] * folds if crossed else [1 - search.validation, search.validation]
    part = iterative_parts(present, shares, seed)
    if len(set(part.tolist())) < max(2, len(shares)):
        raise UserError(f"data.masks: {n} training images are too few for a validation split; add images")
    how = f"{folds}-fold cross-validation" if crossed else f"held-out {search.validation:.0%}"
    return Parts(part, tuple(range(folds)) if crossed else (1,), how)


class Batch(NamedTuple):
    """Some images of a set."""

    maps: list[Tensor]  # [B D h w] of each layer
    truth: Tensor  # int64 [B S S], -1 where nothing counts
    index: Tensor  # type: ignore[assignment]  # int64 [B], rows of the set


def maps_of(encoder: Encoder, some: MaskedSet, how: Extraction, layers: Sequence[int] | None = None) -> Iterator[Batch]:
    """One pass of the encoder, in eval and inference mode.

    Args:
        layers: whose maps will be used; by default, all.

    Raises:
        UserError: some of these are NaN or infinite; names layers and an image.
    """
    channels_last(encoder.eval(), how.device)
    for batch in in_order(some.images, how.batch_size, how.workers):
        with torch.inference_mode(), autocast(how.device, how.precision):
            maps = encoder.layers(to_float(batch.images.to(how.device)))
        used = {
            Part(layer, "cells"): maps[layer].flatten(1) for layer in (range(len(maps)) if layers is None else layers)
        }
        check_finite(Features(used, batch.index), some.images, encoder.name)
        yield Batch(maps, some.truth(batch.index).to(how.device), batch.index)


# ---- fit


class Sums(NamedTuple):
    """What is kept of the training images, for each layer."""

    centers: dict[int, Tensor]  # float32 [D]
    moments: dict[int, list[Moments]]  # of each part
    sides: dict[int, tuple[int, int]]  # cells

    def whole(self, layer: int) -> Moments:
        """The moments of all images."""
        first, *others = self.moments[layer]
        for one in others:
            first = first + one
        return first


def gather(
    encoder: Encoder, layers: Sequence[int], train: MaskedSet, parts: Parts, classes: int, how: Extraction
) -> Sums:
    """The moments of the cells of each layer and part.

    Raises:
        UserError: the encoder gives NaN or infinite features.
    """
    sums = Sums({}, {}, {})
    for batch in maps_of(encoder, train, how, layers):
        part = parts.of[batch.index]
        for layer in layers:
            maps = batch.maps[layer].float()
            _, D, h, w = maps.shape
            if layer not in sums.centers:
                sums.centers[layer], sums.sides[layer] = maps.mean((0, 2, 3)), (h, w)
                sums.moments[layer] = [Moments.none(D, classes, how.device) for _ in range(parts.number)]
            for number, moments in enumerate(sums.moments[layer]):
                rows = (part == number).nonzero().squeeze(1)
                for some in in_parts(len(rows), h * w * (D + classes)):
                    counts = cell_counts(batch.truth[rows[some]], h, w, classes).flatten(0, 2)
                    cells = maps[rows[some]].permute(0, 2, 3, 1).flatten(0, 2)
                    counted = counts.sum(1) > 0
                    moments.add_(cells[counted], counts[counted], sums.centers[layer])
    # sums of squares, of finite features that are very large
    broken = [layer for layer in layers if not bool(sums.whole(layer).products.isfinite().all())]
    if broken:
        raise UserError(
            f"{encoder.name} gives features whose squares have no finite sum in layers "
            f"{', '.join(map(str, broken))}; use other layers or another encoder"
        )
    return sums


# ---- choose


class Chosen(NamedTuple):
    """The choice made on held-out training images."""

    layer: int
    strength: float
    prior: float
    images: int
    facts: ProbeChoice


def choose(
    encoder: Encoder, sums: Sums, train: MaskedSet, parts: Parts, strengths: Sequence[float], how: Extraction
) -> Chosen:
    """The layer, strength and prior with the highest mean IoU over the held-out images."""
    fits: dict[tuple[int, int], Discriminant] = {}
    for layer, moments in sums.moments.items():
        whole = sums.whole(layer)
        for held in parts.held:
            fits[layer, held] = discriminant(whole - moments[held], sums.centers[layer], strengths)
    rows = torch.isin(parts.of, torch.tensor(parts.held)).nonzero().squeeze(1)
    rows = rows[even_rows(len(rows), CHOICE_IMAGES)]
    side = min(CHOICE_SIDE, train.images.size)
    counts: dict[int, Tensor] = {}  # of each layer, int64 [G P 3 C]
    for batch in maps_of(encoder, train.only(rows), how, [*sums.centers]):
        truth, part = fewer_pixels(batch.truth, side), parts.of[rows[batch.index]]
        for (layer, held), fit in fits.items():
            inside = (part == held).nonzero().squeeze(1)
            found = _compared(fit, batch.maps[layer][inside], truth[inside])
            counts[layer] = counts[layer] + found if layer in counts else found
    scores = {layer: mean_iou(found) for layer, found in counts.items()}  # float64 [G P]
    layer = max(scores, key=lambda layer: (float(scores[layer].max()), -len(sums.centers[layer])))
    setting = _best(scores[layer], strengths)
    return Chosen(layer, *setting, len(rows), _facts(layer, scores, sums, strengths, parts))


def _compared(fit: Discriminant, maps: Tensor, truth: Tensor) -> Tensor:
    """The overlaps of each strength and prior, over these images: int64 ``[G P 3 C]``."""
    side, classes = truth.shape[-1], len(fit.log_share)
    total = torch.zeros(len(fit.bias), len(PRIORS), 3, classes, dtype=torch.int64, device=maps.device)
    for some in in_parts(len(maps), classes * side * side):
        for place in range(len(fit.bias)):
            scores = enlarge(fit.only(place).scores(maps[some])[0], side)
            for column, prior in enumerate(PRIORS):
                answers = (scores + fit.shares(prior)[:, None, None]).argmax(1)
                total[place, column] += overlaps(answers, truth[some], classes).sum(0)
    return total


def _best(scores: Tensor, strengths: Sequence[float]) -> tuple[float, float]:
    """The strength and prior of the highest score ``[G P]``; among equals the strongest, then the first prior."""
    place = max(
        ((row, column) for row in range(len(strengths)) for column in range(len(PRIORS))),
        key=lambda one: (float(scores[one]), one[0], -one[1]),
    )
    return strengths[place[0]], PRIORS[place[1]]


def _facts(chosen: int, scores: dict[int, Tensor], sums: Sums, strengths: Sequence[float], parts: Parts) -> ProbeChoice:
    spaces = []
    for layer, found in scores.items():
        strength, prior = _best(found, strengths)
        h, w = sums.sides[layer]
        spaces.append(
            SpaceScore(
                layer=str(layer),
                pooling=f"{h}x{w} cells",
                features=len(sums.centers[layer]),
                setting={"l2": strength, "prior": prior},
                val_accuracy=float(found.max()),
            )
        )
    mine = next(one for one in spaces if one.layer == str(chosen))
    return ProbeChoice(
        val_accuracy=mine.val_accuracy,
        how=parts.how,
        layer=mine.layer,
        pooling=mine.pooling,
        features=mine.features,
        setting=mine.setting,
        # the weakest is as good as none: cells are many
        at_end_of_grid=len(strengths) > 1 and mine.setting["l2"] == strengths[-1],
        spaces=tuple(spaces),
    )


# ---- test


def fit_all(chosen: Chosen, sums: Sums) -> Discriminant:
    """The fit on all training images."""
    return discriminant(sums.whole(chosen.layer), sums.centers[chosen.layer], [chosen.strength])


def test_once(encoder: Encoder, chosen: Chosen, fit: Discriminant, test: MaskedSet, how: Extraction) -> Tensor:
    """The overlaps of each test image, int64 ``[n 3 C]``, at its own resolution, by a fit on all training images."""
    shares, side, classes = fit.shares(chosen.prior)[:, None, None], test.images.size, len(fit.log_share)
    found = []
    for batch in maps_of(encoder, test, how, [chosen.layer]):
        maps = batch.maps[chosen.layer]
        for some in in_parts(len(maps), classes * side * side):
            answers = (enlarge(fit.scores(maps[some])[0], side) + shares).argmax(1)
            found.append(overlaps(answers, batch.truth[some], classes).cpu())
    return torch.cat(found)

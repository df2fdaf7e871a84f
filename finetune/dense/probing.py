"""The probe of masks: the maps of a frozen encoder, chosen on training images, tested once, and compared."""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from common.encoders.base import Encoder
from common.encoders.card import EncoderCard
from common.errors import UserError
from finetune.baselines import untrained
from finetune.checks import before_and_after, state_digests, why_no_null
from finetune.classifier import Kept, keep
from finetune.config import ProbeConfig
from finetune.data import data_facts
from finetune.dense.data import MaskedImages, MaskedSources
from finetune.dense.null import check_null_masks
from finetune.dense.passes import CHOICE_IMAGES, CHOICE_SIDE, Parts, build_parts, choose, fit_all, gather, test_once
from finetune.dense.pixels import Patches
from finetune.dense.scores import bootstrap, compare_masks, score_masks
from finetune.features import Extraction, layer_shapes
from finetune.heads import Head
from finetune.multilabel.data import ProbeData
from finetune.pooling import Part, Space, layer_choices
from finetune.properties import measure_properties
from finetune.records import NullCheck
from finetune.several import DenseProbed, DenseResult, LabelComparison, compared_with
from finetune.subjects import encoder_facts

log = logging.getLogger("retouch")

WIDEST = 2048  # channels: the second moments of a wider map take too much memory and time
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # unless probe.l2 has others
CELLS = "cells"  # in place of a pooling


class MapSubject(NamedTuple):
    """What is measured, and its maps to choose from."""

    name: str  # its key in results
    encoder: Encoder
    layers: tuple[int, ...]


class Measured(NamedTuple):
    """One subject: its outcome, the overlaps of each test image, and the mean IoU of the bootstrap's draws."""

    outcome: DenseProbed
    counts: Tensor  # int64 [n 3 C]
    drawn: NDArray[np.float64]
    head: Head  # its linear classifier of cells
    null: NullCheck | None  # of the encoder, if it is checked


def map_layers(config: ProbeConfig, image_size: int | None, encoder: Encoder) -> tuple[int, ...]:
    """The layers that a probe of masks chooses from: each of those that ``probe.layers`` names, by itself.

    Raises:
        UserError: the encoder has no such layers, supports no images of that size, or has no map among them.
    """
    shapes = layer_shapes(encoder, image_size or encoder.image_size)
    named = sorted({layer for choice in layer_choices(config.probe.layers, len(shapes)) for layer in choice})
    wide = [layer for layer in named if shapes[layer][0] > WIDEST]
    if wide:
        log.info("masks: layers %s have more than %d channels and are left out", ", ".join(map(str, wide)), WIDEST)
    layers = tuple(layer for layer in named if layer not in wide)
    if not any(shapes[layer][1:] != (1, 1) for layer in layers):
        raise UserError(
            f"data.masks: {encoder.name} has no map of several cells and at most {WIDEST:,} channels among the layers "
            f"{', '.join(map(str, named))}, and one vector per image tells no pixels apart: use an encoder with maps, "
            "or set probe.layers"
        )
    return layers


def probe_masks(
    config: ProbeConfig,
    data: ProbeData,
    sources: MaskedSources,
    images: MaskedImages,
    layers: tuple[int, ...],
    encoder: Encoder,
    card: EncoderCard,
    how: Extraction,
) -> tuple[DenseResult, Kept]:
    """The result of this data set, and the encoder's classifier."""
    subjects = [MapSubject("encoder", encoder, layers)]
    if config.baselines.random_init:
        twin = untrained(config.encoder, config.seed, images.train.images, how.device)
        subjects.append(MapSubject("random_init", twin, layers))
    if config.baselines.pixels:
        pixels = Patches(images.train.images.size)
        subjects.append(MapSubject("pixels", pixels, tuple(range(len(pixels.layer_shapes)))))
    before = state_digests(subject.encoder for subject in subjects)
    parts = build_parts(images.present, config.probe, config.seed)
    measured = {subject.name: _measure(config, subject, images, parts, how) for subject in subjects}
    code = measure_properties(encoder, images.test.images, how, config.seed) if config.properties else None
    after = state_digests(subject.encoder for subject in subjects)
    digests = before_and_after((subject.name for subject in subjects), before, after)

    mine = measured["encoder"]

    def against(name: str) -> LabelComparison:
        return compare_masks(mine.counts, measured[name].counts, mine.drawn, measured[name].drawn)

    assert data.masks is not None
    result = DenseResult(
        task=data.masks,
        classes=images.classes,
        data=data_facts(sources.images, images.train.images, images.test.images, images.leaks, images.left_out),
        protocol=_protocol(config, parts, images.train.images.size),
        encoder=encoder_facts(config, card),
        subjects=compared_with({name: one.outcome for name, one in measured.items()}, against),
        code=code,
        frozen=after == before,
        sha256=digests,
        null=mine.null,
        missing=why_no_null(mine.null, config.null_check),
    )
    names, numbers = images.train.classes.names, images.train.classes.numbers
    kept = keep(
        mine.head,
        "discriminant",
        data.masks,
        "mask",
        names,
        images.train.images,
        config.encoder,
        card,
        config.out,
        numbers,
    )
    return result, kept


def strengths(config: ProbeConfig) -> tuple[float, ...]:
    """The grid, weakest first."""
    return STRENGTHS if config.probe.l2 is None else config.probe.strengths


def _measure(config: ProbeConfig, subject: MapSubject, images: MaskedImages, parts: Parts, how: Extraction) -> Measured:
    """Three passes: sums of training images, choices on held-out ones, one look at the test images."""
    started = time.monotonic()
    sums = gather(subject.encoder, subject.layers, images.train, parts, len(images.classes), how)
    chosen = choose(subject.encoder, sums, images.train, parts, strengths(config), how)
    fit = fit_all(chosen, sums)
    counts = test_once(subject.encoder, chosen, fit, images.test, how)
    drawn = bootstrap(counts)
    outcome = DenseProbed(
        view=subject.encoder.view,
        choice=chosen.facts,
        n_train=len(images.train.images),
        n_val=chosen.images,
        test=score_masks(counts, drawn),
        seconds=round(time.monotonic() - started, 2),
    )
    checked = config.null_check and subject.name == "encoder"
    null = check_null_masks(subject.encoder, chosen, images.train, images.test, config.seed, how) if checked else None
    log.info(
        "%s: probed cell by cell in %.1f s: mean IoU %.1f%%",
        *(subject.name, outcome.seconds, 100 * outcome.test.mean_iou),
    )
    log.debug("%s: %s, chosen by %s", subject.name, outcome.choice.text, outcome.choice.how)
    weight, bias = fit.folded(chosen.prior)
    space = Space((chosen.layer,), (CELLS,), (Part(chosen.layer, CELLS),), len(weight))
    return Measured(outcome, counts, drawn, Head(space, weight, bias), null)


def _protocol(config: ProbeConfig, parts: Parts, size: int) -> str:
    return (
        "frozen encoder; linear discriminant analysis of the cells of one map, each pixel a row with the features of "
        "its cell, standardized by training statistics; layer, shrinkage (l2) and weight of the class shares (prior) "
        f"chosen by mean IoU in {parts.how} of the training images (split by image, iterative stratification, seed "
        f"{config.seed}; at most {CHOICE_IMAGES:,} held-out images, at {min(CHOICE_SIDE, size)} px); refitted on the "
        f"whole training set; tested once: scores of cells enlarged bilinearly to {size} px, mean IoU over all "
        "pixels of the test set that count and the classes that have some; ci95: bootstrap over test images, paired "
        "for differences, whose p_value is normal, by the deviation of the draws"
    )

"""A mask per image: the linear probe of each cell of a map, from its choice to its result."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from common.encoders.base import Encoder
from common.encoders.load import read_encoder_card
from common.encoders.provenance import Provenance
from common.errors import UserError
from finetune.classifier import Saved
from finetune.config import ProbeConfig
from finetune.data import Pair
from finetune.dense.data import MaskedImages, MaskedSources, load_masked, open_masked
from finetune.dense.null import check_null_masks
from finetune.dense.passes import CHOICE_IMAGES, CHOICE_SIDE, Parts, build_parts, choose, fit_all, gather, test_once
from finetune.dense.pixels import Patches
from finetune.dense.scores import bootstrap, compare_masks, score_masks
from finetune.features import Extraction, layer_shapes
from finetune.heads import Head
from finetune.kinds.base import LabelKind, Measured, Ready, Shared
from finetune.lines import subject_name
from finetune.multilabel.data import ProbeData
from finetune.pooling import Part, Shape, Space, layer_choices
from finetune.structured_results import DenseProbed, DenseResult
from finetune.subjects import Spaces, Subject

log = logging.getLogger("retouch")

WIDEST = 2048  # channels: the second moments of a wider map take too much memory and time
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # unless probe.l2 has others
CELLS = "cells"  # in place of a pooling


@dataclass(frozen=True, kw_only=True)
class MeasuredMasks(Measured):
    """One subject: its outcome, the overlaps of each test image, and the mean IoU of the bootstrap's draws."""

    outcome: DenseProbed
    counts: Tensor  # int64 [n 3 C]
    drawn: NDArray[np.float64]

    def compared(self, others: Mapping[str, MeasuredMasks]) -> MeasuredMasks:
        found = {
            name: compare_masks(self.counts, other.counts, self.drawn, other.drawn) for name, other in others.items()
        }
        return replace(self, outcome=self.outcome.model_copy(update={"compared": found}))


@dataclass(frozen=True)
class MaskLabels(LabelKind[MaskedSources, MeasuredMasks, None]):
    """A data set whose images have a mask each: one task. Its features are the cells of one map at a time."""

    part: ClassVar = "dense"

    images: MaskedImages
    parts: Parts  # of the training images, for the choices

    # ---- before anything is written

    @classmethod
    def open(cls, config: ProbeConfig, data: ProbeData) -> MaskedSources:
        return open_masked(data, data.image_size or read_encoder_card(config.encoder).image_size, config.seed)

    @classmethod
    def choices(cls, config: ProbeConfig, image_size: int | None, encoder: Encoder) -> Spaces:
        """The cells of each of the layers that ``probe.layers`` names, by itself.

        Raises:
            UserError: the encoder has no such layers, supports no images of that size, or has no map among them.
        """
        shapes = layer_shapes(encoder, image_size or encoder.image_size)
        named = sorted({layer for choice in layer_choices(config.probe.layers, len(shapes)) for layer in choice})
        wide = [layer for layer in named if shapes[layer][0] > WIDEST]
        if wide:
            text = ", ".join(map(str, wide))
            log.info("masks: layers %s have more than %d channels and are left out", text, WIDEST)
        layers = [layer for layer in named if layer not in wide]
        if not any(shapes[layer][1:] != (1, 1) for layer in layers):
            raise UserError(
                f"data.masks: {encoder.name} has no map of several cells and at most {WIDEST:,} channels among the "
                f"layers {', '.join(map(str, named))}, and one vector per image cannot tell pixels apart: use an "
                "encoder with maps, or set probe.layers"
            )
        return _cells(shapes, layers)

    @classmethod
    def load(cls, config: ProbeConfig, ready: Ready[MaskedSources], size: int, trained_on: Provenance) -> MaskLabels:
        images = load_masked(ready.sources, ready.data, size, config.seed, trained_on)
        parts = build_parts(images.present, config.probe, config.seed)  # refuses too few images
        return cls(config, ready.data, ready.spaces, images, parts)

    # ---- what is measured

    @property
    def pair(self) -> Pair:
        return self.images.pair

    @property
    def tasks(self) -> tuple[str, ...]:
        assert self.data.masks is not None
        return (self.data.masks,)

    def pixels(self) -> Subject:
        patches = Patches(self.pair.train.size)
        shapes = patches.layer_shapes
        return Subject("pixels", patches, None, *_cells(shapes, range(len(shapes))))

    def measure(self, subject: Subject, how: Extraction) -> dict[str, MeasuredMasks]:
        """Three passes: sums of training images, choices on held-out ones, one look at the test images."""
        images, parts, started = self.images, self.parts, time.monotonic()
        spaces = {space.layers[0]: space for space in subject.spaces}
        sums = gather(subject.encoder, tuple(spaces), images.train, parts, len(images.classes), how)
        chosen = choose(subject.encoder, sums, images.train, parts, strengths(self.config), how)
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
        log.info("%s: mean IoU %.1f%%", subject_name(subject.name, "encoder"), 100 * outcome.test.mean_iou)
        log.debug("%s: probed cell by cell in %.1f s", subject.name, outcome.seconds)
        log.debug("%s: %s, chosen by %s", subject.name, outcome.choice.text, outcome.choice.how)
        null = None
        if self.checked(subject):
            null = check_null_masks(subject.encoder, chosen, images.train, images.test, self.config.seed, how)
        head = Head(spaces[chosen.layer], *fit.folded(chosen.prior))
        [task] = self.tasks
        return {task: MeasuredMasks(head=head, null=null, outcome=outcome, counts=counts, drawn=drawn)}

    # ---- what is written

    def result(self, task: str, measured: Mapping[str, MeasuredMasks], shared: Shared) -> DenseResult:
        return DenseResult(
            task=task,
            classes=self.images.classes,
            data=shared.data,
            protocol=_protocol(self.config, self.parts, self.pair.train.size),
            encoder=shared.encoder,
            subjects={name: one.outcome for name, one in measured.items()},
            code=shared.code,
            checks=shared.checks,
        )

    def saved(self, task: str) -> Saved:
        classes = self.images.train.classes
        return Saved(task, "mask", "discriminant", classes.names, classes.numbers)

    def answered(self, task: str, measured: Mapping[str, MeasuredMasks]) -> None:
        """No masks: they would take more room than the images. ``retouch predict`` makes them again."""

    @classmethod
    def save(cls, folder: Path, found: Sequence[Sequence[None]]) -> None:
        """Nothing."""


def _cells(shapes: Sequence[Shape], layers: Iterable[int]) -> Spaces:
    """Each of these maps, cell by cell."""
    return Spaces([Space((layer,), (CELLS,), (Part(layer, CELLS),), shapes[layer][0]) for layer in layers], {})


def strengths(config: ProbeConfig) -> tuple[float, ...]:
    """The grid, weakest first."""
    return STRENGTHS if config.probe.l2 is None else config.probe.strengths


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

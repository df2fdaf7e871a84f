"""Labeled data with several labels per image: a training set, and a test set of the same labels or some of them."""

from __future__ import annotations

import logging
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from common.data import Images, MultiLabels, Source, Subset
from common.data.multilabel import iterative_parts, match_labels
from common.data.split import first, with_counts
from common.encoders.provenance import Provenance
from common.errors import UserError, check_all
from common.words import counted
from finetune.data import Fold, LabeledData, Pair, Sources, load_pair, open_source, open_test, warn_of_twins
from finetune.leaks import Leaks

log = logging.getLogger("retouch")


class ProbeData(LabeledData):
    """The labeled images of a probe, which may have several labels each, or masks."""

    labels: tuple[str, ...] = ()
    """Several labels per image, for the linear probe: a column of lists, or columns of 0 and 1, as in [cat, dog]."""
    masks: str | None = Field(default=None, min_length=1)
    """Masks instead of labels: a folder with a mask at the path of each image, or the column that holds them."""
    test_masks: str | None = Field(default=None, min_length=1)
    """Masks of the test images, if they are elsewhere."""
    mask_names: tuple[str, ...] = ()
    """Names of the class numbers 0, 1, ... in masks; by default the numbers."""
    mask_ignore: int | None = Field(default=255, ge=0, le=255)
    """Number of the pixels to ignore in masks; null: every number is a class."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.labels and (self.task is not None or self.label is not None):
            raise ValueError("labels: they define the task; remove task and label, which name classes")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels: must be different columns")
        kinds = [name for name in ("labels", "task", "label") if getattr(self, name)]
        if self.masks is not None and kinds:
            raise ValueError(f"masks: they define the task; remove {' and '.join(kinds)}")
        if self.masks is None and (self.test_masks is not None or self.mask_names):
            raise ValueError("test_masks and mask_names belong to masks: set masks, or remove them")
        if len(set(self.mask_names)) < len(self.mask_names):
            raise ValueError("mask_names: must be different names")
        return self


class MultiLabelImages(NamedTuple):
    """Images with several labels each, both sets by the training set's labels. All images are readable."""

    train: Images
    test: Images
    labels: tuple[MultiLabels, MultiLabels]  # of training and test images
    leaks: Leaks
    left_out: int = 0

    @property
    def pair(self) -> Pair:
        """The images without their labels."""
        return Pair(self.train, self.test, self.leaks, self.left_out)


def open_multilabel(data: ProbeData, seed: int) -> Sources:
    """Open the training and test sets and check their labels before anything is decoded.

    A source without a test set is split by iterative stratification, seeded.

    Raises:
        UserError: a source cannot be opened or has no such labels, the test set has labels that training lacks, or
            there are too few images.
    """

    def training() -> tuple[Source, MultiLabels]:
        source = open_source(data, data.train, "train")
        return source, _learnable(source, source.multi_labels(data.labels))

    (train, labels), given = check_all(training, lambda: open_test(data))
    separate: Source | None = given or train.published_test()
    if separate is not None:
        match_labels(labels, separate.multi_labels(data.labels))
        return Sources(train, separate)
    part = iterative_parts(labels.values, [1 - data.test_fraction, data.test_fraction], seed)
    rows = [(part == one).nonzero().squeeze(1) for one in (0, 1)]
    if any(not bool(labels.values[some].any()) for some in rows):
        raise UserError(
            f"{train.spec}: too few images with a label to hold out a test set; set data.test, or add images"
        )
    return Sources(Subset(train, rows[0], "train"), Subset(train, rows[1], "test"))


def _learnable(source: Source, labels: MultiLabels) -> MultiLabels:
    """The same labels, if some images have one that others lack."""
    counts = labels.values.sum(0)
    if not bool(((counts > 0) & (counts < len(labels.values))).any()):
        said = "all images have the same labels" if bool(counts.any()) else "no image has a label"
        raise UserError(f"{source.spec}: data.labels={labels.task}: {said}, so there is nothing to learn")
    return labels


def load_multilabel(
    sources: Sources, data: ProbeData, size: int, seed: int, trained_on: Provenance | None = None
) -> MultiLabelImages:
    """Decode both sets at ``size`` pixels, as ``load_labeled`` does, and keep the labels of the readable images.

    Raises:
        UserError: no readable test image has a label.
    """
    train, test, leaks, left_out = load_pair(sources, data, size, seed, trained_on)
    labels = train.multi_labels(data.labels)
    found = labels, match_labels(labels, test.multi_labels(data.labels))
    counts = [part.values.sum(0).tolist() for part in found]
    log.info(
        "%s: %s, %s training and %s, %s + %s of them without any",
        *(labels.task, counted(len(labels.names), "label")),
        *(f"{len(train):,}", counted(len(test), "test image")),
        *(f"{int((~part.values.any(1)).sum()):,}" for part in found),
    )
    log.info("%s", with_counts(f"{labels.task}: ", labels.names, *counts))
    warn_of_twins(labels.task, labels.names)
    untested = [name for name, count in zip(labels.names, counts[1], strict=True) if not count]
    if len(untested) == len(labels.names):
        raise UserError(f"{test.source.spec}: no test image has one of the labels, so nothing can be measured")
    if untested:
        log.warning("%s: no test image has %s, so the average precision there is unknown", labels.task, first(untested))
    return MultiLabelImages(train, test, found, leaks, left_out)


def multilabel_folds(labels: MultiLabels, folds: int, fraction: float, seed: int) -> tuple[Fold, ...]:
    """Splits for the choices, by iterative stratification: cross-validation, or with one fold a held-out ``fraction``.

    Raises:
        UserError: too few training images with a label for a validation split.
    """
    shares = [1 / folds] * folds if folds > 1 else [1 - fraction, fraction]
    part = iterative_parts(labels.values, shares, seed)
    found = tuple(
        Fold((part != one).nonzero().squeeze(1), (part == one).nonzero().squeeze(1))
        for one in (range(folds) if folds > 1 else (1,))
    )
    if any(not bool(labels.values[rows].any()) for fold in found for rows in fold):
        raise UserError(
            f"labels {labels.task!r}: {int(labels.values.any(1).sum())} training images with a label are too few for a "
            "validation split; add images"
        )
    return found

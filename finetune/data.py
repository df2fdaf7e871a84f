"""Labeled data of the transfer stages: a training set, and a test set of the same classes or some of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor

from common.config import MANY, Config
from common.data import (
    Images,
    Labels,
    Source,
    Subset,
    build_source,
    check_classes,
    load_images,
    match_classes,
    split_source,
    stratified_folds,
    stratified_split,
)
from common.data.images import Cache, kept_rows
from common.data.levels import Levels, LevelsSetting
from common.data.split import alike, classes_without, first, with_counts
from common.encoders.provenance import Provenance, warn_of_levels
from common.errors import UserError, check_all
from common.machine.cores import usable_cores
from finetune.leaks import Leaks, find_leaks, without_leaks
from finetune.records import DataFacts

log = logging.getLogger("retouch")


class LabeledData(Config):
    """The labeled images.

    If ``test`` is not set, ``shapes`` and ``torchvision:`` use their own test set, and folders, files and ``hf:`` their
    ``test`` split if they have one. Any other source is split (seeded, stratified by the first task).
    """

    short: ClassVar[str] = "train"

    train: str = Field(default="shapes", min_length=1)
    """Training images: a folder of class folders, or another source."""
    test: str | None = None
    """Test images; by default the source's own, or a held-out part of the training images."""
    task: str | list[str] | None = None
    """One or more label columns; by default all that the images have."""
    image_size: int | None = Field(default=None, ge=8, le=1024)
    """Side in px; by default the encoder's."""
    limit: int | None = Field(default=None, gt=1, le=MANY)
    """Use only this many training images."""
    test_limit: int | None = Field(default=None, gt=0, le=MANY)
    """Use only this many test images."""
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share held out as the test set, if there is none."""
    workers: int = Field(default_factory=usable_cores, ge=0, le=1024)
    """Decoding processes; by default one per core."""
    cache: Cache = "auto"
    """Keep decoded images in memory; auto: if they fit comfortably."""
    image: str | None = None
    """Column of images, if it is not the obvious one."""
    label: str | None = None
    """Label column of the default task, if it is not the obvious one."""
    root: str | None = None
    """Folder for downloads."""
    levels: LevelsSetting | None = None
    """Black and white of images of more than 8 bits, as [0, 4095]; by default, a sample of `train` decides."""
    leaks: Literal["keep", "drop"] = "keep"
    """Training images that repeat test images, exactly or nearly, are counted; drop also leaves them out."""

    @field_validator("task")
    @classmethod
    def _tasks_differ(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list) and (not value or len(set(value)) < len(value)):
            raise ValueError("must be one task or a list of different tasks")
        return value

    def tasks(self, source: Source) -> list[str]:
        """The tasks asked for, or all that ``source`` has.

        Raises:
            UserError: it lacks them, has no labels, or none that are obvious.
        """
        if self.task is None:
            return list(source.default_tasks())
        asked = self.task if isinstance(self.task, list) else [self.task]
        return [*check_all(*(lambda task=task: source.resolve(task) for task in asked))]


class Sources(NamedTuple):
    """Opened training and test sources; no image is decoded yet."""

    train: Source
    test: Source

    @property
    def split(self) -> bool:
        """Whether both are parts of one source without a test set, which the seed draws."""
        train, test = self
        return isinstance(train, Subset) and isinstance(test, Subset) and train.source is test.source

    def inputs(self, key: str = "data") -> dict[str, str]:
        """Their fingerprints, by the setting ``key`` that names them."""
        return {f"{key}.train": self.train.fingerprint, f"{key}.test": self.test.fingerprint}


class Pair(NamedTuple):
    """Training and test images, and which of them repeat."""

    train: Images
    test: Images
    leaks: Leaks  # test images that are also training images, or nearly
    left_out: int = 0  # training images, because of that

    @property
    def facts(self) -> DataFacts:
        """What results say of the data."""
        return DataFacts(
            train=self.train.source.spec,
            test=self.test.source.spec,
            image_size=self.train.size,
            duplicates=self.leaks.exact,
            near_duplicates=self.leaks.training.facts,
            in_pretraining=None if self.leaks.pretraining is None else self.leaks.pretraining.facts,
            not_compared=self.leaks.not_compared,
            left_out=self.left_out,
            originals=self.train.originals,
            test_originals=self.test.originals,
        )


class LabeledImages(NamedTuple):
    """Images, and the ``(train, test)`` labels of one or more tasks, both by the training set's classes.

    All images are readable.
    """

    train: Images
    test: Images
    tasks: dict[str, tuple[Labels, Labels]]
    leaks: Leaks
    left_out: int = 0

    @property
    def pair(self) -> Pair:
        """The images without their labels."""
        return Pair(self.train, self.test, self.leaks, self.left_out)

    def only(self, train: Tensor | None = None, test: Tensor | None = None) -> LabeledImages:
        """Some rows of the training and of the test images, int64 in ascending order; ``None`` is all."""

        def of(labels: Labels, rows: Tensor | None) -> Labels:
            return labels if rows is None else labels._replace(values=labels.values[rows])

        some = self.train if train is None else self.train.only(train)
        asked = self.test if test is None else self.test.only(test)
        tasks = {name: (of(known, train), of(wanted, test)) for name, (known, wanted) in self.tasks.items()}
        return self._replace(train=some, test=asked, tasks=tasks, leaks=self.leaks.among(some.kept, asked.kept))

    def of_task(self, name: str) -> LabeledImages:
        """The same images with the labels of one task."""
        return self._replace(tasks={name: self.tasks[name]})


def open_sources(data: LabeledData, seed: int, validation: float | None = None) -> Sources:
    """Open the training and test sets and check their labels before anything is decoded.

    ``seed`` splits a source that has no test set. Generated images do not depend on it, so results with different seeds
    share one test set. ``validation``: the share of the training images that will be held out.

    Raises:
        UserError: a source cannot be opened, has no labels or no such task, the test set has classes that training
            lacks, or there are too few training images for a validation split.
    """

    def training() -> tuple[Source, list[str]]:
        source = open_source(data, data.train, "train")
        return source, data.tasks(source)

    (train, names), given = check_all(training, lambda: open_test(data))
    separate: Source | None = given or train.published_test()
    train, test = (
        split_source(*(train, names[0]), fraction=data.test_fraction, seed=seed, image=data.image, label=data.label)
        if separate is None
        else (train, separate)
    )
    rows = kept_rows(train, data.limit, seed)

    def match(labels: Labels) -> None:
        if separate is not None:
            check_classes(labels, separate.labels(labels.task))

    def check(name: str) -> None:
        labels = train.labels(name)
        if labels.values.min() == labels.values.max():
            only = labels.names[int(labels.values[0])]
            raise UserError(f"{train.spec}: task {name!r} has only one class ({only}); at least two are needed")
        check_all(
            lambda: match(labels),
            lambda: validation is None or hold_out(train.labels(name, rows), validation, seed),
        )

    check_all(*(lambda name=name: check(name) for name in names))
    return Sources(train, test)


def open_source(data: LabeledData, spec: str, split: str) -> Source:
    """The images of ``spec``, with the columns and levels that the settings name."""
    levels = data.levels if split == "train" else None  # a test set uses those of its training set
    return build_source(spec, split=split, image=data.image, label=data.label, root=data.root, levels=levels)


def open_test(data: LabeledData) -> Source | None:
    """The test set that the user named."""
    return None if data.test is None else open_source(data, data.test, "test")


def load_labeled(
    sources: Sources, data: LabeledData, size: int, seed: int, trained_on: Provenance | None = None
) -> LabeledImages:
    """Decode both sets at ``size`` pixels, and keep the labels of the readable images.

    ``seed`` draws the training images if there is a limit. A limited test set is the same for every seed. The search
    for duplicates reads all images. Unreadable images are dropped from everything that follows, so splits and results
    do not depend on whether images are kept in memory. Both sets have the levels of the training set. ``trained_on``:
    the provenance of the encoder, for a warning if it was trained on other levels, or on test images.
    """
    train, test, leaks, left_out = load_pair(sources, data, size, seed, trained_on)
    tasks = {}
    for name in data.tasks(sources.train):
        labels = train.labels(name)
        tasks[name] = labels, match_classes(labels, test.labels(name))
        log.info("%s", _classes(*tasks[name]))
        _warn_of_gaps(*tasks[name])
    return LabeledImages(train, test, tasks, leaks, left_out)


def load_pair(sources: Sources, data: LabeledData, size: int, seed: int, trained_on: Provenance | None) -> Pair:
    """Decode both sets at ``size`` pixels, and look for images that repeat."""
    log.info("images at %d px%s", size, "" if data.image_size else ", the encoder's size")

    def loaded(source: Source, limit: int | None, seed: int, levels: Levels | None = None) -> Images:
        return load_images(
            source, size, limit=limit, workers=data.workers, cache=data.cache, seed=seed, levels=levels,
            check=False,  # the search for duplicates reads all images, and finds those that cannot be read
        )  # fmt: skip

    train = loaded(sources.train, data.limit, seed)
    test = loaded(sources.test, data.test_limit, 0, train.levels)
    warn_of_levels(trained_on, train.levels, train.source.spec)
    leaks = find_leaks(test, train, trained_on, data.workers)
    train, test = train.readable(), test.readable()
    whole = len(train)
    train = without_leaks(train, leaks) if data.leaks == "drop" else train
    return Pair(train, test, leaks, whole - len(train))


def _classes(train: Labels, test: Labels) -> str:
    """The classes, with the number of training and of test images, on one line."""
    counts = (part.values.bincount(minlength=len(part.names)).tolist() for part in (train, test))
    start = f"task {train.task}: {len(train.names)} classes (training + test images): "
    return with_counts(start, train.names, *counts)


def _warn_of_gaps(train: Labels, test: Labels) -> None:
    """Warn of classes that cannot be measured, of test images that cannot be classified correctly, and of twins."""
    warn_of_twins(train.task, train.names)
    unlearned, untested = classes_without(train), classes_without(test)
    wrong = [name for name in unlearned if name not in untested]
    if untested:
        log.warning("task %s: no test image shows %s, so the accuracy there is unknown", train.task, first(untested))
    if wrong:
        log.warning(
            "task %s: test images of %s count as wrong, since no training image shows them", train.task, first(wrong)
        )


def warn_of_twins(task: str, names: Sequence[str]) -> None:
    """Warn of classes or labels that are probably one, written in two ways."""
    if twins := alike(names):
        log.warning(
            "task %s: %s differ in upper and lower case alone; if they are one, write them alike", task, first(twins)
        )


class Fold(NamedTuple):
    """One split of the training images: rows to fit on and rows to choose on, int64, each in ascending order."""

    fit: Tensor
    held: Tensor


def hold_out(labels: Labels, fraction: float, seed: int) -> Fold:
    """Hold out a share of the rows: seeded and stratified.

    Raises:
        UserError: too few training images for a validation split, or all of one class.
    """
    found = torch.unique(labels.values).tolist()
    if len(found) == 1:
        raise UserError(
            f"task {labels.task!r}: all {len(labels.values)} training images have the same class "
            f"({labels.names[found[0]]}); at least two are needed: add images"
        )
    fold = Fold(*stratified_split(labels.values, fraction, seed))
    if not len(fold.held):
        raise UserError(
            f"task {labels.task!r}: {len(labels.values)} training images in {len(labels.names)} classes are too "
            "few for a validation split; add images"
        )
    return fold


def cross_validation(labels: Labels, folds: int, seed: int) -> tuple[Fold, ...]:
    """Splits that each hold out another part, so that every row is held out once: seeded and stratified.

    There are fewer than ``folds``, at least two, where the largest class has fewer rows.

    Raises:
        UserError: too few training images for a validation split.
    """
    hold_out(labels, 0.5, seed)  # refuses what cannot be split at all
    number = min(folds, int(labels.values.bincount().max()))
    fold = stratified_folds(labels.values, number, seed)
    return tuple(Fold((fold != k).nonzero().squeeze(1), (fold == k).nonzero().squeeze(1)) for k in range(number))


def check_enough(images: LabeledImages, fraction: float, seed: int) -> None:
    """Check that enough training images of every task could be read for a validation split.

    Raises:
        UserError: names each task that has too few.
    """
    check_all(*(lambda labels=labels: hold_out(labels, fraction, seed) for labels, _ in images.tasks.values()))

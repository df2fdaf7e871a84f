"""Labelled data of the transfer stages: a training set and a test set with the same classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import Field, field_validator
from torch import Tensor

from common.config import Config
from common.data import (
    Images,
    Labels,
    Source,
    build_source,
    check_same_classes,
    load_images,
    split_source,
    stratified_folds,
    stratified_split,
    warn_of_duplicates,
)
from common.data.images import Cache, kept_rows
from common.data.levels import Levels
from common.errors import UserError, check_all
from common.machine.cores import usable_cores
from finetune.results import DataFacts

log = logging.getLogger("retouch")

SHOWN = 20  # classes named in the log


class LabelledData(Config):
    """The labelled images.

    If ``test`` is not set, ``shapes`` and ``torchvision:`` use their own test set, and ``hf:``, ``folder:`` and
    ``parquet:`` use their ``test`` split if they have one. Any other source is split (seeded, stratified by the first
    task).
    """

    train: str = Field(
        default="shapes", min_length=1
    )  # shapes | folder:PATH | parquet:GLOB | hf:NAME | torchvision:NAME
    test: str | None = None
    task: str | list[str] | None = None  # one or more label columns; the obvious one by default
    image_size: int | None = Field(default=None, ge=8, le=1024)  # px; the encoder's image size by default
    limit: int | None = Field(default=None, gt=1)  # training images
    test_limit: int | None = Field(default=None, gt=0)  # test images
    test_fraction: float = Field(default=0.2, gt=0, lt=1)  # held-out share if there is no test set
    workers: int = Field(default_factory=usable_cores, ge=0)  # decoding processes; one per core by default
    cache: Cache = "auto"  # keep decoded images in memory: auto (if they fit comfortably), ram, none
    image: str | None = None  # image column, if it is not the obvious one
    label: str | None = None  # label column of the default task
    root: str | None = None  # download folder of torchvision

    @field_validator("task")
    @classmethod
    def _tasks_differ(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list) and (not value or len(set(value)) < len(value)):
            raise ValueError("must be one task or a list of different tasks")
        return value

    @property
    def task_list(self) -> list[str | None]:
        return list(self.task) if isinstance(self.task, list) else [self.task]


class Sources(NamedTuple):
    """Opened training and test sources; no image is decoded yet."""

    train: Source
    test: Source


class LabelledImages(NamedTuple):
    """Images, and the ``(train, test)`` labels of one or more tasks. All images are readable."""

    train: Images
    test: Images
    tasks: dict[str, tuple[Labels, Labels]]
    duplicates: int  # test images that are also training images


def open_sources(data: LabelledData, seed: int) -> Sources:
    """Open the training and test sets and check their labels before anything is decoded.

    ``seed`` splits a source that has no test set. Generated images do not depend on it, so results with different seeds
    share one test set.

    Raises:
        UserError: a source cannot be opened, has no labels or no such task, or the two sets have different classes.
    """

    def opened(spec: str, split: str) -> Source:
        return build_source(spec, split=split, image=data.image, label=data.label, root=data.root)

    named = [(data.train, "train")] if data.test is None else [(data.train, "train"), (data.test, "test")]
    train, *given = check_all(*(lambda one=one: opened(*one) for one in named))
    names = check_all(*(lambda task=task: train.resolve(task) for task in data.task_list))
    if given:
        [test] = given
    else:
        published = train.published_test()
        if published is not None:
            test = published
        else:
            train, test = split_source(train, names[0], fraction=data.test_fraction, seed=seed)
    problems: list[str] = []
    for name in names:
        try:
            labels = train.labels(name)
            check_same_classes(labels, test.labels(name))
            if int(labels.values.max()) == int(labels.values.min()):
                only = labels.names[int(labels.values[0])]
                problems.append(f"{train.spec}: task {name!r} has only one class ({only}); at least two are needed")
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return Sources(train, test)


def load_labelled(
    sources: Sources, data: LabelledData, size: int, seed: int, trained_on: Mapping[str, Any] | None = None
) -> LabelledImages:
    """Decode both sets at ``size`` pixels, and keep the labels of the readable images.

    ``seed`` draws the training images if there is a limit. A limited test set is the same for every seed. The search
    for duplicates reads all images. Unreadable images are dropped from everything that follows, so splits and results
    do not depend on whether images are kept in memory. Both sets have the levels of the training set. ``trained_on``:
    the provenance of the encoder, for a warning if it was trained on other levels.
    """

    def loaded(source: Source, limit: int | None, seed: int, levels: Levels | None = None) -> Images:
        return load_images(
            source, size, limit=limit, workers=data.workers, cache=data.cache, seed=seed, levels=levels,
            check=False,  # the search for duplicates reads all images, and finds those that cannot be read
        )  # fmt: skip

    train = loaded(sources.train, data.limit, seed)
    test = loaded(sources.test, data.test_limit, 0, train.levels)
    warn_of_levels(trained_on, train)
    duplicates = warn_of_duplicates(test, train, workers=data.workers)
    train, test = train.readable(), test.readable()
    tasks = {}
    for task in data.task_list:
        name = sources.train.resolve(task)
        tasks[name] = (train.labels(name), test.labels(name))
        log.info("task %s: %s", name, _classes(*tasks[name]))
    return LabelledImages(train, test, tasks, duplicates)


def _classes(train: Labels, test: Labels) -> str:
    """The classes, and how many images each has."""
    counts = (part.values.bincount(minlength=len(part.names)).tolist() for part in (train, test))
    each = [f"{name} ({a:,} + {b:,})" for name, a, b in zip(train.names, *counts, strict=False)]
    more = f" and {len(each) - SHOWN} more" if len(each) > SHOWN else ""
    return f"{len(each)} classes (training + test images): {', '.join(each[:SHOWN])}{more}"


def warn_of_levels(trained_on: Mapping[str, Any] | None, images: Images) -> None:
    """Warn if the encoder with this provenance was trained on images whose values were scaled in another way."""
    if trained_on is None or "levels" not in trained_on:
        return
    then = None if trained_on["levels"] is None else Levels(*trained_on["levels"])
    if then != images.levels:
        then_text, now = (f"values {levels}" if levels else "images of 8 bits" for levels in (then, images.levels))
        log.warning(
            "the encoder was trained on %s, but %s has %s: the same value is another gray; convert the images to one "
            "range, or pretrain on such images",
            *(then_text, images.source.spec, now),
        )


def data_facts(sources: Sources, images: LabelledImages) -> DataFacts:
    """What results say of the data."""
    return DataFacts(
        train=sources.train.spec,
        test=sources.test.spec,
        image_size=images.train.size,
        duplicates=images.duplicates,
    )


class Fold(NamedTuple):
    """One split of the training images: rows to fit on and rows to choose on, int64, each in ascending order."""

    fit: Tensor
    held: Tensor


def hold_out(labels: Labels, fraction: float, seed: int) -> Fold:
    """Hold out a share of the rows: seeded and stratified.

    Raises:
        UserError: too few training images for a validation split.
    """
    fold = Fold(*stratified_split(labels.values, fraction, seed))
    if not len(fold.held):
        raise UserError(
            f"task {labels.task!r}: {len(labels.values)} training images in {len(labels.names)} classes are too "
            "few for a validation split; add images"
        )
    return fold


def cross_validation(labels: Labels, folds: int, seed: int) -> tuple[Fold, ...]:
    """Splits of which each holds out another part, so that every row is held out once: seeded and stratified.

    There are fewer than ``folds``, at least two, where the largest class has fewer rows.

    Raises:
        UserError: too few training images for a validation split.
    """
    hold_out(labels, 0.5, seed)  # refuses what cannot be split at all
    number = min(folds, int(labels.values.bincount().max()))
    fold = stratified_folds(labels.values, number, seed)
    return tuple(Fold((fold != k).nonzero().squeeze(1), (fold == k).nonzero().squeeze(1)) for k in range(number))


def check_enough(sources: Sources, data: LabelledData, fraction: float, seed: int) -> None:
    """Check by the labels, before decoding, that every task has enough images for a validation split.

    Raises:
        UserError: a task has too few training images for a validation split.
    """
    rows = kept_rows(sources.train, data.limit, seed)
    check_all(
        *(lambda task=task: hold_out(sources.train.labels(task, rows), fraction, seed) for task in data.task_list)
    )

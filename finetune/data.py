"""Labelled data of the transfer stages: a training set and a test set that speak of the same classes."""

from __future__ import annotations

from typing import NamedTuple

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
    stratified_split,
    warn_of_duplicates,
)
from common.data.images import Cache, kept_rows
from common.errors import UserError, check_all
from common.machine.cores import usable_cores


class LabelledData(Config):
    """Where labelled images are.

    Without ``test``, ``shapes`` and ``torchvision:`` use their own test set, ``hf:`` its ``test`` split if there is
    one; anything else is split, seeded and stratified by the first task.
    """

    train: str = Field(
        default="shapes", min_length=1
    )  # shapes | folder:PATH | parquet:GLOB | hf:NAME | torchvision:NAME
    test: str | None = None
    task: str | list[str] | None = None  # one or several label columns; the obvious one by default
    image_size: int | None = Field(default=None, ge=8, le=1024)  # pixels; the encoder's own by default
    limit: int | None = Field(default=None, gt=1)  # training images
    test_limit: int | None = Field(default=None, gt=0)  # test images
    test_fraction: float = Field(default=0.2, gt=0, lt=1)  # held out where there is no test set
    workers: int = Field(default_factory=usable_cores, ge=0)  # processes that decode; default one a core
    cache: Cache = "auto"  # keep decoded images in memory: auto (if they fit comfortably), ram, none
    image: str | None = None  # column that holds images, where it is not the obvious one
    label: str | None = None  # column that holds the labels of the default task
    root: str | None = None  # where torchvision keeps its downloads

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
    """An opened pair of sources; images are not decoded yet."""

    train: Source
    test: Source


class LabelledImages(NamedTuple):
    """Images that can be read, and the labels of one or several tasks: ``(train, test)`` each."""

    train: Images
    test: Images
    tasks: dict[str, tuple[Labels, Labels]]
    duplicates: int  # test images that are also training images


def open_sources(data: LabelledData, seed: int) -> Sources:
    """Open training and test set and check their labels, before anything is decoded.

    ``seed`` divides a source that has no test set. Generated images do not follow it: a data set is one fixed set of
    images, or results of different seeds would speak of different tests.

    Raises:
        UserError: a source cannot be opened, has no labels or no such task, or the classes of the two differ.
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
                problems.append(f"{train.spec}: task {name!r} has one class only; a probe needs at least two")
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return Sources(train, test)


def load_labelled(sources: Sources, data: LabelledData, size: int, seed: int) -> LabelledImages:
    """Decode both sets at ``size`` pixels; labels follow the images that could be read.

    ``seed`` draws the training images where there is a limit. A limited test set is the same whatever the seed.
    Looking for duplicates is a pass over all images. Those it could not read are left out of everything that follows,
    so that splits and results are the same whether images are kept in memory or not.
    """
    train = load_images(sources.train, size, limit=data.limit, workers=data.workers, cache=data.cache, seed=seed)
    test = load_images(sources.test, size, limit=data.test_limit, workers=data.workers, cache=data.cache)
    duplicates = warn_of_duplicates(test, train, workers=data.workers)
    train, test = train.readable(), test.readable()
    tasks = {}
    for task in data.task_list:
        name = sources.train.resolve(task)
        tasks[name] = (train.labels(name), test.labels(name))
    return LabelledImages(train, test, tasks, duplicates)


def hold_out(labels: Labels, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to fit on and rows to choose on, int64: seeded and stratified.

    Raises:
        UserError: too few training images to hold any out.
    """
    fit, held = stratified_split(labels.values, fraction, seed)
    if not len(held):
        raise UserError(
            f"task {labels.task!r}: {len(labels.values)} training images of {len(labels.names)} classes are too "
            "few to hold out a validation split; give more images"
        )
    return fit, held


def check_enough(sources: Sources, data: LabelledData, fraction: float, seed: int) -> None:
    """Whether every task has a validation split, as far as labels tell before images are decoded.

    Raises:
        UserError: a task has too few training images to hold any out.
    """
    rows = kept_rows(sources.train, data.limit, seed)
    check_all(
        *(lambda task=task: hold_out(sources.train.labels(task, rows), fraction, seed) for task in data.task_list)
    )

"""Splits by name, seeded and stratified splits, and the classes of a training and a test set, matched by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from common.data.part import Part
from common.data.source import Labels, Source, Subset, digest
from common.errors import UserError
from common.files import as_utf8

Split = Literal["train", "test", "val"]
NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
}
BESIDES = {"data", "image", "images", "img", "imgs", "set", "split"}  # words that may stand next to the name of a split
SHOWN = 5  # classes named in a message
LINE, MOST = 100, 20  # columns of a line that names classes with their counts, and classes in it
P = TypeVar("P")


def split_of(name: str) -> Split | None:
    """The split of a name such as ``Train``, ``train_images``, ``training_set`` or ``val2017``; ``None`` for others."""
    words = re.split(r"[-_.\s]+|(?<=[a-z])(?=[0-9])", name.lower())
    words = [word for word in words if word and not word.isdecimal() and word not in BESIDES]
    return NAMES.get(words[0]) if len(words) == 1 else None


def choose_split(parts: Mapping[Split, P], split: str) -> tuple[P | None, P | None]:
    """The part that is asked for, and its test set: ``test``, or ``val`` where there is no ``test``.

    A single part is the one that is asked for.
    """
    held = parts.get("test", parts.get("val"))
    if len(parts) == 1:
        return next(iter(parts.values())), None
    return (parts.get("train"), held) if split == "train" else (held, None)


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out about ``fraction`` of the rows of every class.

    Every class with two or more rows has at least one on each side; a class with one row stays in training. Within
    these bounds each class holds out its share rounded down or up, the largest remainders up, so that the total is as
    close to ``fraction`` of all rows as possible.

    Args:
        labels: int64 ``[N]``.
        fraction: between 0 and 1.

    Returns:
        Rows to train on and rows held out, int64, each in ascending order.
    """
    if not 0 < fraction < 1:
        raise UserError(f"the held-out fraction must be between 0 and 1, got {fraction}")
    values = labels.numpy()
    _, inverse, sizes = np.unique(values, return_inverse=True, return_counts=True)
    share = sizes * fraction
    take = np.floor(share).astype(np.int64)
    spare = round(float(share.sum())) - int(take.sum())
    take[np.argsort(take - share, kind="stable")[:spare]] += 1
    take = np.minimum(np.maximum(take, 1), sizes - 1)
    # shuffle all rows once, then number them within their class
    order = np.random.default_rng(seed).permutation(len(values))
    order = order[np.argsort(inverse[order], kind="stable")]
    rank = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    held = np.zeros(len(values), bool)
    held[order[rank < np.repeat(take, sizes)]] = True
    return torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))


def stratified_folds(labels: Tensor, folds: int, seed: int) -> Tensor:
    """The fold of each row, int64 ``[N]`` in ``0..folds-1``, for cross-validation: seeded and stratified.

    The folds are equally large, and each has an equal part of every class, up to one row.

    Args:
        labels: int64 ``[N]``.
        folds: at least 2.
    """
    if folds < 2:
        raise ValueError(f"cross-validation needs at least 2 folds, got {folds}")
    values = labels.numpy()
    order = np.random.default_rng(seed).permutation(len(values))
    order = order[np.argsort(values[order], kind="stable")]
    fold = np.empty(len(values), np.int64)
    fold[order] = np.arange(len(values)) % folds  # dealt like cards, class by class
    return torch.from_numpy(fold)


def split_source(
    source: Source,
    task: str | None = None,
    *,
    fraction: float = 0.2,
    seed: int = 0,
    image: str | None = None,
    label: str | None = None,
) -> tuple[Subset, Subset]:
    """A labeled set without a test set -> (train, test): seeded, stratified by ``task``.

    Args:
        image, label: the columns that the source was opened with, for whoever opens it again (``origin``).
    """
    train, test = stratified_split(source.labels(task).values, fraction, seed)
    if not len(test):
        raise UserError(
            f"{source.spec}: too few images to hold out a test set: no class has two or more; set data.test, or choose "
            "another task"
        )
    part = Part(
        task=source.resolve(task),
        test_fraction=fraction,
        seed=seed,
        rows=digest([len(source), train.numpy().tobytes()]),
        image=image,
        label=label,
    )
    return Subset(source, train, part.text, part), Subset(source, test, f"{fraction:.0%} held out, seed {seed}")


def origin(source: Source) -> tuple[str, Part | None]:
    """How a source is named so that it can be opened again, and which part of it this is; ``None`` for the whole."""
    if isinstance(source, Subset) and source.part is not None:
        return source.source.spec, source.part
    return source.spec, None


def check_classes(train: Labels, test: Labels) -> None:
    """Every class that has test images must have training images. It is known by its name.

    Raises:
        UserError: names the first classes that training lacks, or that two classes share a name.
    """
    if train.names != test.names:
        twice = [name for name in dict.fromkeys(train.names) if train.names.count(name) > 1]
        if twice:
            raise UserError(
                f"task {train.task!r}: training has two classes named {first(twice)}, and the test set lists its "
                "classes in another way, so they cannot be distinguished: give them different names"
            )
    known = set(_with_images(train))
    unknown = [name for name in _with_images(test) if name not in known]
    if unknown:
        raise UserError(
            f"task {train.task!r}: images of {first(unknown)} are in the test set only; training has "
            f"{first(_with_images(train))}: add such images to training, or take them out of the test set"
        )


def match_classes(train: Labels, test: Labels) -> Labels:
    """The test labels as numbers of the training classes, matched by name: neither set need list all, or in one order.

    Args:
        train, test: labels that ``check_classes`` accepts, or some of their rows.
    """
    if train.names == test.names:
        return test
    numbers = {name: number for number, name in enumerate(train.names)}
    table = torch.tensor([numbers.get(name, -1) for name in test.names])
    values = table[test.values]
    assert not len(values) or int(values.min()) >= 0, "check_classes has not seen these labels"
    return Labels(values, train.names, train.task)


def classes_without(labels: Labels) -> list[str]:
    """The classes without a row."""
    counts = labels.values.bincount(minlength=len(labels.names)).tolist()
    return [name for name, count in zip(labels.names, counts, strict=True) if not count]


def alike(names: Sequence[str]) -> list[str]:
    """Names that differ in upper and lower case alone, ``Cat and cat``: mostly one class, written in two ways."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.casefold(), []).append(name)
    return [" and ".join(group) for group in groups.values() if len(set(group)) > 1]


def _with_images(labels: Labels) -> list[str]:
    return [labels.names[number] for number in torch.unique(labels.values).tolist()]


def first(names: Sequence[str]) -> str:
    """The first few, for a message."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def with_counts(start: str, names: Sequence[str], *counts: Sequence[int]) -> str:
    """``start``, and the names with their counts: ``cat (6 + 4), dog (7 + 5) and 12 more``.

    As many as one line of a console holds, 20 at most.

    Args:
        counts: of each set, by name.
    """
    each = [
        f"{as_utf8(name)} ({' + '.join(f'{one:,}' for one in numbers)})"
        for name, *numbers in zip(names, *counts, strict=True)
    ]
    for shown in range(min(len(each), MOST), 0, -1):
        rest = f" and {len(each) - shown:,} more" if len(each) > shown else ""
        line = f"{start}{', '.join(each[:shown])}{rest}"
        if len(line) <= LINE or shown == 1:
            return line
    return start

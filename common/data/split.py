"""Splits by name, seeded and stratified splits, and a check that two sets have the same classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from common.data.source import Labels, Source, Subset
from common.errors import UserError

Split = Literal["train", "test", "val"]
NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
}
P = TypeVar("P")


def split_of(name: str) -> Split | None:
    """The split that a folder or file is named after, whatever its case; ``None`` if it is none."""
    return NAMES.get(name.lower())


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
    source: Source, task: str | None = None, *, fraction: float = 0.2, seed: int = 0
) -> tuple[Source, Source]:
    """A labelled set without a test set -> (train, test): seeded, stratified by ``task``."""
    train, test = stratified_split(source.labels(task).values, fraction, seed)
    if not len(test):
        raise UserError(f"{source.spec}: too few images to hold out a test set; set data.test")
    kept, held = f"{1 - fraction:.0%} for training, seed {seed}", f"{fraction:.0%} held out, seed {seed}"
    return Subset(source, train, kept), Subset(source, test, held)


def check_same_classes(train: Labels, test: Labels) -> None:
    """Training and test labels must have the same classes.

    Raises:
        UserError: they do not; names the first classes that only one side has.
    """
    if train.names == test.names:
        return
    problems = [f"task {train.task!r}: {len(train.names)} classes in training, {len(test.names)} in the test set"]
    for side, names in (
        ("training", [name for name in train.names if name not in test.names]),
        ("the test set", [name for name in test.names if name not in train.names]),
    ):
        if names:
            problems.append(f"only in {side}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
    if len(problems) == 1:
        problems.append("their names are the same in a different order")
    raise UserError("; ".join(problems) + "; both sets need the same classes")

"""The search of every probe: feature spaces and settings, compared on a validation split.

Nothing here sees the test set. A probe gets a ``Task``, which has training labels only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from common.config import Config
from common.data import Labels, stratified_split
from finetune.data import hold_out
from finetune.features import Features
from finetune.pooling import POOLINGS, Space
from finetune.results import ProbeChoice, Setting
from finetune.solvers.gram import column_moments
from finetune.solvers.preconditioner import Preconditioner, few_rows


def _poolings(value: str) -> str:
    names = value.split("+")
    if not set(names) <= set(POOLINGS) or len(set(names)) < len(names):
        raise ValueError(f"must be {', '.join(POOLINGS)}, or several joined by '+'")
    return value


def _layer(value: int | str) -> int | str:
    if isinstance(value, str) and value not in ("each", "all") and not re.fullmatch(r"last[1-9][0-9]*", value):
        raise ValueError("must be a layer number, each, all, or lastN")
    return value


PoolingName = Annotated[str, AfterValidator(_poolings)]
LayerChoice = Annotated[int | str, AfterValidator(_layer)]


class Search(Config):
    """The feature spaces that probes choose from, and how they are compared."""

    layers: tuple[LayerChoice, ...] = Field(default=("each", "last3", "all"), min_length=1)
    poolings: tuple[PoolingName, ...] = Field(default=("avg", "avg+avg2+max"), min_length=1)
    validation: float = Field(default=0.1, gt=0, lt=1)  # held-out share of the training set, for all choices
    max_width: int = Field(default=16384, gt=0)  # features; wider spaces are skipped and logged
    # Layers and poolings are compared on at most this many training images, then the best `finalists` on all of them.
    # Linear probes add the widest space, because a small subsample underrates wide feature sets.
    search_images: int | None = Field(default=10_000, gt=1)
    finalists: int = Field(default=2, gt=0)

    @property
    def protocol(self) -> str:
        """How spaces are compared, in words; empty if all are compared on the same images."""
        if self.search_images is None:
            return ""
        return (
            f"layers and poolings first compared on at most {self.search_images:,} training images, then the best "
            f"{self.finalists} and the widest on all of them"
        )


@dataclass(frozen=True)
class Task:
    """A labelled task and the split of its training images. Rows are int64 indices of training images."""

    name: str
    classes: tuple[str, ...]
    labels: Tensor  # int64 [n], of all training images
    fit: Tensor  # rows that candidates are fitted on
    validation: Tensor  # rows that candidates are compared on
    search: Tensor  # the rows of `fit` on which spaces are compared first


def build_task(train: Labels, validation: float, search_images: int | None, seed: int) -> Task:
    """Hold out the validation split, seeded and stratified, and draw the subsample to search on.

    Raises:
        UserError: too few training images for a validation split.
    """
    fit, held = hold_out(train, validation, seed)
    search = fit
    if search_images is not None and search_images < len(fit):
        search = fit[stratified_split(train.values[fit], search_images / len(fit), seed)[1]]
    return Task(train.task, train.names, train.values, fit, held, search)


class Candidates:
    """The training features of one subject and the spaces to choose from, on the device that computes the fits."""

    def __init__(
        self, features: Features, spaces: Sequence[Space], device: torch.device, finalists: int = Search().finalists
    ) -> None:
        self.features, self.spaces, self.device, self.finalists = features, spaces, device, finalists
        self._preconditioners: dict[Space, Preconditioner] = {}

    def matrix(self, space: Space, rows: Tensor | None = None) -> Tensor:
        """Features of training images ``rows`` (all by default), a new float32 tensor ``[n F]``."""
        return self.features.matrix(space, rows).to(self.device)

    def preconditioner(self, space: Space, standardised: Tensor) -> Preconditioner | None:
        """The preconditioner of a space, computed once: splits and tasks are too similar to need their own.

        An exception is a split with features that the first one lacked. None for few rows: they are solved in their
        own span, which other rows do not share.
        """
        if few_rows(standardised):
            return None
        known = self._preconditioners.get(space)
        if known is None or not known.covers(standardised):
            known = self._preconditioners[space] = Preconditioner.of(standardised)
        return known


@dataclass(frozen=True)
class Standardiser:
    """``(x - mean) / scale`` with the statistics of the rows a classifier is fitted on; constant features become 0.

    They become 0 in all other rows too: a feature that never varied in the fit says nothing about the classes, but
    unscaled it could outweigh all other features of a test row.
    """

    mean: Tensor  # [F]
    scale: Tensor  # [F]; infinite for constant features

    @classmethod
    def of(cls, features: Tensor) -> Standardiser:
        mean, deviation = column_moments(features)
        # features that are constant up to float32 rounding: dividing by the rounding error would amplify it
        constant = deviation <= 1e-6 * mean.abs() + 1e-30
        scale = torch.where(constant, torch.inf, deviation)
        return cls(mean.to(features.dtype), scale.to(features.dtype))

    def apply_(self, features: Tensor) -> Tensor:
        """Standardise in place: features are large."""
        return features.sub_(self.mean).div_(self.scale)


class Chosen(NamedTuple):
    """The choice made on the validation split."""

    space: Space
    setting: Setting
    val_accuracy: float
    at_end_of_grid: bool
    unconverged: int  # fits that were compared but did not converge

    @property
    def facts(self) -> ProbeChoice:
        """The choice, as results report it."""
        return ProbeChoice(
            val_accuracy=self.val_accuracy,
            layer=self.space.layer,
            pooling=self.space.pooling,
            features=self.space.width,
            setting=self.setting,
            at_end_of_grid=self.at_end_of_grid,
            unconverged=self.unconverged,
        )


class Validated(NamedTuple):
    """One space on the validation split."""

    accuracy: Sequence[float]  # of each setting
    unconverged: int  # number of settings whose fit did not converge


def choose_best(
    candidates: Candidates,
    task: Task,
    grid: Sequence[Setting],
    validate: Callable[[Space, Tensor], Validated],
    always: Sequence[Space] = (),
) -> Chosen:
    """The space and setting with the best validation accuracy.

    If the search rows are a subsample of the fit rows, all spaces are compared on it first, and then the best few and
    those of ``always`` on all fit rows. Ties go to the narrower space and the later setting: the simpler choice.

    Args:
        grid: settings, simpler ones later.
        validate: ``validate(space, rows)`` scores every setting in a space when fitted on ``rows``.
    """
    spaces, unconverged = candidates.spaces, 0
    if len(task.search) < len(task.fit) and len(spaces) > candidates.finalists:
        searched = {space: validate(space, task.search) for space in spaces}
        unconverged += sum(one.unconverged for one in searched.values())
        ranked = sorted(spaces, key=lambda space: (-max(searched[space].accuracy), space.width))
        spaces = list(dict.fromkeys([*ranked[: candidates.finalists], *always]))
    scores = {space: validate(space, task.fit) for space in spaces}
    unconverged += sum(one.unconverged for one in scores.values())
    space, index = max(
        ((space, index) for space in scores for index in range(len(grid))),
        key=lambda place: (scores[place[0]].accuracy[place[1]], -place[0].width, place[1]),
    )
    at_end = len(grid) > 1 and grid[index] in (grid[0], grid[-1])
    return Chosen(space, grid[index], scores[space].accuracy[index], at_end, unconverged)

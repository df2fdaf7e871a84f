"""The search of every probe: feature spaces and settings, compared on training images that were not fitted on.

Few images are cross-validated: on a tenth of 2,000 images, chance decides between neighboring layers and strengths, and
the test accuracy then moves by several points from seed to seed. With many images, a part is held out.

Nothing here sees the test set. A probe gets a ``Task``, which has training labels only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from common.config import MANY, Config
from common.data import Labels, stratified_split
from finetune.calibration import confidence
from finetune.data import Fold, cross_validation, hold_out
from finetune.features import Features
from finetune.metrics import accuracy
from finetune.pooling import POOLINGS, Space
from finetune.probes.classifiers import Classifiers
from finetune.records import ProbeChoice, Setting, SpaceScore
from finetune.solvers.gram import column_moments
from finetune.solvers.preconditioner import Preconditioner, few_rows


def _poolings(value: str) -> str:
    names = value.split("+")
    if not set(names) <= set(POOLINGS) or len(set(names)) < len(names):
        raise ValueError(f"must be {', '.join(POOLINGS)}, or several joined by '+'")
    return value


def _layer(value: int | str) -> int | str:
    if isinstance(value, int):
        known = abs(value) < MOST_LAYERS
    else:
        known = value in ("each", "all") or re.fullmatch(r"last[1-9][0-9]{0,3}", value) is not None
    if not known:
        raise ValueError("must be a layer number, each, all, or lastN")
    return value


MOST_LAYERS = 10_000
FEW_IMAGES = 5_000  # with fewer labeled training images, choices are made by cross-validation

PoolingName = Annotated[str, AfterValidator(_poolings)]
LayerChoice = Annotated[int | str, AfterValidator(_layer)]


class Search(Config):
    """The feature spaces that probes choose from, and how they are compared."""

    layers: tuple[LayerChoice, ...] = Field(default=("each", "last3", "all"), min_length=1)
    """Layers to choose from: numbers, each, all, or lastN."""
    poolings: tuple[PoolingName, ...] = Field(default=("avg", "avg+avg2+max"), min_length=1)
    """Poolings to choose from: avg, avg2 (2x2 cells), max, flatten, or several joined by +."""
    folds: int = Field(default=5, ge=0, le=5000)
    """Folds of cross-validation, for fewer than 5,000 training images; 0 or 1: never."""
    validation: float = Field(default=0.1, gt=0, lt=1)
    """Otherwise: held-out share of the training set, for all choices."""
    max_width: int = Field(default=16384, gt=0, le=MANY)
    """Wider feature sets are skipped."""
    search_images: int | None = Field(default=10_000, gt=1, le=MANY)
    """Layers and poolings are first compared on at most this many training images; null compares them on all."""
    # linear probes add the widest space, because a small subsample underrates wide feature sets
    finalists: int = Field(default=2, gt=0, le=MANY)
    """The best feature sets of that, which are compared on all training images."""

    @property
    def rounds(self) -> str:
        """How spaces are compared if there are more training images than ``search_images``, in words."""
        return (
            f"layers and poolings first compared on {self.search_images:,} of them, then the best {self.finalists} and "
            "the widest on all"
        )


@dataclass(frozen=True)
class Task:
    """A labeled task and the splits of its training images. Rows are int64 indices of training images."""

    name: str
    classes: tuple[str, ...]
    labels: Tensor  # int64 [n], of all training images
    folds: tuple[Fold, ...]  # the splits that choices are made on: one, or those of cross-validation
    first: tuple[Fold, ...]  # those that spaces are compared on first, with at most `search_images` rows to fit on
    how: str  # what the splits are, in words

    def score(self, answers: Tensor, labels: Tensor) -> Tensor:
        """How good answers ``[G m]`` to rows with these labels ``[m]`` are: their accuracy, float64 ``[G]``."""
        return accuracy(answers, labels)

    def decide(self, logits: Tensor) -> Tensor:
        """Logits ``[n C]`` -> the most likely class, int64 ``[n]``."""
        return logits.argmax(1)

    def confidence(self, logits: Tensor, temperature: float) -> Tensor:
        """Logits ``[n C]`` -> the probability of what was decided, float32 ``[n]`` in [0, 1]."""
        return confidence(logits, temperature)

    @property
    def subsampled(self) -> bool:
        """Whether spaces are first compared on fewer rows than the final choice is made on."""
        return any(len(few.fit) < len(all_.fit) for few, all_ in zip(self.first, self.folds, strict=True))

    @property
    def held(self) -> int:
        """Number of images that choices are made on."""
        return sum(len(fold.held) for fold in self.folds)


def build_task(train: Labels, search: Search, seed: int) -> Task:
    """Split the training images for the choices, seeded and stratified, and draw the subsample to search on.

    Raises:
        UserError: too few training images for a validation split.
    """
    if search.folds > 1 and len(train.values) < FEW_IMAGES:
        folds = cross_validation(train, search.folds, seed)
        how = f"{len(folds)}-fold cross-validation"
    else:
        folds = (hold_out(train, search.validation, seed),)
        how = f"held-out {search.validation:.0%}"
    first = tuple(fold._replace(fit=_subsample(train, fold.fit, search.search_images, seed)) for fold in folds)
    return Task(train.task, train.names, train.values, folds, first, how)


def _subsample(train: Labels, rows: Tensor, size: int | None, seed: int) -> Tensor:
    if size is None or size >= len(rows):
        return rows
    return rows[stratified_split(train.values[rows], size / len(rows), seed)[1]]


class Candidates:
    """The training features of one subject and the spaces to choose from, on the device that computes the fits."""

    def __init__(
        self, features: Features, spaces: Sequence[Space], device: torch.device, finalists: int = Search().finalists
    ) -> None:
        self.features, self.spaces, self.device, self.finalists = features, spaces, device, finalists
        self._preconditioners: dict[Space, Preconditioner] = {}

    def of(self, rows: Tensor, spaces: Sequence[Space] | None = None) -> Candidates:
        """The candidates among training images ``rows``, int64 ascending; in some of the spaces, by default in all."""
        return Candidates(self.features.only(rows), spaces or self.spaces, self.device, self.finalists)

    def among(self, spaces: Sequence[Space]) -> Candidates:
        """The same features in other spaces."""
        return Candidates(self.features, spaces, self.device, self.finalists)

    def matrix(self, space: Space, rows: Tensor | None = None) -> Tensor:
        """Features of training images ``rows`` (all by default), a new float32 tensor ``[n F]``."""
        return self.features.matrix(space, rows).to(self.device)

    def preconditioner(self, space: Space, standardized: Tensor) -> Preconditioner:
        """The preconditioner of a space, computed once: splits and tasks are too similar to need their own.

        An exception is a split with features that the first one lacked. Few rows have directions that no others have,
        so theirs comes from all training images. It decides how fast a fit is, not what is fitted.
        """
        known = self._preconditioners.get(space)
        if known is None or not known.covers(standardized):
            if few_rows(standardized):
                standardized = self.matrix(space)
                Standardizer.of(standardized).apply_(standardized)
            known = self._preconditioners[space] = Preconditioner.of(standardized)
        return known


@dataclass(frozen=True)
class Standardizer:
    """``(x - mean) / scale`` with the statistics of the rows a classifier is fitted on; constant features become 0.

    They become 0 in all other rows too: a feature that never varied in the fit says nothing about the classes, but
    unscaled it could outweigh all other features of a test row.
    """

    mean: Tensor  # [F]
    scale: Tensor  # [F]; infinite for constant features

    @classmethod
    def of(cls, features: Tensor) -> Standardizer:
        mean, deviation = column_moments(features)
        # features that are constant up to float32 rounding: dividing by the rounding error would amplify it
        constant = deviation <= 1e-6 * mean.abs() + 1e-30
        scale = torch.where(constant, torch.inf, deviation)
        return cls(mean.to(features.dtype), scale.to(features.dtype))

    def apply_(self, features: Tensor) -> Tensor:
        """Standardize in place: features are large."""
        return features.sub_(self.mean).div_(self.scale)


class Chosen(NamedTuple):
    """The choice made on the splits."""

    space: Space
    setting: Setting
    val_accuracy: float
    how: str
    at_end_of_grid: bool
    unconverged: int  # fits that were compared but did not converge
    start: Classifiers | None = None  # where the refit may start: fitted in the same space, on part of the images
    compared: tuple[SpaceScore, ...] = ()  # every space on the held-out images

    @property
    def facts(self) -> ProbeChoice:
        """The choice, as results report it."""
        return ProbeChoice(
            val_accuracy=self.val_accuracy,
            how=self.how,
            layer=self.space.layer,
            pooling=self.space.pooling,
            features=self.space.width,
            setting=self.setting,
            at_end_of_grid=self.at_end_of_grid,
            unconverged=self.unconverged,
            spaces=self.compared,
        )


class Validated(NamedTuple):
    """One space on the held-out rows of the splits."""

    accuracy: Sequence[float]  # of each setting, or NOT_TRIED
    fits: Sequence[Classifiers | None]  # those that each setting was one of, in the last split
    unconverged: int  # number of fits that did not converge


NOT_TRIED = -1.0
Validate = Callable[[Space, Sequence[Fold]], Validated]  # scores every setting in a space, on these splits


def clearly_worse(accuracy: float, best: float, images: int) -> bool:
    """Whether an accuracy is below the best by more than the standard error of that, measured on so many images.

    Neighboring strengths get mostly the same images right, so this is about twice the error of their difference.
    """
    return accuracy < best - math.sqrt(best * (1 - best) / images)


def choose_best(
    candidates: Candidates, task: Task, grid: Sequence[Setting], validate: Validate, preferred: Sequence[Space] = ()
) -> Chosen:
    """The space and setting with the best accuracy on the held-out rows of all splits.

    If there is a subsample to search on, spaces are compared on it first, and then the best few on all rows, together
    with those of ``preferred``, which need no first comparison. Ties go to the narrower space and the later setting:
    the simpler choice.

    Args:
        grid: settings, simpler ones later.
        preferred: spaces that are chosen unless another is clearly better. Several spaces often differ by chance alone,
            and then the choice, and with it the test accuracy, would change with the seed or the rounding.
    """
    spaces, unconverged = candidates.spaces, 0
    compared: list[SpaceScore] = []
    others = [space for space in spaces if space not in preferred]
    if task.subsampled and len(others) > candidates.finalists:
        searched = {space: validate(space, task.first) for space in others}
        unconverged += sum(one.unconverged for one in searched.values())
        compared += _scores(searched, grid, fitted_on=len(task.first[0].fit))
        ranked = sorted(others, key=lambda space: (-max(searched[space].accuracy), space.width))
        spaces = [*ranked[: candidates.finalists], *preferred]
    found = {space: validate(space, task.folds) for space in spaces}
    unconverged += sum(one.unconverged for one in found.values())
    compared += _scores(found, grid)
    tops = {space: max(found[space].accuracy) for space in spaces}
    best = max(tops.values())
    near = [space for space in preferred if not clearly_worse(tops[space], best, task.held)]
    space, place = max(
        ((space, place) for space in near or spaces for place in range(len(grid))),
        key=lambda one: (found[one[0]].accuracy[one[1]], -one[0].width, one[1]),
    )
    at_end = any(_at_end(grid, name, value) for name, value in grid[place].items())
    accuracy, start = found[space].accuracy[place], found[space].fits[place]
    return Chosen(space, grid[place], accuracy, task.how, at_end, unconverged, start, tuple(compared))


def _at_end(grid: Sequence[Setting], name: str, value: float) -> bool:
    """Whether this value of a hyperparameter is the smallest or the largest of several."""
    values = {setting[name] for setting in grid if name in setting}
    return len(values) > 1 and value in (min(values), max(values))


def _scores(
    found: Mapping[Space, Validated], grid: Sequence[Setting], fitted_on: int | None = None
) -> list[SpaceScore]:
    """The score of each space with its best setting, the later one of equals."""
    scores = []
    for space, one in found.items():
        place = max(range(len(grid)), key=lambda place: (one.accuracy[place], place))
        scores.append(
            SpaceScore(
                layer=space.layer,
                pooling=space.pooling,
                features=space.width,
                setting=grid[place],
                val_accuracy=one.accuracy[place],
                fitted_on=fitted_on,
            )
        )
    return scores

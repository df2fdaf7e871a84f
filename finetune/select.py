"""Choosing on a validation split, refitting on all of the training set, testing once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from common.data import Labels, stratified_split
from finetune.config import LinearConfig, NearestConfig
from finetune.data import hold_out
from finetune.features import Features
from finetune.metrics import accuracy
from finetune.pooling import Space
from finetune.solvers.gram import column_moments
from finetune.solvers.knn import knn_predict
from finetune.solvers.logistic import LinearFit, fit_logistic
from finetune.solvers.preconditioner import Metric, few_rows
from finetune.solvers.ridge import fit_ridge

CHOOSING = 1e-4  # solver tolerance while strengths are compared: a tenth of a point of accuracy is noise there
FINAL = 1e-6  # and for the classifier that is tested


@dataclass(frozen=True)
class Task:
    """A labelled task and how its training images are divided. Rows are int64 and count training images."""

    name: str
    classes: tuple[str, ...]
    train: Tensor  # labels, int64 [n_train]
    test: Tensor  # labels, int64 [n_test]
    fit: Tensor  # rows that candidates are fitted on
    validation: Tensor  # rows that candidates are compared on
    search: Tensor  # the rows of `fit` on which layers and poolings are compared first


class Choice(NamedTuple):
    """What validation chose."""

    space: Space
    value: float  # an L2 strength, or a number of neighbours
    val_accuracy: float
    at_end: bool  # the value is the first or last of its grid


class Candidates:
    """The training features of one subject, and the spaces to choose among, on the device where fits are computed."""

    def __init__(self, features: Features, spaces: Sequence[Space], device: torch.device) -> None:
        self.features, self.spaces, self.device = features, spaces, device
        self._metrics: dict[Space, Metric] = {}

    def matrix(self, space: Space, rows: Tensor | None = None) -> Tensor:
        """Features of training images ``rows`` (all by default), a fresh float32 tensor ``[n F]``."""
        return self.features.matrix(space, rows).to(self.device)

    def metric(self, space: Space, standardised: Tensor) -> Metric | None:
        """The solver's metric in a space, computed once: splits and tasks differ too little to need their own.

        None for few rows: those are solved in their own span, which other rows do not share.
        """
        if few_rows(standardised):
            return None
        if space not in self._metrics:
            self._metrics[space] = Metric.of(standardised)
        return self._metrics[space]


@dataclass(frozen=True)
class Standardiser:
    """``(x - mean) / scale`` by the statistics of the rows a classifier is fitted on; constant features become 0."""

    mean: Tensor  # [F]
    scale: Tensor  # [F]

    @classmethod
    def of(cls, features: Tensor) -> Standardiser:
        mean, deviation = column_moments(features)
        # what float32 cannot tell from a constant is one: dividing by its rounding would make noise of it
        constant = deviation <= 1e-6 * mean.abs() + 1e-30
        scale = torch.where(constant, torch.ones_like(deviation), deviation)
        return cls(mean.to(features.dtype), scale.to(features.dtype))

    def apply_(self, features: Tensor) -> Tensor:
        """In place: features are large."""
        return features.sub_(self.mean).div_(self.scale)


@dataclass(frozen=True)
class LinearProbe:
    """A chosen classifier, fitted on all of the training set."""

    space: Space
    standardise: Standardiser
    fit: LinearFit

    def predict(self, features: Features) -> Tensor:
        """The class of each row, int64 ``[n]``, on the CPU."""
        matrix = features.matrix(self.space).to(self.fit.weight.device)
        return self.fit.predict(self.standardise.apply_(matrix))[0].cpu()


def build_task(train: Labels, test: Labels, validation: float, search_images: int | None, seed: int) -> Task:
    """Hold out the validation split, seeded and stratified, and draw the rows to search on.

    Raises:
        UserError: too few training images to hold any out.
    """
    fit, held = hold_out(train, validation, seed)
    search = fit
    if search_images is not None and search_images < len(fit):
        search = fit[stratified_split(train.values[fit], search_images / len(fit), seed)[1]]
    return Task(train.task, train.names, train.values, test.values, fit, held, search)


def choose_linear(candidates: Candidates, task: Task, config: LinearConfig) -> Choice:
    """The space and strength with the best validation accuracy. Reads no test image and no test label."""

    def score(space: Space, rows: Tensor) -> list[float]:
        matrix = candidates.matrix(space, rows)
        standardise = Standardiser.of(matrix)
        standardise.apply_(matrix)
        fit = _fit(candidates, space, matrix, task.train[rows], task, config, config.strengths, CHOOSING)
        del matrix
        held = standardise.apply_(candidates.matrix(space, task.validation))
        return accuracy(fit.predict(held).cpu(), task.train[task.validation]).tolist()

    # Few rows are too few for many features: what they say of the widest space is not held against it.
    widest = max(candidates.spaces, key=lambda space: space.width)
    return _choose(candidates.spaces, task, config.strengths, config.finalists, score, always=[widest])


def refit_linear(candidates: Candidates, task: Task, choice: Choice, config: LinearConfig) -> LinearProbe:
    """The chosen space and strength, standardised and fitted anew on every training image."""
    matrix = candidates.matrix(choice.space)
    standardise = Standardiser.of(matrix)
    standardise.apply_(matrix)
    fit = _fit(candidates, choice.space, matrix, task.train, task, config, [choice.value], FINAL)
    return LinearProbe(choice.space, standardise, fit)


def choose_nearest(candidates: Candidates, task: Task, config: NearestConfig, finalists: int) -> Choice:
    """The space and number of neighbours with the best validation accuracy, of standardised features."""
    neighbours = sorted({min(k, len(task.fit)) for k in config.k})  # there are no more than the bank has

    def score(space: Space, rows: Tensor) -> list[float]:
        bank = candidates.matrix(space, rows)
        standardise = Standardiser.of(bank)
        held = standardise.apply_(candidates.matrix(space, task.validation))
        answers = _nearest(held, standardise.apply_(bank), task.train[rows], task, neighbours, config)
        return accuracy(answers, task.train[task.validation]).tolist()

    return _choose(candidates.spaces, task, neighbours, finalists, score)


def predict_nearest(
    candidates: Candidates, test: Features, task: Task, choice: Choice, config: NearestConfig
) -> Tensor:
    """The class of each test row by its neighbours among all training images, int64 ``[n_test]``."""
    bank = candidates.matrix(choice.space)
    standardise = Standardiser.of(bank)
    queries = standardise.apply_(test.matrix(choice.space).to(bank.device))
    return _nearest(queries, standardise.apply_(bank), task.train, task, [int(choice.value)], config)[0]


def _choose(
    spaces: Sequence[Space],
    task: Task,
    grid: Sequence[float],
    finalists: int,
    score: Callable[[Space, Tensor], list[float]],
    always: Sequence[Space] = (),
) -> Choice:
    """``score(space, rows)`` gives the validation accuracy of each grid value when fitted on ``rows``.

    Where the search rows are fewer than the fit rows, all spaces are compared on those, and the best few on all, with
    those of ``always``. On a tie the narrower space and the larger value (stronger penalty, more neighbours) win: the
    simpler of equals.
    """
    scores: dict[Space, list[float]] = {}
    if len(task.search) < len(task.fit) and len(spaces) > finalists:
        searched = {space: max(score(space, task.search)) for space in spaces}
        ranked = sorted(spaces, key=lambda space: (-searched[space], space.width))
        spaces = list(dict.fromkeys([*ranked[:finalists], *always]))
    for space in spaces:
        scores[space] = score(space, task.fit)
    best = max(
        ((space, index) for space in scores for index in range(len(grid))),
        key=lambda place: (scores[place[0]][place[1]], -place[0].width, grid[place[1]]),
    )
    space, index = best
    at_end = len(grid) > 1 and grid[index] in (min(grid), max(grid))
    return Choice(space, grid[index], scores[space][index], at_end)


def _fit(
    candidates: Candidates,
    space: Space,
    standardised: Tensor,
    labels: Tensor,
    task: Task,
    config: LinearConfig,
    strengths: Sequence[float],
    tolerance: float,
) -> LinearFit:
    labels, classes = labels.to(standardised.device), len(task.classes)
    if config.kind == "ridge":
        return fit_ridge(standardised, labels, classes, strengths)
    metric = candidates.metric(space, standardised)
    return fit_logistic(standardised, labels, classes, strengths, metric=metric, tolerance=tolerance)


def _nearest(
    queries: Tensor, bank: Tensor, labels: Tensor, task: Task, k: Sequence[int], config: NearestConfig
) -> Tensor:
    return knn_predict(queries, bank, labels.to(bank.device), len(task.classes), k, config.temperature).cpu()

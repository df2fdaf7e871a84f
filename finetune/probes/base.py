"""The probe contract: choose on held-out training images, refit on the whole training set, predict.

The shared steps are written here once, so no probe can choose on anything but held-out images or skip the refit.
Features are standardized with the statistics of the rows a classifier is fitted on. Every space and every setting of
the grid is scored on the held-out images, and the chosen one is refitted on all training images. A new probe defines
only its grid, and how classifiers are fitted on standardized rows.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from common.config import Config
from finetune.data import Fold
from finetune.features import Features
from finetune.pooling import Shape, Space
from finetune.probes.classifiers import Answers, Classifiers, Rows
from finetune.probes.search import (
    NOT_TRIED,
    Candidates,
    Chosen,
    Standardizer,
    Task,
    Validated,
    choose_best,
    clearly_worse,
)
from finetune.records import Setting, choice_text, setting_text

log = logging.getLogger("retouch")

PATIENCE = 2  # parts of the grid that may be no better than the best so far, before the rest is left out


class Split(NamedTuple):
    """One split in one space, standardized by the rows that are fitted on."""

    rows: Rows
    held: Tensor  # float32 [m F]
    labels: Tensor  # int64 [m], or bool [m L]


@dataclass(frozen=True)
class Fitted:
    """Classifiers on one space, with the statistics that standardize its features."""

    space: Space
    standardize: Standardizer
    classifiers: Classifiers

    @property
    def converged(self) -> bool:
        """Whether every fit converged."""
        return not self.classifiers.unconverged

    def predict_all(self, matrix: Tensor) -> Tensor:
        """A feature matrix ``[m F]``, which is overwritten -> predictions, as ``Classifiers`` give them, on the CPU."""
        return self.classifiers.predict(self.standardize.apply_(matrix)).cpu()

    def answers(self, features: Features) -> Answers:
        """What the first classifier answers for each row, on the CPU."""
        matrix = features.matrix(self.space).to(self.standardize.mean.device)
        classes, confidence = self.classifiers.answers(self.standardize.apply_(matrix))
        return Answers(classes.cpu(), None if confidence is None else confidence.cpu())

    def predict(self, features: Features) -> Tensor:
        """What the first classifier predicts for each row, on the CPU: int64 ``[n]``, or scores float32 ``[n L]``."""
        return self.predict_all(features.matrix(self.space).to(self.standardize.mean.device))[0]


class Probe(Config, ABC):
    """A classifier on frozen features, with its settings."""

    # The widest space is always a finalist, since a subsample underrates it, and wins unless another is clearly better.
    prefers_widest: ClassVar[bool] = False

    kind: str

    @property
    def text(self) -> str:
        """Its name in the protocol: ``logistic probe``."""
        return f"{self.kind.replace('_', ' ')} probe"

    @abstractmethod
    def grid(self, task: Task) -> Sequence[Setting]:
        """Hyperparameters to choose from, simpler ones later; ``[{}]`` if there are none."""

    @abstractmethod
    def fit(self, rows: Rows, settings: Sequence[Setting], *, final: bool) -> Classifiers:
        """Fit classifiers on these rows, one per setting; ``final`` marks the refit that is tested."""

    def spaces(self, shapes: Sequence[Shape], searched: list[Space], max_width: int) -> list[Space]:
        """The feature spaces to choose from; by default those that are searched for all probes.

        Args:
            shapes: the shapes of the subject's maps, shallow to deep.
            max_width: wider spaces are not to be used.

        Raises:
            UserError: the maps do not suit this probe.
        """
        return searched

    def standardizer(self, matrix: Tensor, space: Space) -> Standardizer:
        """The standardizer of a space, from the features that are fitted on, ``[n F]``."""
        return Standardizer.of(matrix)

    def parts(self, grid: Sequence[Setting]) -> list[slice]:
        """The grid in parts, tried one after the other until one is clearly worse than the best, or two are no better.

        By default all at once. A solver whose simpler settings are cheap, and good starts for the others, begins there.
        """
        return [slice(len(grid))]

    def choose(self, candidates: Candidates, task: Task) -> Chosen:
        """The space and setting with the best accuracy on held-out training images; a preferred space if close."""
        grid, widest = self.grid(task), max(candidates.spaces, key=lambda space: space.width)

        def validate(space: Space, folds: Sequence[Fold]) -> Validated:
            return self._validate(candidates, space, task, folds, grid)

        return choose_best(candidates, task, grid, validate, preferred=[widest] if self.prefers_widest else [])

    def _validate(
        self, candidates: Candidates, space: Space, task: Task, folds: Sequence[Fold], grid: Sequence[Setting]
    ) -> Validated:
        """Score the settings of the grid in one space, on all splits together."""
        splits = [self.split(candidates, space, task, fold) for fold in folds]
        labels = torch.cat([split.labels for split in splits])
        scores, unconverged, best, idle = [NOT_TRIED] * len(grid), 0, 0.0, 0
        fits: list[Classifiers | None] = [None] * len(grid)
        starts: list[Classifiers | None] = [None] * len(splits)
        for part in self.parts(grid):
            answers = []
            for number, split in enumerate(splits):
                rows = split.rows._replace(start=starts[number])
                starts[number] = fitted = self._fit(rows, space, task, grid[part], final=False)
                answers.append(fitted.predict(split.held).cpu())
                unconverged += len(fitted.unconverged)
            scores[part] = task.score(torch.cat(answers, 1), labels).tolist()
            fits[part] = [starts[-1]] * len(scores[part])
            top = max(scores[part])
            idle = 0 if top > best else idle + 1
            if idle == PATIENCE or clearly_worse(top, best, len(labels)):
                break
            best = max(best, top)
        return Validated(scores, fits, unconverged)

    def refit(self, candidates: Candidates, task: Task, chosen: Chosen) -> Fitted:
        """Fit the chosen setting in the chosen space, standardized, on all training images."""
        rows, standardize = self._rows(candidates, chosen.space, task, None)
        rows = rows._replace(start=chosen.start)
        return Fitted(chosen.space, standardize, self._fit(rows, chosen.space, task, [chosen.setting], final=True))

    def choose_and_fit(self, candidates: Candidates, task: Task) -> tuple[Fitted, int]:
        """The fit of what is chosen, and how many fits, compared or final, did not converge."""
        chosen = self.choose(candidates, task)
        fitted = self.refit(candidates, task, chosen)
        return fitted, chosen.facts.unconverged + (not fitted.converged)

    def split(self, candidates: Candidates, space: Space, task: Task, fold: Fold) -> Split:
        """The rows of a fold to fit on, and those it holds out, all standardized by the statistics of the former."""
        rows, standardize = self._rows(candidates, space, task, fold.fit)
        return Split(rows, standardize.apply_(candidates.matrix(space, fold.held)), task.labels[fold.held])

    def _rows(self, candidates: Candidates, space: Space, task: Task, rows: Tensor | None) -> tuple[Rows, Standardizer]:
        """Training images ``rows``, or all, standardized by their own statistics."""
        matrix = candidates.matrix(space, rows)
        standardize = self.standardizer(matrix, space)
        standardize.apply_(matrix)
        labels = (task.labels if rows is None else task.labels[rows]).to(matrix.device)
        preconditioner = partial(candidates.preconditioner, space, matrix)
        return Rows(matrix, labels, len(task.classes), preconditioner, space.positions), standardize

    def _fit(self, rows: Rows, space: Space, task: Task, settings: Sequence[Setting], *, final: bool) -> Classifiers:
        """Fit, and log what does not converge."""
        classifiers = self.fit(rows, settings, final=final)
        for place in classifiers.unconverged:
            where = choice_text(space.layer, space.pooling, setting_text(settings[place]))
            stage = "refit" if final else "search"
            log.warning("%s, %s: the %s did not converge (%s)", task.name, stage, self.text, where)
        return classifiers

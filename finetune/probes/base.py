"""The probe contract: choose on validation, refit on the whole training set, predict.

The shared steps are written here once, so no probe can choose on anything but the validation split or skip the refit.
Features are standardised with the statistics of the rows a classifier is fitted on. Every space and every setting of
the grid is scored on the validation split, and the best is refitted on all training images. A new probe defines only
its grid, and how classifiers are fitted on standardised rows.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

from torch import Tensor

from common.config import Config
from finetune.features import Features
from finetune.metrics import accuracy
from finetune.pooling import Space
from finetune.probes.search import Candidates, Chosen, Standardiser, Task, Validated, choose_best
from finetune.results import Setting, choice_text, setting_text
from finetune.solvers.preconditioner import Preconditioner

log = logging.getLogger("retouch")


class Rows(NamedTuple):
    """Labelled rows that classifiers are fitted on."""

    features: Tensor  # float32 [n F], standardised
    labels: Tensor  # int64 [n]
    classes: int
    preconditioner: Callable[[], Preconditioner | None]  # of the space, for solvers that use one


class Classifiers(ABC):
    """Fitted classifiers, one per setting."""

    @property
    def unconverged(self) -> tuple[int, ...]:
        """Which settings, by position, have a fit that did not converge, although it was repeated more carefully."""
        return ()

    @abstractmethod
    def predict(self, features: Tensor) -> Tensor:
        """Standardised features ``[m F]`` -> the class of each row under each setting, int64 ``[G m]``."""


@dataclass(frozen=True)
class Fitted:
    """Classifiers on one space, with the statistics that standardise its features."""

    space: Space
    standardise: Standardiser
    classifiers: Classifiers

    @property
    def converged(self) -> bool:
        """Whether every fit converged."""
        return not self.classifiers.unconverged

    def predict_all(self, matrix: Tensor) -> Tensor:
        """A feature matrix ``[m F]``, which is overwritten -> predictions, int64 ``[G m]``, on the CPU."""
        return self.classifiers.predict(self.standardise.apply_(matrix)).cpu()

    def predict(self, features: Features) -> Tensor:
        """The class that the first classifier predicts for each row, int64 ``[n]``, on the CPU."""
        return self.predict_all(features.matrix(self.space).to(self.standardise.mean.device))[0]


class Probe(Config, ABC):
    """A classifier on frozen features, with its settings."""

    keep_widest: ClassVar[bool] = False  # the widest space is always a finalist: a subsample underrates it

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

    def choose(self, candidates: Candidates, task: Task) -> Chosen:
        """The space and setting with the best validation accuracy."""
        grid = self.grid(task)
        held = task.labels[task.validation]

        def validate(space: Space, rows: Tensor) -> Validated:
            fitted = self._fitted(candidates, space, task, rows, grid, final=False)
            shares: list[float] = accuracy(fitted.predict_all(candidates.matrix(space, task.validation)), held).tolist()
            return Validated(shares, len(fitted.classifiers.unconverged))

        widest = max(candidates.spaces, key=lambda space: space.width)
        return choose_best(candidates, task, grid, validate, always=[widest] if self.keep_widest else [])

    def refit(self, candidates: Candidates, task: Task, chosen: Chosen) -> Fitted:
        """Fit the chosen setting in the chosen space, standardised, on all training images."""
        return self._fitted(candidates, chosen.space, task, None, [chosen.setting], final=True)

    def _fitted(
        self,
        candidates: Candidates,
        space: Space,
        task: Task,
        rows: Tensor | None,
        settings: Sequence[Setting],
        *,
        final: bool,
    ) -> Fitted:
        """Classifiers fitted on training images ``rows``, or on all."""
        matrix = candidates.matrix(space, rows)
        standardise = Standardiser.of(matrix)
        standardise.apply_(matrix)
        labels = (task.labels if rows is None else task.labels[rows]).to(matrix.device)
        preconditioner = partial(candidates.preconditioner, space, matrix)
        classifiers = self.fit(Rows(matrix, labels, len(task.classes), preconditioner), settings, final=final)
        for place in classifiers.unconverged:
            where = choice_text(space.layer, space.pooling, setting_text(settings[place]))
            stage = "refit" if final else "search"
            log.warning("%s, %s: the %s did not converge (%s)", task.name, stage, self.text, where)
        return Fitted(space, standardise, classifiers)

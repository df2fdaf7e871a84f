"""What a probe fits, and the rows it is fitted on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from finetune.solvers.preconditioner import Preconditioner


class Answers(NamedTuple):
    """What one classifier answers, row by row."""

    classes: Tensor  # int64 [m]
    confidence: Tensor | None  # float32 [m]: the probability of that class; None where there are no probabilities


class Classifiers(ABC):
    """Fitted classifiers, one per setting."""

    @property
    def unconverged(self) -> tuple[int, ...]:
        """Which settings, by position, have a fit that did not converge, although it was repeated more carefully."""
        return ()

    @abstractmethod
    def predict(self, features: Tensor) -> Tensor:
        """Standardized features ``[m F]`` -> the class of each row under each setting, int64 ``[G m]``.

        Where a row has any number of labels: a score for each, float32 ``[G m L]``, above 0 if it is likely.
        """

    def answers(self, features: Tensor) -> Answers:
        """What the first classifier answers: the same classes, with probabilities where a probe has them."""
        return Answers(self.predict(features)[0], None)


class Rows(NamedTuple):
    """Labeled rows that classifiers are fitted on."""

    features: Tensor  # float32 [n F], standardized
    labels: Tensor  # int64 [n]; or bool [n L], any number of labels per row
    classes: int  # or labels
    preconditioner: Callable[[], Preconditioner]  # of the space, for solvers that use one
    positions: int = 1  # cells of each channel, where the features are one map
    start: Classifiers | None = None  # fitted on (nearly) these rows with other settings, for solvers that start there

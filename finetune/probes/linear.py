"""The linear probe: logistic or ridge regression, with the L2 strength chosen on held-out training images.

Where an image has any number of labels, each label has a regression of its own, all with one strength.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from finetune.probes.base import Probe
from finetune.probes.classifiers import Answers, Classifiers, Rows
from finetune.probes.search import Candidates, Chosen, Task
from finetune.records import Setting
from finetune.solvers.gram import blocks
from finetune.solvers.logistic import LinearFit, LogisticFit, fit_logistic
from finetune.solvers.ridge import fit_ridge

CHOOSING = 1e-3  # solver tolerance while strengths are compared, where a tenth of a point of accuracy is noise
TOGETHER = 4  # strengths that are tried first: one product with the features serves them all
FINAL = 1e-6  # solver tolerance of the classifier that is tested: smaller ones change one prediction in a thousand

# Half decades: neighboring strengths differ in validation accuracy by less than its standard error.
STRENGTHS = {
    "logistic": tuple(float(f"{10 ** (exponent / 2):.3g}") for exponent in range(-10, 0)),  # 1e-5 .. 0.316
    "ridge": tuple(float(f"{10 ** (exponent / 2):.3g}") for exponent in range(-6, 6)),  # 1e-3 .. 316
}


class Linear(Probe):
    """Multinomial logistic regression, or ridge regression onto one-hot labels."""

    prefers_widest: ClassVar[bool] = True

    kind: Literal["logistic", "ridge"] = "logistic"
    """Multinomial logistic regression, or ridge regression onto one-hot labels."""
    l2: tuple[Annotated[float, Field(ge=1e-12, le=1e12)], ...] | None = None
    """Regularization strengths to choose from; by default a grid of half decades that suits the kind."""

    @model_validator(mode="after")
    def _grid_has_something(self) -> Linear:
        if self.l2 is not None and not self.l2:
            raise ValueError("l2: give at least one strength, or remove it")
        return self

    @property
    def strengths(self) -> tuple[float, ...]:
        """The grid, weakest first."""
        return tuple(sorted(STRENGTHS[self.kind] if self.l2 is None else self.l2))

    def grid(self, task: Task) -> list[Setting]:
        return [{"l2": strength} for strength in self.strengths]

    def parts(self, grid: Sequence[Setting]) -> list[slice]:
        """Logistic regression tries strong penalties first: their fits take a few steps, and weak ones a hundred."""
        if self.kind == "ridge":
            return super().parts(grid)
        first = max(0, len(grid) - TOGETHER)
        return [slice(first, len(grid)), *(slice(place, place + 1) for place in reversed(range(first)))]

    def fit(self, rows: Rows, settings: Sequence[Setting], *, final: bool) -> LinearClassifiers:
        l2 = [setting["l2"] for setting in settings]
        kind = LinearClassifiers if rows.labels.ndim == 1 else LinearScores
        if self.kind == "ridge":
            return kind(fit_ridge(rows.features, rows.labels, rows.classes, l2))
        start = rows.start.fit.near(max(l2)) if isinstance(rows.start, LinearClassifiers) else None
        return kind(
            fit_logistic(
                rows.features,
                rows.labels,
                rows.classes,
                l2,
                start=start,
                preconditioner=rows.preconditioner(),
                tolerance=FINAL if final else CHOOSING,
                confirm=final,
            )
        )

    def held_out(self, candidates: Candidates, task: Task, chosen: Chosen) -> tuple[Tensor, Tensor]:
        """The outputs of the chosen space and strength for every held-out image, when fitted without it.

        Returns:
            Outputs ``[m C]`` of the held-out images of all splits, and their labels ``[m]`` or ``[m C]``.
        """
        # with several splits, the fits of the last one know the held-out images of the others
        start = chosen.start if len(task.folds) == 1 else None
        outputs, labels = [], []
        for fold in task.folds:
            split = self.split(candidates, chosen.space, task, fold)
            fitted = self._fit(split.rows._replace(start=start), chosen.space, task, [chosen.setting], final=False)
            assert isinstance(fitted, LinearClassifiers)
            outputs.append(fitted.outputs(split.held)[0] + fitted.offset)
            labels.append(split.labels)
        return torch.cat(outputs).cpu(), torch.cat(labels).cpu()


class LinearClassifiers(Classifiers):
    """Linear classifiers, one per strength.

    Attributes:
        offset: added to an output, it gives the logit.
    """

    offset: float = 0.0

    def __init__(self, fit: LinearFit) -> None:
        self.fit = fit

    @property
    def unconverged(self) -> tuple[int, ...]:
        return self.fit.unconverged

    def predict(self, features: Tensor) -> Tensor:
        return self.fit.predict(features)

    def outputs(self, features: Tensor) -> Tensor:
        """Standardized features ``[m F]`` -> what each strength gives for each class or label, ``[G m C]``."""
        return torch.cat([self.fit.outputs(rows) for rows in blocks(features)], 1)

    def answers(self, features: Tensor) -> Answers:
        """With the softmax of logistic regression; the outputs of ridge regression are not probabilities."""
        return (
            Answers(*self.fit.confident(features)) if isinstance(self.fit, LogisticFit) else super().answers(features)
        )


class LinearScores(LinearClassifiers):
    """The same for any number of labels per row: log-odds of each, or what ridge regression gives above one half."""

    def __init__(self, fit: LinearFit) -> None:
        super().__init__(fit)
        self.offset = 0.0 if isinstance(fit, LogisticFit) else -0.5

    def predict(self, features: Tensor) -> Tensor:
        return self.outputs(features) + self.offset

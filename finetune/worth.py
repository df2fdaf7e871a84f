"""Typed results of label efficiency, in ``results.json`` of a probe and of a study."""

from __future__ import annotations

from pydantic import Field

from common.runs.results import Record


class LabelPoint(Record):
    """A linear probe that was chosen and fitted with so many labels."""

    labels: int
    draws: tuple[float, ...]  # test accuracy with each draw of them
    ci95: tuple[float, float] | None = None  # of the mean, by the bootstrap over draws and test images (None: older)

    @property
    def accuracy(self) -> float:
        """The mean over the draws."""
        return sum(self.draws) / len(self.draws)


class Worth(Record):
    """How many labels a baseline needs to be as accurate as the encoder with ``labels`` of them.

    0: fewer than its smallest budget. None: more than all.
    """

    labels: int
    equals: int | None
    ci95: tuple[int | None, int | None]


class LabelEfficiency(Record):
    """Accuracy from few labels to all."""

    protocol: str
    curves: dict[str, tuple[LabelPoint, ...]]  # by subject, few labels first; the last has all
    worth: dict[str, tuple[Worth, ...]]  # by baseline, for each budget of the encoder
    unconverged: dict[str, int] = Field(default_factory=dict)  # fits that did not converge, by subject that has some

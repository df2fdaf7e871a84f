"""Typed results of label efficiency, in ``results.json`` of a probe and of a study."""

from __future__ import annotations

from pydantic import Field

from common.runs.results import Record


class LabelPoint(Record):
    """A linear probe that was chosen and fitted with so many labels."""

    labels: int
    draws: tuple[float, ...]  # test accuracy with each draw of them
    # of the mean, over test images and draws; of a single draw over test images alone (None: older)
    ci95: tuple[float, float] | None = None

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

    def once(self, subject: str) -> bool:
        """Whether no point of its curve has several draws, so that all its intervals are over test images alone."""
        return all(len(point.draws) == 1 for point in self.curves[subject])

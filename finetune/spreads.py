"""Accuracies over several seeds, and what the seeds changed."""

from __future__ import annotations

from typing import Literal

from common.runs.results import Record
from common.runs.spread import Spread

Measure = Literal["accuracy", "mean_average_precision", "mean_iou"]
MEASURES: dict[Measure, str] = {
    "accuracy": "test accuracy",
    "mean_average_precision": "mean average precision",
    "mean_iou": "mean IoU",
}
Over = Literal["pretraining", "probing"]


class SubjectSpread(Record):
    """One probe of one subject on one task, over the seeds. No two have the same measure, task, subject and probe."""

    task: str  # with the data that distinguishes it, if there are several
    subject: str  # encoder, random_init, pixels
    probe: str  # linear, knn, ...
    measure: Measure
    spread: Spread  # of the measure on the test images, in [0, 1]

    @property
    def of(self) -> tuple[str, Measure]:
        """What is measured: a task of classes and one of masks may have the same name."""
        return self.task, self.measure


class Seeds(Record):
    """What a group of probes varied, and the spread of its results.

    ``pretraining``: each run measured another encoder, pretrained with another seed; the probe's own seed is the same.
    ``probing``: each run measured the same encoder; the seed draws the folds, the untrained network and, where the data
    have no test set of their own, the test images.
    """

    over: Over
    seeds: tuple[int, ...]  # in the order of the results
    runs: tuple[str, ...]  # the folder of each
    spreads: tuple[SubjectSpread, ...]

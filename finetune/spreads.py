"""Accuracies over several seeds, and what the seeds changed."""

from __future__ import annotations

from typing import Literal

from common.runs.results import Record
from common.runs.spread import Spread

Measure = Literal["accuracy", "mean_average_precision", "mean_iou"]


class SubjectSpread(Record):
    """One probe of one subject on one task, over the seeds."""

    task: str
    subject: str  # encoder, random_init, pixels
    probe: str  # linear, knn, ...
    measure: Measure
    spread: Spread  # of the measure on the test images, in [0, 1]


class Seeds(Record):
    """What a group of probes varied, and the spread of its results.

    ``pretraining``: each run measured another encoder, pretrained with another seed; the probe's own seed is the same.
    ``probing``: each run measured the same encoder; the seed draws the folds, the untrained network and, where the data
    have no test set of their own, the test images.
    """

    over: Literal["pretraining", "probing"]
    seeds: tuple[int, ...]  # in the order of the results
    runs: tuple[str, ...]  # the folder of each
    spreads: tuple[SubjectSpread, ...]

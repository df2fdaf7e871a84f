"""The nearest class mean: what a probe without anything to choose finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from finetune.probes.base import Probe
from finetune.probes.classifiers import Classifiers, Rows
from finetune.probes.search import Task
from finetune.records import Setting


class NearestMean(Probe):
    """The class whose mean is nearest, by Euclidean distance of standardized features; only the space is chosen."""

    kind: Literal["nearest_mean"] = "nearest_mean"

    @property
    def text(self) -> str:
        return "nearest class mean"

    def grid(self, task: Task) -> list[Setting]:
        return [{}]

    def fit(self, rows: Rows, settings: Sequence[Setting], *, final: bool) -> Means:
        total = rows.features.new_zeros(rows.classes, rows.features.shape[1]).index_add_(0, rows.labels, rows.features)
        count = torch.bincount(rows.labels, minlength=rows.classes)
        return Means(total / count.clamp_min(1)[:, None], count > 0)


class Means(Classifiers):
    """The mean of each class; a class without rows is never predicted."""

    def __init__(self, means: Tensor, known: Tensor) -> None:
        self.means, self.known = means, known

    def predict(self, features: Tensor) -> Tensor:
        # |x - m|² without |x|², which is the same for all classes
        distance = self.means.square().sum(1) - 2 * features @ self.means.T
        return distance.masked_fill(~self.known, torch.inf).argmin(1)[None]

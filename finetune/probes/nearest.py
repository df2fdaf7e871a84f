"""Weighted k-nearest neighbors, with k and whitening chosen on held-out training images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from common.config import MANY
from finetune.probes.base import Probe
from finetune.probes.classifiers import Answers, Classifiers, Rows
from finetune.probes.search import Task
from finetune.records import Setting
from finetune.solvers.knn import knn_confident, knn_predict
from finetune.solvers.whitening import Whitening


class Nearest(Probe):
    """A weighted vote of the k most similar training images, by cosine similarity of standardized features."""

    kind: Literal["knn"] = "knn"
    k: tuple[Annotated[int, Field(gt=0, le=MANY)], ...] = Field(default=(10, 20, 100, 200), min_length=1)
    """Numbers of neighbors to choose from."""
    temperature: float = Field(default=0.07, ge=1e-4, le=1e4)
    """A neighbor of cosine similarity s has the weight exp(s / temperature)."""

    whiten: tuple[Annotated[int, Field(ge=0, le=4096)], ...] = Field(default=(0,), min_length=1)
    """Numbers of whitened principal components to choose from, as in [0, 64, 256]; 0: features as they are."""

    @property
    def text(self) -> str:
        choices = " or ".join(f"first {count}" if count else "none" for count in sorted(set(self.whiten)))
        whitened = f", whitened components: {choices}" if any(self.whiten) else ""
        return f"k-NN (temperature {self.temperature:g}{whitened})"

    def grid(self, task: Task) -> list[Setting]:
        neighbors = sorted({min(k, *(len(fold.fit) for fold in task.folds)) for k in self.k})  # the bank has no more
        # features as they are come last: they are the simpler choice
        grid: list[Setting] = []
        for count in sorted(set(self.whiten), reverse=True):
            grid += [{"k": k, "whiten": count} if count else {"k": k} for k in neighbors]
        return grid

    def fit(self, rows: Rows, settings: Sequence[Setting], *, final: bool) -> Neighbors:
        most = max(_components(setting) for setting in settings)
        whitening = Whitening.of(rows.features, most) if most else None
        banks = []
        for count, some in groupby(settings, _components):
            k = [int(setting["k"]) for setting in some]
            first = whitening.first(count) if whitening is not None and count else None
            features = rows.features if first is None else first.apply(rows.features)
            banks.append(Bank(features, first, k))
        return Neighbors(banks, rows.labels, rows.classes, self.temperature)


def _components(setting: Setting) -> int:
    return int(setting.get("whiten", 0))


class Bank(NamedTuple):
    """Labeled rows to compare with, as some settings see them."""

    features: Tensor  # [n F], or whitened [n d]
    whitening: Whitening | None
    k: list[int]  # one per setting

    def queries(self, features: Tensor) -> Tensor:
        """Standardized features ``[m F]``, as these settings see them."""
        return features if self.whitening is None else self.whitening.apply(features)


class Neighbors(Classifiers):
    """The labeled rows: nothing is learned but how to whiten them."""

    def __init__(self, banks: Sequence[Bank], labels: Tensor, classes: int, temperature: float) -> None:
        self.banks, self.labels, self.classes, self.temperature = banks, labels, classes, temperature

    def predict(self, features: Tensor) -> Tensor:
        found = [
            knn_predict(bank.queries(features), bank.features, self.labels, self.classes, bank.k, self.temperature)
            for bank in self.banks
        ]
        return torch.cat(found)

    def answers(self, features: Tensor) -> Answers:
        """With the class's share of the votes."""
        bank = self.banks[0]
        queries = bank.queries(features)
        return Answers(*knn_confident(queries, bank.features, self.labels, self.classes, bank.k[0], self.temperature))

"""Weighted k-nearest neighbors, with k chosen on held-out training images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from common.config import MANY
from finetune.probes.base import Probe
from finetune.probes.classifiers import Answers, Classifiers, Rows
from finetune.probes.search import Task
from finetune.results import Setting
from finetune.solvers.knn import knn_confident, knn_predict


class Nearest(Probe):
    """A weighted vote of the k most similar training images, by cosine similarity of standardized features."""

    kind: Literal["knn"] = "knn"
    k: tuple[Annotated[int, Field(gt=0, le=MANY)], ...] = Field(default=(10, 20, 100, 200), min_length=1)
    """Numbers of neighbors to choose from."""
    temperature: float = Field(default=0.07, ge=1e-4, le=1e4)
    """A neighbor of cosine similarity s has the weight exp(s / temperature)."""

    @property
    def text(self) -> str:
        return f"k-NN (temperature {self.temperature:g})"

    def grid(self, task: Task) -> list[Setting]:
        neighbors = sorted({min(k, *(len(fold.fit) for fold in task.folds)) for k in self.k})  # the bank has no more
        return [{"k": k} for k in neighbors]

    def fit(self, rows: Rows, settings: Sequence[Setting], *, final: bool) -> Neighbors:
        return Neighbors(rows, [int(setting["k"]) for setting in settings], self.temperature)


class Neighbors(Classifiers):
    """The labeled bank: nothing is learned."""

    def __init__(self, bank: Rows, k: Sequence[int], temperature: float) -> None:
        self.bank, self.k, self.temperature = bank, k, temperature

    def predict(self, features: Tensor) -> Tensor:
        bank = self.bank
        return knn_predict(features, bank.features, bank.labels, bank.classes, self.k, self.temperature)

    def answers(self, features: Tensor) -> Answers:
        """With the class's share of the votes."""
        bank = self.bank
        return Answers(*knn_confident(features, bank.features, bank.labels, bank.classes, self.k[0], self.temperature))

"""A task with several labels per image: how it is split for the choices, and the score that makes them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from common.data import MultiLabels
from common.data.multilabel import iterative_parts
from finetune.calibration import label_confidence
from finetune.multilabel.data import multilabel_folds
from finetune.probes import Search, Task
from finetune.probes.search import FEW_IMAGES
from finetune.ranking import mean_average_precision


@dataclass(frozen=True)
class MultiLabelTask(Task):
    """A task whose labels are bool ``[n L]``, and whose answers are scores ``[G m L]``."""

    def score(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Mean average precision over the labels that these rows have, float64 ``[G]``."""
        return mean_average_precision(answers, labels)

    def decide(self, logits: Tensor) -> Tensor:
        """Logits ``[n L]`` -> the labels that are more likely than not, bool ``[n L]``."""
        return logits > 0

    def confidence(self, logits: Tensor, temperature: float) -> Tensor:
        """Logits ``[n L]`` -> the probability of each decision, yes or no, float32 ``[n L]``."""
        return label_confidence(logits, temperature)


def build_multilabel_task(train: MultiLabels, search: Search, seed: int) -> MultiLabelTask:
    """Split the training images for the choices, as for classes, but by iterative stratification.

    Raises:
        UserError: too few training images with a label for a validation split.
    """
    folds = search.folds if search.folds > 1 and len(train.values) < FEW_IMAGES else 1
    found = multilabel_folds(train, folds, search.validation, seed)
    how = f"{folds}-fold cross-validation" if folds > 1 else f"held-out {search.validation:.0%}"
    first = found
    if search.search_images is not None:
        first = tuple(fold._replace(fit=_some(train, fold.fit, search.search_images, seed)) for fold in found)
    return MultiLabelTask(train.task, train.names, train.values, found, first, how)


def _some(train: MultiLabels, rows: Tensor, size: int, seed: int) -> Tensor:
    """About ``size`` of these rows, in which each label keeps its share."""
    if size >= len(rows):
        return rows
    share = size / len(rows)
    return rows[iterative_parts(train.values[rows], [share, 1 - share], seed) == 0]

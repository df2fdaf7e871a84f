"""A cheap accuracy to watch while an encoder learns, on a few labeled training images.

It is a curve next to the loss, called "watch", not a result: it is measured again and again, so whatever is chosen by
it looks better than it is. It uses no image that a probe of the same source, seed and first task tests on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from common.config import Config
from common.data import Labels, Source, build_source, load_images, split_source
from common.data.levels import Levels, levels_of_training
from common.data.rows import even_rows
from common.encoders.base import Encoder
from common.errors import UserError, check_all
from common.pixels import in_chunks, to_float
from pretrain.ruler.budget import affordable
from pretrain.ruler.twin import STATISTICS, untrained

log = logging.getLogger("retouch")

LEAST, MOST = 250, 1000  # labeled images
STRENGTHS = np.logspace(-1, 5, 7)  # strengths of the ridge penalty, on standardized features


class WatchConfig(Config):
    """Labeled images on which a cheap accuracy is watched."""

    short: ClassVar[str] = "data"

    data: str = Field(min_length=1)
    """A folder of class folders, or another source with labels; of its training images, 250 to 1,000 are used."""
    task: str | None = None
    """Label column; by default, every obvious one."""
    image: str | None = None
    """Column of images, if it is not the obvious one."""
    label: str | None = None
    """Label column of the default task, if it is not the obvious one."""


@dataclass(frozen=True)
class Watched:
    """The opened images of a ``WatchConfig``: training images, and the tasks to watch."""

    source: Source
    tasks: tuple[str, ...]


def open_watched(config: WatchConfig, *, root: str | None, seed: int) -> Watched:
    """Open the labeled images, and leave out those that a probe would test on.

    Raises:
        UserError: they cannot be opened, have no such labels, or have only one class.
    """
    source = build_source(config.data, image=config.image, label=config.label, root=root)
    tasks = source.default_tasks() if config.task is None else (source.resolve(config.task),)
    check_all(*(lambda task=task: _check(source.labels(task), config) for task in tasks))
    if source.published_test() is None:
        source, _ = split_source(source, tasks[0], seed=seed)
    return Watched(source=source, tasks=tasks)


def _check(labels: Labels, config: WatchConfig) -> None:
    if len(torch.unique(labels.values)) < 2:
        raise UserError(f"watch.data={config.data}: all images have the same class; at least two classes are needed")


class Watch:
    """Measures an encoder, and says how it compares with the same network before training.

    Args:
        learned: images that are learned from between two measurements, which decide how many are measured on.
        levels: black and white of training images of more than 8 bits, which these images get as well.
    """

    def __init__(
        self, encoder: Encoder, watched: Watched, *, learned: int, workers: int, seed: int, levels: Levels | None = None
    ) -> None:
        self.encoder = encoder
        limit = affordable(learned, least=LEAST, most=MOST)
        shared = levels_of_training(watched.source, None, levels)
        images = load_images(watched.source, encoder.image_size, limit=limit, workers=workers, seed=seed, levels=shared)
        self.images = images.rows(torch.arange(len(images)))
        self.labels = {task: images.labels(task).values for task in watched.tasks}
        self._before: dict[str, float] | None = None

    def show(self, step: int) -> Mapping[str, float]:
        """Measure, and say what was found; returns ``watch/TASK``: accuracies in [0, 1]."""
        if self._before is None:
            some = self.images[even_rows(len(self.images), STATISTICS)]
            self._before = self._accuracies(untrained(self.encoder, to_float(some)))
        now = self._accuracies(self.encoder)
        each = ", ".join(f"{task} {now[task]:.1%} (untrained {self._before[task]:.1%})" for task in now)
        log.info("step %s: watch on %s labeled training images: %s", f"{step:,}", f"{len(self.images):,}", each)
        return {f"watch/{task}": value for task, value in now.items()}

    def _accuracies(self, encoder: Encoder) -> dict[str, float]:
        return ridge_accuracies(pooled(encoder, to_float(self.images)), self.labels)


@torch.no_grad()
def pooled(encoder: Encoder, images: Tensor) -> Tensor:
    """Every map of images ``[N 3 S S]`` in [0, 1], averaged over positions: float64 ``[N F]``, on the CPU."""
    device = encoder.mean.device
    return torch.cat(
        [
            torch.cat([one.float().mean((2, 3)) for one in encoder.layers(part.to(device))], 1).double().cpu()
            for part in in_chunks(images)
        ]
    )


def ridge_accuracies(matrix: Tensor, labels: Mapping[str, Tensor]) -> dict[str, float]:
    """Accuracy of ridge classifiers on the images they were not fitted on: one left out at a time, in closed form.

    All tasks share one decomposition of the features, which takes nearly all of the time.

    Args:
        matrix: features ``[N F]``.
        labels: int64 ``[N]``, by task.

    Returns:
        In [0, 1], by task, each at its best strength.
    """
    from sklearn.linear_model import RidgeCV  # takes a second to import

    deviation = matrix.std(0, correction=0)
    standard = (matrix - matrix.mean(0)) / torch.where(deviation > 0, deviation, 1)
    targets = [F.one_hot(values).double() for values in labels.values()]  # regressed on, as by RidgeClassifier
    # by default, every strength would invert the covariance again
    fit = RidgeCV(STRENGTHS, scoring="neg_mean_squared_error", store_cv_results=True, gcv_mode="svd")
    left_out = torch.from_numpy(fit.fit(standard.numpy(), torch.cat(targets, 1).numpy()).cv_results_)  # [N C strengths]
    parts = torch.split(left_out, [target.shape[1] for target in targets], dim=1)
    found = {}
    for (task, values), part in zip(labels.items(), parts, strict=True):
        found[task] = float((part.argmax(1) == values[:, None]).double().mean(0).max())
    return found

"""Test images in an encoder's feature space: a map of them in two dimensions, and the neighbors of ten of them.

Both come from ``embedding.safetensors``, which holds some test images in random order. No image is chosen by its looks:
the map shows the first ones, and the ten are the first ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from common.words import counted, headed
from finetune.metrics import wilson_interval
from retouch.reporting.facts import Entry
from retouch.reporting.runs import Winner
from retouch.reporting.sentences import number

NO_BETTER = " That is not clearly more than by chance: the map and the neighbors do not show these classes."
MOST_POINTS = 1000  # on the map: t-SNE takes about five seconds for them
FEWEST = 20  # images: with fewer, there are no map and no neighbors
DRAWN, NEAR = 10, 8  # images, and neighbors of each


@dataclass(frozen=True)
class Placed:
    """Some test images with their features and the labels of one task, in random order."""

    classes: tuple[str, ...]
    features: Tensor  # float32 [n K]
    labels: Tensor  # int64 [n]
    rows: Tensor  # int64 [n], of the test set
    paths: tuple[str, ...]


def placed(entry: Entry | Winner) -> Placed | None:
    """The images with features and labels; ``None`` if there are too few."""
    embedding, predictions = entry.embedding, entry.predictions
    if embedding is None or predictions is None:
        return None
    number = {row: place for place, row in enumerate(predictions.rows.tolist())}
    kept = [place for place, row in enumerate(embedding.rows.tolist()) if row in number]
    if len(kept) < FEWEST or not embedding.features.shape[1]:
        return None
    rows = embedding.rows[kept]
    at = [number[row] for row in rows.tolist()]
    paths = tuple(predictions.paths[place] for place in at)
    return Placed(predictions.classes, embedding.features[kept].float(), predictions.labels[at], rows, paths)


def layout(features: Tensor) -> NDArray[np.float32]:
    """t-SNE (van der Maaten and Hinton 2008) of the first ``MOST_POINTS`` features ``[n K]``: points in [0, 1]."""
    from sklearn.manifold import TSNE  # takes a second to import

    points = features[:MOST_POINTS].numpy()
    perplexity = min(30.0, (len(points) - 1) / 3)
    # initialization by principal components needs at least two features and points that differ
    init = "pca" if points.shape[1] > 1 and bool((points != points[0]).any()) else "random"
    found = TSNE(perplexity=perplexity, init=init, random_state=0).fit_transform(points)
    low, high = found.min(0), found.max(0)
    spread: NDArray[np.float32] = ((found - low) / np.maximum(high - low, 1e-9)).astype(np.float32)
    return spread


class Near(NamedTuple):
    """The positions of one image and its neighbors, nearest first."""

    image: int
    neighbors: tuple[int, ...]


def neighbors(found: Placed) -> list[Near]:
    """The first images, each with the images whose features are most similar by cosine."""
    unit = normalize(found.features, dim=1)
    similarity = unit[:DRAWN] @ unit.T
    similarity.fill_diagonal_(-torch.inf)  # not itself
    nearest = similarity.argsort(dim=1, descending=True, stable=True)[:, : min(NEAR, len(unit) - 1)]
    return [Near(place, tuple(row)) for place, row in enumerate(nearest.tolist())]


class Agreement(NamedTuple):
    """The share of images whose nearest neighbor has the same class."""

    same: float
    chance: float
    images: int

    @property
    def above(self) -> bool:
        """Whether it is clearly above: the 95% interval is."""
        return wilson_interval(round(self.same * self.images), self.images)[0] > self.chance

    @property
    def above_chance(self) -> float:
        """1 if all have one, 0 if as many as by chance."""
        return (self.same - self.chance) / max(1 - self.chance, 1e-9)


def agreement(found: Placed) -> Agreement:
    """The agreement of all these images, with nearest neighbors by cosine."""
    unit = normalize(found.features, dim=1)
    similarity = unit @ unit.T
    similarity.fill_diagonal_(-torch.inf)
    same = found.labels[similarity.argmax(1)] == found.labels
    n, counts = len(unit), found.labels.bincount().double()
    return Agreement(float(same.double().mean()), float((counts * (counts - 1)).sum() / (n * (n - 1))), n)


def apart(points: NDArray[np.float32], distance: float, most: int) -> list[int]:
    """Positions of points ``[n 2]`` that are at least this far apart along one axis, in order: for thumbnails."""
    taken: list[int] = []
    for place, point in enumerate(points):
        if len(taken) < most and all(np.abs(point - points[other]).max() >= distance for other in taken):
            taken.append(place)
    return taken


def neighbor_sentences(found: Placed, near: Sequence[Near], encoder: str, task: str = "") -> list[str]:
    """An explanation of the rows of neighbors; ``task``: whose classes count, if there are several tasks."""
    which = f" of {task}" if task else ""
    return [
        f"{counted(len(near), 'test image')} drawn at random, each with the {len(near[0].neighbors)} most similar of "
        f"{len(found.labels) - 1:,} others, by cosine similarity of the features of {encoder} in all probed layers.",
        f"Solid line below: the same class{which}. Dotted line: another class.",
    ]


def agreement_sentence(about: str, found: Agreement) -> str:
    """How often the nearest neighbor of an image has the same class; ``about``: what the sentence begins with."""
    return headed(
        about,
        f"the nearest neighbor has the same class for {number(found.same)}% of all {found.images:,} images; a "
        f"neighbor drawn at random would have it for {number(found.chance)}%."
        f"{'' if found.above else NO_BETTER}",
    )

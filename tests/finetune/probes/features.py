"""Features with one informative layer and one layer of noise."""

from __future__ import annotations

import torch

from common.data import Labels
from finetune.features import Features
from finetune.pooling import Part, Space
from finetune.probes import Candidates, Search, Task, build_task

CPU = torch.device("cpu")
GOOD, BAD = Part(0, "avg"), Part(1, "avg")
GOOD_SPACE, BAD_SPACE = Space((0,), ("avg",), (GOOD,), 4), Space((1,), ("avg",), (BAD,), 2)


def informative(n: int, seed: int) -> tuple[Features, torch.Tensor]:
    """Layer 0 mostly separates the three classes; layer 1 is noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    good = torch.nn.functional.one_hot(labels, 4) * 3.0 + torch.randn(n, 4, generator=generator) + 5
    return Features({GOOD: good, BAD: torch.randn(n, 2, generator=generator)}, torch.arange(n)), labels


def task_of(labels: torch.Tensor, search: int | None = None, folds: int = 0) -> Task:
    """Choices by a held-out tenth, or by cross-validation."""
    return build_task(Labels(labels, ("a", "b", "c"), "t"), Search(search_images=search, folds=folds), seed=0)


def both(features: Features, finalists: int = 2) -> Candidates:
    return Candidates(features, [BAD_SPACE, GOOD_SPACE], CPU, finalists)

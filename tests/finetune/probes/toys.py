"""A probe that is not one of ours, and the settings of a stage that takes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from finetune.config import ProbeConfig
from finetune.probes import (
    AnyProbe,
    Classifiers,
    Probe,
    Rows,
    Task,
)
from finetune.records import Setting


class Medians(Classifiers):
    """The nearest of the class medians."""

    def __init__(self, medians: Tensor) -> None:
        self.medians = medians

    def predict(self, features: Tensor) -> Tensor:
        return torch.cdist(features, self.medians).argmin(1)[None]


class NearestMedian(Probe):
    """A throwaway probe without hyperparameters: all that a new probe has to define."""

    kind: Literal["nearest_median"] = "nearest_median"

    def grid(self, task: Task) -> list[Setting]:
        return [{}]

    def fit(self, rows: Rows, settings: Sequence[Setting], *, final: bool) -> Medians:
        return Medians(torch.stack([rows.features[rows.labels == k].median(0).values for k in range(rows.classes)]))


class MoreProbes(ProbeConfig):
    """The config with one more member in the union of probes."""

    more_probes: tuple[AnyProbe | NearestMedian, ...] = ()  # type: ignore[assignment]


def config_of(out: Path, encoder: Path, **changes: Any) -> MoreProbes:
    """A probe of the color of 120 generated images."""
    values: dict[str, Any] = {
        "out": out,
        "encoder": encoder,
        "data": {"train": "shapes", "limit": 120, "test_limit": 40, "task": "color", "workers": 0},
        "probe": {"l2": [1e-2], "layers": [-1], "poolings": ["avg"]},
        "baselines": {"random_init": False},
        "damage": [],
        "properties": False,
        "precision": "float32",
        "wandb": {"mode": "disabled"},
    }
    return MoreProbes.model_validate(values | changes)

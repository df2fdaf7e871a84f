"""Finished probes of one class, of several labels and of masks per image, to export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.probe import probe
from tests.finetune.dense import masked_pictures as masks
from tests.finetune.multilabel import labeled_pictures as labels
from tests.finetune.predict.runs import export, probed

QUICK: dict[str, Any] = {
    "null_check": False, "properties": False, "baselines": {"random_init": False, "pixels": False},
}  # fmt: skip


def of_classes(folder: Path) -> Path:
    return probed(folder / "probe", export(folder / "encoder"))


def of_labels(folder: Path) -> Path:
    export(folder / "encoder")
    for part, images in (("train", 60), ("test", 20)):
        labels.pictures(folder / part, images, images)
    quick = QUICK | {"probe": {"l2": [1e-2, 1e-1], "layers": ["all"], "poolings": ["avg"]}}
    probe(labels.config_of(folder, folder / "probe", **quick), show=False)
    return folder / "probe"


def of_masks(folder: Path) -> Path:
    masks.exported(folder / "encoder")
    for part, images in (("train", 30), ("test", 10)):
        masks.pictures(folder / part, images, images)
    probe(masks.config_of(folder, folder / "probe", **QUICK), show=False)
    return folder / "probe"

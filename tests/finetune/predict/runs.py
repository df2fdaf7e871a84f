"""Small finished runs to predict with: a probe of two tasks and its test images, and a fine-tuned network."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from common.data import build_source, load_images
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from finetune.config import FinetuneConfig, ProbeConfig
from finetune.full import finetune
from finetune.predict.config import PredictConfig
from finetune.probe import probe

TEST_IMAGES = 60
QUIET = {"precision": "float32", "wandb": {"mode": "disabled"}}


def export(folder: Path, seed: int = 0) -> Path:
    """A small encoder of 16 px images."""
    torch.manual_seed(seed)
    export_encoder(build_encoder(EncoderConfig(model_args={"width": 4, "depth": 1}), image_size=16), folder)
    return folder


def probed(out: Path, encoder: Path, **changes: Any) -> Path:
    """A finished probe of color and texture."""
    values: dict[str, Any] = {
        "out": out,
        "encoder": encoder,
        "data": {
            "train": "shapes", "limit": 200, "test_limit": TEST_IMAGES, "task": ["color", "texture"], "workers": 0,
        },
        "probe": {"l2": [1e-3, 1e-1], "layers": ["all"], "poolings": ["avg+avg2+max"]},
        "knn": None,
        "baselines": {"random_init": False, "pixels": False},
        "damage": [],
        "properties": False,
        "null_check": False,
    }  # fmt: skip
    probe(ProbeConfig.model_validate(values | QUIET | changes), show=False)
    return out


def tuned(out: Path, encoder: Path) -> Path:
    """A finished fine-tuning on color."""
    values: dict[str, Any] = {
        "out": out,
        "encoder": encoder,
        "steps": 4,
        "batch_size": 16,
        "base_lr": 0.01,
        "data": {"train": "shapes", "task": "color", "limit": 100, "test_limit": TEST_IMAGES, "workers": 0},
        "compare": {"linear_probe": False, "from_scratch": False},
    }
    assert finetune(FinetuneConfig.model_validate(values | QUIET)) is not None
    return out


def config_of(out: Path, run: Path, **changes: Any) -> PredictConfig:
    """Predictions of the runs' test images."""
    data = {"source": "shapes:test", "limit": TEST_IMAGES, "workers": 0} | changes.pop("data", {})
    values: dict[str, Any] = {"out": out, "run": run, "data": data, "batch_size": 16}
    return PredictConfig.model_validate(values | QUIET | changes)


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, as Python's own reader sees them."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def saved_images(folder: Path, count: int, size: int = 16) -> Path:
    """Test images of ``shapes`` as PNG files."""
    folder.mkdir(parents=True)
    for row, pixels in enumerate(load_images(build_source("shapes:test"), size, limit=count).rows(torch.arange(count))):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{row:03d}.png")
    return folder

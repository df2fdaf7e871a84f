"""Small runs of fine-tuning, and what is read from their folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from finetune.config import FinetuneConfig
from finetune.full import finetune as run_stage
from finetune.results import FinetuneResult


def exported(folder: Path, config: EncoderConfig | None = None, image_size: int = 16) -> Path:
    """Export an untrained network; returns its folder."""
    torch.manual_seed(0)
    config = config or EncoderConfig(model_args={"width": 8})
    export_encoder(build_encoder(config, image_size=image_size), folder)
    return folder


def config(out: Path, **changes: Any) -> FinetuneConfig:
    """Six steps on 180 images, validated every other step, without comparisons."""
    values: dict[str, Any] = {
        "out": out,
        "steps": 6,
        "batch_size": 16,
        "base_lr": 0.01,
        "precision": "float32",
        "data": {"train": "shapes", "task": "color", "limit": 200, "test_limit": 80, "workers": 0},
        "evaluate_every": 2,
        "compare": {"linear_probe": False, "from_scratch": False},
        "wandb": {"mode": "disabled"},
    }
    return FinetuneConfig.model_validate(values | changes)


def finetune(config: FinetuneConfig) -> FinetuneResult:
    """Fine-tune without being stopped."""
    result = run_stage(config)
    assert result is not None
    return result


def validation_looks(out: Path) -> dict[int, float]:
    """Validation accuracy by step."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["val/accuracy"] for row in rows if "val/accuracy" in row}


def without_time(result: FinetuneResult) -> FinetuneResult:
    """A result as it would be on a machine of any speed."""
    return result.model_copy(update={"tuned": result.tuned.model_copy(update={"seconds": 0.0})})


def weights(out: Path) -> bytes:
    """The file of the tensors of a run's network."""
    return (out / "classifier" / "model.safetensors").read_bytes()

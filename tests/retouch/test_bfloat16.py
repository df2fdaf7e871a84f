"""bfloat16 is really in the products of a run, where it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import retouch
from tests.recipe import last_checkpoint, pretraining


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The dtypes of what training's convolutions gave, in order."""
    seen: list[torch.dtype] = []
    real = nn.Conv2d.forward

    def watched(self: nn.Conv2d, inputs: Tensor) -> Tensor:
        output = real(self, inputs)
        if self.training:
            seen.append(output.dtype)
        return output

    monkeypatch.setattr(nn.Conv2d, "forward", watched)
    return seen


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_stages_compute_in_the_precision_asked_for(tmp_path: Path, products: list[torch.dtype], stage: str) -> None:
    weights = {}
    for precision in ("float32", "bfloat16"):
        products.clear()
        out = tmp_path / precision
        if stage == "pretrain":
            retouch.pretrain(pretraining(out, steps=2, precision=precision))
        else:
            retouch.finetune(finetuning(out, precision=precision))
        assert set(products) == {getattr(torch, precision)}
        weights[precision] = load_file(out / "encoder" / "model.safetensors")["blocks.0.0.weight"]
        # weights, averages and moments stay in float32 whatever the products are
        for path in last_checkpoint(out).glob("*.safetensors"):
            assert {tensor.dtype for tensor in load_file(path).values()} <= {torch.float32, torch.int64}, path
    apart = (weights["float32"] - weights["bfloat16"]).abs().max()
    assert 0 < float(apart) < 0.1


def finetuning(out: Path, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "out": str(out),
        "batch_size": 16,
        "steps": 2,
        "encoder": {"model_args": {"width": 8, "depth": 1}, "from_scratch": True, "image_size": 16},
        "data": {"train": "shapes", "task": "color", "limit": 80, "test_limit": 20, "workers": 0},
        "wandb": {"mode": "disabled"},
    }
    return values | changes


def test_probe_takes_features_in_the_precision_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retouch.pretrain(pretraining(tmp_path / "run", steps=2))
    seen: list[torch.dtype] = []
    real = nn.Conv2d.forward

    def watched(self: nn.Conv2d, inputs: Tensor) -> Tensor:
        output = real(self, inputs)
        seen.append(output.dtype)
        return output

    for precision in ("float32", "bfloat16"):
        seen.clear()
        with monkeypatch.context() as patch:
            patch.setattr(nn.Conv2d, "forward", watched)
            retouch.embed(
                {
                    "out": str(tmp_path / precision),
                    "encoder": str(tmp_path / "run" / "encoder"),
                    "precision": precision,
                    "data": {"source": "shapes", "limit": 8},
                    "wandb": {"mode": "disabled"},
                }
            )
        assert seen[-1] == getattr(torch, precision)

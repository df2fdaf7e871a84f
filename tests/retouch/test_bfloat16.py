"""bfloat16 where the machine is fast at it, and then really in the products of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import retouch
from common.machine.precision import Precision, resolve_precision
from tests.recipe import last_checkpoint, pretraining


@pytest.mark.parametrize(
    ("device", "capability", "amx", "avx512", "expected"),
    [
        ("cuda", (7, 5), True, True, torch.float32),
        ("cuda", (8, 0), False, False, torch.bfloat16),
        ("cuda", (9, 0), False, False, torch.bfloat16),
        ("cpu", (9, 0), False, False, torch.float32),
        ("cpu", (7, 0), True, False, torch.bfloat16),
        ("cpu", (7, 0), False, True, torch.bfloat16),
        ("mps", (9, 0), True, True, torch.float32),
    ],
)
@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_precision_on_each_kind_of_machine(
    monkeypatch: pytest.MonkeyPatch,
    precision: Precision,
    device: str,
    capability: tuple[int, int],
    amx: bool,
    avx512: bool,
    expected: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    assert resolve_precision(precision, torch.device(device)) == named.get(precision, expected)


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

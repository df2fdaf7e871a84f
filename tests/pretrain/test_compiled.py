"""``compile=true`` changes nothing but the time: the same losses and the same export as eager."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import retouch
from common.data import Batch
from common.engine.gradient import GradientLearner
from common.machine.distributed import World
from tests.recipe import logged, pretraining
from tests.toys import ToyAutoencoder, loop_config, noise_images

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which(os.environ.get("CXX", "g++")) is None and shutil.which("clang++") is None,
        reason="torch.compile needs a C++ compiler for CPUs, and none is installed",
    ),
]


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> None:
    torch.compiler.reset()


def test_compiled_run_gives_the_losses_and_the_export_of_eager(tmp_path: Path) -> None:
    """With random damage and augmentation; steps are small, so that rounding does not grow from step to step."""
    for name, compiled in (("eager", False), ("compiled", True)):
        retouch.pretrain(pretraining(tmp_path / name, steps=5, base_lr=0.01, compile=compiled))
    eager, compiled_rows = logged(tmp_path / "eager"), logged(tmp_path / "compiled")
    assert [row["loss"] for row in compiled_rows] == pytest.approx([row["loss"] for row in eager], rel=1e-3)
    one, other = (load_file(tmp_path / name / "encoder" / "model.safetensors") for name in ("eager", "compiled"))
    assert one.keys() == other.keys()  # no name tells of the compiler
    for name, tensor in one.items():
        assert torch.allclose(tensor, other[name], rtol=1e-2, atol=1e-3), name


def test_random_numbers_inside_the_compiled_part_are_those_of_eager(tmp_path: Path) -> None:
    images = noise_images()
    rows = torch.arange(8)
    batch = Batch(images.rows(rows), None, rows)

    def losses(**changes: Any) -> list[float]:
        torch.manual_seed(0)
        learner = GradientLearner(
            ToyAutoencoder(dropout=0.5), loop_config(tmp_path, **changes), World(0, 1, torch.device("cpu"))
        )
        learner.begin(3)
        return [float(learner.step(batch, step).losses["restore"]) for step in range(3)]

    assert losses(compile=True) == pytest.approx(losses(), rel=1e-4)


def test_compiled_run_that_is_resumed_is_compiled_again_and_goes_on(tmp_path: Path) -> None:
    settings = {"steps": 4, "compile": True, "checkpoint": {"every": 2, "keep": 9}}
    retouch.pretrain(pretraining(tmp_path / "whole", **settings))
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole", cut)
    shutil.rmtree(cut / "encoder")
    shutil.rmtree(cut / "checkpoints" / "step-0000004")
    torch.compiler.reset()
    retouch.pretrain(pretraining(cut, **settings, resume=True))
    assert logged(cut) == logged(tmp_path / "whole")
    weights = "encoder/model.safetensors"
    assert (cut / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()

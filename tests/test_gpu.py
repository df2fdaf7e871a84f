"""One CUDA GPU: whole runs in bfloat16, exact resumption, compiling, fused optimizer state, page-locked batches.

    pytest --gpu tests/test_gpu.py

On other machines every test here is skipped; the same behavior is tested on the CPU elsewhere.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import retouch
from common.data import Batch, Loader
from common.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from common.engine.gradient import GradientLearner
from common.machine.distributed import World, world
from common.machine.precision import resolve_precision
from pretrain.ruler.restorers import FOR_DAMAGE, MEAN_IMAGE, NOTHING, Damaged, Restorer, pca
from tests.recipe import Killed, kill_at, last_checkpoint, logged, pretraining
from tests.toys import ToyAutoencoder, loop_config, noise_images, state_at

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here, or no --gpu")

DEVICE = torch.device("cuda", 0)
VIT = {
    "encoder": {
        "name": "timm/vit_tiny_patch16_224",
        "model_args": {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2},
    },
    "decoder": {"kind": "transformer", "width": 32, "depth": 1},
    "pretext": {"kind": "mask", "ratio": 0.75},
}
METHODS: dict[str, dict[str, Any]] = {
    "denoise": {},
    "mask_vit": VIT,
    "colorize": {"pretext": {"kind": "colorize", "bins": 8}},
}


@pytest.fixture
def _exact() -> Iterator[None]:
    """Kernels that add in a fixed order: without it the GPU itself gives other last bits each time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.benchmark = before[1]


def gentle(out: Path, **changes: Any) -> dict[str, Any]:
    """Settings under which a loss falls steadily."""
    return pretraining(out, **{"base_lr": 0.02, "optim": {}, "ema": 0.9, "augment": {}} | changes)


def test_auto_precision_is_bfloat16_where_the_gpu_has_it() -> None:
    expected = torch.bfloat16 if torch.cuda.get_device_capability(DEVICE) >= (8, 0) else torch.float32
    assert resolve_precision("auto", DEVICE) == expected


def test_a_process_computes_on_its_gpu() -> None:
    with world() as here:
        assert here.device == DEVICE
        assert here.any(True)
        assert float(here.mean(torch.ones((), device=DEVICE))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_loss_falls_in_bfloat16_and_the_export_serves_on_the_cpu(tmp_path: Path, name: str) -> None:
    retouch.pretrain(gentle(tmp_path / "run", steps=60, precision="bfloat16", **METHODS[name]))
    rows = logged(tmp_path / "run")
    losses = [row["loss"] for row in rows]
    assert len(losses) == 60
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    # weights, averages and moments are float32
    for path in last_checkpoint(tmp_path / "run").glob("*.safetensors"):
        floating = {tensor.dtype for tensor in load_file(path).values() if tensor.is_floating_point()}
        assert floating == {torch.float32}, path
    encoder = retouch.load_encoder(tmp_path / "run" / "encoder")
    images = torch.rand(4, 3, 16, 16)
    with torch.inference_mode():
        on_cpu = encoder(images)
        on_gpu = encoder.to(DEVICE)(images.to(DEVICE)).cpu()
    assert torch.allclose(on_cpu, on_gpu, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
@pytest.mark.usefixtures("_exact")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", METHODS)
def test_killed_run_ends_bit_for_bit_like_one_never_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, precision: str
) -> None:
    def settings(out: Path, **changes: Any) -> dict[str, Any]:
        return gentle(out, precision=precision, checkpoint={"every": 2}, **METHODS[name], **changes)

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    retouch.pretrain(settings(whole))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 5)
        retouch.pretrain(settings(cut))
    retouch.pretrain(settings(cut, resume=True))
    assert logged(cut) == logged(whole)
    weights = "encoder/model.safetensors"
    assert (cut / weights).read_bytes() == (whole / weights).read_bytes()


@pytest.mark.slow
def test_compiled_run_gives_the_losses_of_eager(tmp_path: Path) -> None:
    for name, compiled in (("eager", False), ("compiled", True)):
        torch.compiler.reset()
        retouch.pretrain(gentle(tmp_path / name, steps=5, compile=compiled))
    eager, compiled_rows = logged(tmp_path / "eager"), logged(tmp_path / "compiled")
    assert [row["loss"] for row in compiled_rows] == pytest.approx([row["loss"] for row in eager], rel=5e-3)


@pytest.mark.slow
def test_probe_and_fine_tuning_run_on_the_gpu(tmp_path: Path) -> None:
    retouch.pretrain(gentle(tmp_path / "run", steps=10))
    shared = {
        "encoder": str(tmp_path / "run" / "encoder"),
        "data": {"train": "shapes", "task": "color", "limit": 200, "test_limit": 80, "workers": 0},
        "wandb": {"mode": "disabled"},
    }
    retouch.probe({"out": str(tmp_path / "probe"), **shared})
    compare = {"linear_probe": False, "from_scratch": False}
    retouch.finetune({"out": str(tmp_path / "tuned"), **shared, "steps": 6, "batch_size": 32, "compare": compare})
    for name in ("probe", "tuned"):
        assert json.loads((tmp_path / name / "results.json").read_text())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.usefixtures("_exact")
def test_fused_optimizer_state_survives_a_checkpoint(tmp_path: Path, layout: torch.memory_format) -> None:
    rows = torch.arange(8)
    batch = Batch(noise_images().rows(rows), None, rows)

    def learner() -> GradientLearner:
        torch.manual_seed(0)
        model = ToyAutoencoder(norm=True).to(memory_format=layout)
        made = GradientLearner(model, loop_config(tmp_path), World(0, 1, DEVICE))
        made.begin(6)
        return made

    whole, first, second = learner(), learner(), learner()
    for step in range(6):
        whole.step(batch, step)
    for step in range(3):
        first.step(batch, step)
    path = save_checkpoint(tmp_path, Checkpoint(state_at(3), first.tensors()), keep=1)
    second.restore(load_checkpoint(path).tensors)
    for step in range(3, 6):
        second.step(batch, step)
    for group, tensors in whole.tensors().items():
        for name, tensor in second.tensors()[group].items():
            assert torch.equal(tensor, tensors[name]), f"{group} {name}"
            assert tensor.stride() == tensors[name].stride()


def test_batches_are_page_locked_and_the_same(tmp_path: Path) -> None:
    torch.cuda.init()
    images = noise_images()
    loader = Loader(images, batch_size=8, seed=0, labels=torch.arange(len(images)))
    stream = loader.stream(first_step=2)
    for step, batch in zip(range(2, 9), stream, strict=False):
        assert batch.images.is_pinned()
        assert batch.labels is not None
        assert batch.labels.is_pinned()
        assert torch.equal(batch.index, loader.rows(step))
        assert torch.equal(batch.images, images.rows(loader.rows(step)))
        assert torch.equal(batch.labels, batch.index)


def test_draws_on_the_gpu_are_a_function_of_the_step(tmp_path: Path) -> None:
    rows = torch.arange(8)
    batch = Batch(noise_images().rows(rows), None, rows)
    drawn: list[Tensor] = []

    def prepare(images: Tensor) -> tuple[Tensor, Tensor]:
        drawn.append(torch.rand(4, device=images.device))
        return images.float() / 255, images.float() / 255

    learner = GradientLearner(ToyAutoencoder(prepare=prepare), loop_config(tmp_path), World(0, 1, DEVICE))
    learner.begin(4)
    for step in (0, 1, 0):
        torch.rand(7, device=DEVICE)  # whatever happened before must not matter
        learner.step(batch, step)
    first, other, again = drawn
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", FOR_DAMAGE)
def test_trivial_restorers_give_on_the_gpu_what_they_give_on_the_cpu(kind: str) -> None:
    images = noise_images(64).rows(torch.arange(64)).float() / 255
    hidden = (torch.rand(64, 1, *images.shape[2:], generator=torch.Generator().manual_seed(0)) > 0.5).float()
    for restorer in (NOTHING, MEAN_IMAGE, *FOR_DAMAGE[kind], Restorer("PCA", pca(8))):
        there = restorer.candidates(images.to(DEVICE))
        for on_cpu, on_gpu in zip(restorer.candidates(images), there, strict=True):
            expected = on_cpu(Damaged(images, hidden))
            found = on_gpu(Damaged(images.to(DEVICE), hidden.to(DEVICE)))
            assert found.device == DEVICE, restorer.name
            assert float((found.cpu() - expected).abs().mean()) < 1e-4, restorer.name

"""Real processes, real signals: a killed run continues as if nothing had happened, in the same W&B run."""

from __future__ import annotations

import json
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from common.runs.console import run_stages
from pretrain.__main__ import STAGES
from tests.offline_wandb import history, offline_records
from tests.processes import PATIENCE, finish, start
from tests.recipe import logged, near_means

DENOISING = [
    "denoise",
    "steps=40", "batch_size=16", "data.limit=64", "data.image_size=16", "data.workers=0", "checkpoint.every=6",
    "log_every=4", "panels_every=1000", "encoder.model_args={width: 8}", "precision=float32", "wandb.mode=offline",
]  # fmt: skip
SPARSE_CODING = [
    "sparse_coding",
    "steps=30", "batch_size=32", "data.limit=96", "data.image_size=8", "data.workers=0", "fit.atoms=24",
    "checkpoint.every=5", "panels_every=1000", "wandb.mode=disabled",
]  # fmt: skip


def pretrain(out: Path, recipe: list[str], *overrides: str) -> None:
    with near_means():
        raise SystemExit(run_stages("python -m pretrain", STAGES, [*recipe, f"out={out}", *overrides]))


def signal_at_checkpoint(process: BaseProcess, out: Path, number: int) -> None:
    patience = time.monotonic() + PATIENCE
    while not list(out.glob("checkpoints/step-*")):
        assert process.exitcode is None
        assert time.monotonic() < patience
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, number)


def killed_and_resumed(out: Path, recipe: list[str]) -> str:
    """The output of the second process."""
    said = out.with_name("said")
    process = start(said, pretrain, out, recipe)
    signal_at_checkpoint(process, out, signal.SIGKILL)
    finish(process, said, -signal.SIGKILL)
    assert not (out / "encoder").exists()
    return finish(start(said, pretrain, out, recipe, "resume=true"), said)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    said = out.with_name("said")
    finish(start(said, pretrain, out, DENOISING, "wandb.mode=disabled"), said)
    return out


def steps_and_losses(out: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def test_killed_run_ends_bit_for_bit_like_one_never_interrupted(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    said = killed_and_resumed(out, DENOISING)
    assert "resumed from step" in said
    weights = "encoder/model.safetensors"
    assert (out / weights).read_bytes() == (uninterrupted / weights).read_bytes()
    assert steps_and_losses(out) == steps_and_losses(uninterrupted)
    logged = {(row["_step"], row["loss"]) for row in history(out) if "loss" in row}
    ids = {run.run_id for run in offline_records(out, "run")}
    assert len(ids) == 1, said  # continued, not doubled
    commands = [line for line in said.splitlines() if "wandb sync" in line]
    assert len(commands) == 1, said
    parts = [word for word in commands[0].split() if "offline-run-" in word]
    assert len(parts) in (1, 2)  # 1 if both started in the same second
    # W&B writes asynchronously: what it had not written when killed is missing there, but not in metrics.jsonl
    resumed = int(said.partition("resumed from step ")[2].split()[0])
    after = {(step, loss) for step, loss in steps_and_losses(uninterrupted) if step > resumed}
    assert after <= logged
    assert logged <= set(steps_and_losses(uninterrupted))


def test_killed_sparse_coding_ends_bit_for_bit_like_one_never_interrupted(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    killed_and_resumed(out, SPARSE_CODING)
    finish(start(tmp_path / "said", pretrain, whole, SPARSE_CODING), tmp_path / "said")
    weights = "encoder/model.safetensors"
    assert (out / weights).read_bytes() == (whole / weights).read_bytes()
    assert logged(out) == logged(whole)


def test_sigterm_leaves_a_checkpoint_and_exits_zero(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(
        tmp_path / "said", pretrain, out, DENOISING, "steps=4000", "checkpoint.every=20", "wandb.mode=disabled"
    )
    signal_at_checkpoint(process, out, signal.SIGTERM)
    said = finish(process, tmp_path / "said")
    assert f"run the same command with out={out} resume=true" in said
    [*_, last] = sorted(out.glob("checkpoints/step-*"))
    assert int(last.name.removeprefix("step-")) < 4000
    assert not (out / "encoder").exists()

"""Real processes, real signals: a killed run continues as if nothing had happened, in the same W&B run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.offline_wandb import history, offline_records

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    "steps=40", "batch_size=16", "data.limit=64", "data.image_size=16", "data.workers=0", "checkpoint.every=6",
    "log_every=4", "panels_every=1000", "encoder.model_args={width: 8}", "precision=float32", "wandb.mode=offline",
]  # fmt: skip


def start(out: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pretrain", str(ROOT / "configs/pretrain/denoise.yaml"), f"out={out}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *SETTINGS, *overrides], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return said


def signal_at_checkpoint(process: subprocess.Popen[str], out: Path, number: int) -> None:
    patience = time.monotonic() + 240
    while not list(out.glob("checkpoints/step-*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < patience
        time.sleep(0.002)
    process.send_signal(number)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(start(out))
    return out


def steps_and_losses(out: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def test_killed_run_ends_bit_for_bit_like_one_never_interrupted(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out)
    signal_at_checkpoint(process, out, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "encoder").exists()

    said = finish(start(out, "resume=true"))
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


def test_sigterm_leaves_a_checkpoint_and_exits_zero(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out, "steps=4000", "checkpoint.every=20")
    signal_at_checkpoint(process, out, signal.SIGTERM)
    said = finish(process)
    assert f"run the same command with out={out} resume=true" in said
    [*_, last] = sorted(out.glob("checkpoints/step-*"))
    assert int(last.name.removeprefix("step-")) < 4000
    assert not (out / "encoder").exists()

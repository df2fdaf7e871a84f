"""W&B as a guest: its real offline files are read back, and its failures harm nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb

from common.runs.tracking import Tracker, WandbConfig
from tests.common.runs.wandb_account import KEY, ours
from tests.offline_wandb import history, offline_records

pytestmark = pytest.mark.usefixtures("no_account")


def test_a_start_prints_nothing_and_leaves_the_standard_output_to_other_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_SILENT", raising=False)
    started, seen = wandb.init, []

    def init(**given: Any) -> Any:
        seen.append(sys.stdout)
        return started(**given)

    monkeypatch.setattr(wandb, "init", init)
    stdout = sys.stdout
    tracker = Tracker(WandbConfig(mode="offline"), tmp_path, job_type="pretrain", settings={})
    tracker.finish()
    assert seen == [stdout]
    assert capfd.readouterr() == ("", "")


def test_offline_run_holds_config_metrics_group_and_job_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = WandbConfig(mode="offline", project="pictures", group="first")
    tracker = Tracker(config, tmp_path, job_type="pretrain", settings={"seed": 3})
    assert tracker.active
    tracker.log({"loss": 0.5, "lr": 1e-3}, 10)
    tracker.log({"loss": 0.25, "lr": 1e-4}, 20)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}")
    command = tracker.sync_command()
    monkeypatch.setenv("PATH", "/bin")
    inactive = tracker.sync_command()
    tracker.finish()

    rows = [row for row in history(tmp_path) if "loss" in row]
    assert [(row["_step"], row["loss"], row["lr"]) for row in rows] == [(10, 0.5, 1e-3), (20, 0.25, 1e-4)]
    run = offline_records(tmp_path, "run")[0]
    assert (run.project, run.run_group, run.job_type) == ("pictures", "first", "pretrain")
    settings = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert settings["seed"] == 3
    assert command is not None
    assert command.startswith("wandb sync ")
    # where the environment is not active, the command says where it is
    assert inactive is not None
    assert Path(inactive.split()[0]).absolute() == Path(sys.executable).with_name("wandb")


def test_resumed_run_keeps_its_id_and_one_command_names_both_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Tracker(WandbConfig(mode="offline"), tmp_path, job_type="pretrain", settings={})
    first.finish()
    [part] = tmp_path.glob("wandb/offline-run-*")
    part.rename(part.with_name(part.name.replace("offline-run-2", "offline-run-1", 1)))  # as if started long before
    second = Tracker(WandbConfig(mode="offline"), tmp_path, job_type="pretrain", settings={})
    assert second.run_id == first.run_id
    command = second.sync_command()
    second.finish()
    assert command is not None
    assert len(command.split()) == 4  # wandb sync PART PART


def test_run_killed_below_a_process_that_uses_wandb_is_continued(tmp_path: Path) -> None:
    """W&B's service is handed down to child processes: it must not keep a killed run for itself."""
    above = Tracker(WandbConfig(mode="offline"), tmp_path / "above", job_type="probe", settings={})
    folder = tmp_path / "below"
    folder.mkdir()
    script = (
        "import os, sys; from pathlib import Path; from common.runs.tracking import Tracker, WandbConfig\n"
        f"tracker = Tracker(WandbConfig(mode='offline'), Path({str(folder)!r}), job_type='pretrain', settings={{}})\n"
        "tracker.log({'loss': 1.0}, 1)\n"
        "os.kill(os.getpid(), 9) if sys.argv[1] == 'killed' else tracker.finish()"
    )
    root = Path(__file__).resolve().parents[3]
    for end, code in (("killed", -9), ("finished", 0)):
        assert subprocess.run([sys.executable, "-c", script, end], cwd=root, check=False).returncode == code
    above.finish()
    assert {"loss": 1.0}.items() <= history(folder)[-1].items()
    assert len({run.run_id for run in offline_records(folder, "run")}) == 1


def test_disabled_writes_nothing(tmp_path: Path) -> None:
    tracker = Tracker(WandbConfig(mode="disabled"), tmp_path, job_type="pretrain", settings={})
    tracker.log({"loss": 1.0}, 1)
    tracker.finish()
    assert not tracker.active
    assert list(tmp_path.iterdir()) == []


def test_disabled_tracker_takes_every_call_and_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    tracker = Tracker.disabled(tmp_path)
    tracker.log({"loss": 1.0}, 1)
    tracker.image("panel", tmp_path / "none.png", 1)
    tracker.table("results", ["a"], [[1]])
    tracker.summary({"best": 1})
    tracker.artifact("encoder-a", tmp_path, "encoder", {})
    tracker.use_encoder(tmp_path, "this", "encoder-a")
    tracker.finish()
    assert (tracker.active, tracker.mode, tracker.run_id, tracker.sync_command()) == (False, "disabled", None, None)
    assert list(tmp_path.iterdir()) == []
    assert not ours(caplog)

"""W&B as a guest: real offline files are read back; its failures stay its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.tracking import Tracker, WandbConfig
from tests.offline_wandb import history, offline_records


def test_offline_run_holds_config_metrics_group_and_job_type(tmp_path: Path) -> None:
    config = WandbConfig(mode="offline", project="pictures", group="first")
    tracker = Tracker(config, tmp_path, job_type="pretrain", settings={"seed": 3})
    assert tracker.active
    tracker.log({"loss": 0.5, "lr": 1e-3}, 10)
    tracker.log({"loss": 0.25, "lr": 1e-4}, 20)
    command = tracker.sync_command()
    tracker.finish()

    rows = [row for row in history(tmp_path) if "loss" in row]
    assert [(row["_step"], row["loss"], row["lr"]) for row in rows] == [(10, 0.5, 1e-3), (20, 0.25, 1e-4)]
    run = offline_records(tmp_path, "run")[0]
    assert (run.project, run.run_group, run.job_type) == ("pictures", "first", "pretrain")
    settings = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert settings["seed"] == 3
    assert command is not None
    assert command.startswith("wandb sync ")


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
        "import os, sys; from pathlib import Path; from common.tracking import Tracker, WandbConfig\n"
        f"tracker = Tracker(WandbConfig(mode='offline'), Path({str(folder)!r}), job_type='pretrain', settings={{}})\n"
        "tracker.log({'loss': 1.0}, 1)\n"
        "os.kill(os.getpid(), 9) if sys.argv[1] == 'killed' else tracker.finish()"
    )
    root = Path(__file__).resolve().parents[2]
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


@pytest.mark.parametrize(
    ("config", "environment", "expected"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "k" * 40}, "online"),
        ("auto", {"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "disabled"),
        ("disabled", {"WANDB_MODE": "online"}, "disabled"),
    ],
)
def test_mode_is_offline_without_an_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Any, environment: dict[str, str], expected: str
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("common.tracking._logged_in", lambda: False)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **_: None, Settings=lambda **_: None))
    assert Tracker(WandbConfig(mode=config), tmp_path, job_type="x", settings={}).mode == expected


class BrokenRun:
    """Every attribute is a call that fails, as on a full disk."""

    def __getattr__(self, name: str) -> Any:
        def fail(*_: Any, **__: Any) -> None:
            raise OSError("No space left on device")

        return fail


@pytest.mark.parametrize("moment", ["start", "log"])
def test_failure_is_told_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, moment: str
) -> None:
    def init(**_: Any) -> BrokenRun:
        if moment == "start":
            raise TimeoutError("no network")
        return BrokenRun()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=lambda **_: None))
    tracker = Tracker(WandbConfig(mode="online"), tmp_path, job_type="pretrain", settings={})
    for step in range(3):
        tracker.log({"loss": 1.0}, step)
    tracker.summary({"a": 1})
    tracker.finish()
    assert not tracker.active
    assert len([record for record in caplog.records if "W&B could not" in record.message]) == 1

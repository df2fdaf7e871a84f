"""A resumed run is the same W&B run: online under its id, offline as a further part that one command sends."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import wandb

import retouch
from tests.offline_wandb import history, offline_records
from tests.recipe import Killed, kill_at, pretraining

SETTINGS: dict[str, Any] = {"checkpoint": {"every": 2}}


class FakeRun:
    """A run on a server that takes everything."""

    entity, project, dir = "me", "pictures", "wandb/run-1/files"

    def __init__(self, told: list[tuple[int, float]]) -> None:
        self.told, self.config, self.summary = told, self, self
        self.ended: int | None = None

    def update(self, values: dict[str, Any], **_: Any) -> None:
        pass

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        if "loss" in values and step is not None:
            self.told.append((step, values["loss"]))

    def log_artifact(self, artifact: Any, **_: Any) -> Any:
        return artifact

    def finish(self, exit_code: int = 0) -> None:
        self.ended = exit_code


def killed_and_resumed(out: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    settings = pretraining(out, **SETTINGS, wandb={"mode": mode, "project": "pictures", "group": "first"})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 5)
        retouch.pretrain(settings)
    retouch.pretrain({**settings, "resume": True})


def test_online_a_resumed_run_goes_on_under_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []
    runs: list[FakeRun] = []
    told: list[tuple[int, float]] = []

    def init(**options: Any) -> FakeRun:
        started.append(options)
        runs.append(FakeRun(told))
        return runs[-1]

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    killed_and_resumed(tmp_path / "run", monkeypatch, "online")
    killed, resumed = started
    assert killed["id"] == resumed["id"] != ""
    for options in started:
        assert options["mode"] == "online"
        assert options["resume"] == "allow"  # a new run where there is none of this id, else the old one goes on
        assert (options["project"], options["group"], options["job_type"]) == ("pictures", "first", "pretrain")
        assert options["name"] == "run"
        assert options["config"]["base_lr"] == pretraining(tmp_path)["base_lr"]
    assert [run.ended for run in runs] == [1, 0]
    assert [step for step, _ in told] == [1, 2, 3, 4, 5, 5, 6, 7, 8]  # step 5 was computed again, and is the same
    assert len(set(told)) == 8


def test_another_run_has_another_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids: list[str] = []

    def init(**options: Any) -> FakeRun:
        ids.append(options["id"])
        return FakeRun([])

    monkeypatch.setattr(wandb, "init", init)
    for name in ("one", "two"):
        retouch.pretrain(pretraining(tmp_path / name, steps=1, wandb={"mode": "offline"}))
    assert len(set(ids)) == 2


def test_offline_a_resumed_run_is_a_second_part_that_one_command_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    settings = pretraining(out, **SETTINGS, wandb={"mode": "offline"})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 5)
        retouch.pretrain(settings)
    history(out)  # once the first part is closed
    [first] = out.glob("wandb/offline-run-*")
    moved = first.with_name(first.name.replace("offline-run-2", "offline-run-1", 1))  # as if started long before
    first.rename(moved)
    caplog.clear()
    with caplog.at_level(logging.INFO, "retouch"):
        retouch.pretrain({**settings, "resume": True})
    parts = sorted(out.glob("wandb/offline-run-*"))
    assert len(parts) == 2
    assert len({part.name.rpartition("-")[2] for part in parts}) == 1  # under one id
    assert len({run.run_id for run in offline_records(out, "run")}) == 1
    [line] = [message for message in caplog.messages if "wandb sync" in message or " sync " in message]
    assert [word for word in line.split() if "offline-run-" in word] == [str(part) for part in parts]

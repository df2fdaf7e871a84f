"""Runs on a server: what they are sent, and that a failure of W&B costs one warning and nothing else."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb

from common.runs.tracking import Tracker, WandbConfig
from tests.common.runs.wandb_account import KEY, ours

pytestmark = pytest.mark.usefixtures("no_account")


class BrokenRun:
    """Every attribute is a call that fails, as on a full disk."""

    def __getattr__(self, name: str) -> Any:
        def fail(*_: Any, **__: Any) -> None:
            raise OSError("No space left on device")

        return fail


@pytest.mark.parametrize("moment", ["start", "log"])
def test_failure_is_reported_once_and_training_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, moment: str
) -> None:
    def init(**_: Any) -> BrokenRun:
        if moment == "start":
            raise TimeoutError("no network")
        return BrokenRun()

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb, "init", init)
    tracker = Tracker(WandbConfig(mode="online"), tmp_path, job_type="pretrain", settings={})
    for step in range(3):
        tracker.log({"loss": 1.0}, step)
    tracker.summary({"a": 1})
    tracker.finish()
    assert not tracker.active
    assert len([record for record in caplog.records if "W&B could not" in record.message]) == 1


class OnlineRun:
    """A run on a server that remembers what it received; with ``full`` it refuses what is logged."""

    entity, project = "me", "pictures"

    def __init__(self, full: bool = False) -> None:
        self.full, self.told, self.used, self.ended = full, {}, [], []  # type: ignore[var-annotated]
        self.config = self.summary = self

    def update(self, values: dict[str, Any], **_: Any) -> None:
        self.told |= values

    def log(self, values: dict[str, Any], **_: Any) -> None:
        if self.full:
            raise OSError("No space left on device")
        self.told |= values

    def use_artifact(self, version: Any) -> None:
        self.used.append(version.name)

    def finish(self, exit_code: int) -> None:
        self.ended.append(exit_code)


def online(folder: Path, monkeypatch: pytest.MonkeyPatch, run: OnlineRun, artifacts: Any = None) -> Tracker:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    monkeypatch.setattr(wandb, "Table", lambda **_: "table")
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(artifacts=artifacts))
    return Tracker(WandbConfig(mode="online"), folder, job_type="probe", settings={})


def version(name: str, **metadata: str) -> Any:
    return SimpleNamespace(name=name, metadata=metadata)


def test_input_artifact_is_the_version_of_the_same_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, run = [], OnlineRun()

    def artifacts(kind: str, name: str) -> list[Any]:
        asked.append((kind, name))
        return [version("v2", sha256="other"), version("v1", sha256="this"), version("v0")]

    tracker = online(tmp_path, monkeypatch, run, artifacts)
    tracker.use_encoder(Path("runs/a/encoder"), "this", "encoder-a")
    assert asked == [("encoder", "me/pictures/encoder-a")]
    assert run.used == ["v1"]
    assert run.told == {"encoder_sha256": "this", "encoder_path": "runs/a/encoder"}


def missing(kind: str, name: str) -> list[Any]:
    raise ValueError(f"artifact {name} not found")


def silent(kind: str, name: str) -> list[Any]:
    threading.Event().wait()
    return []


@pytest.mark.parametrize(
    ("artifacts", "reason"),
    [
        (missing, "artifact me/pictures/encoder-a not found"),
        (lambda *_: [version("v0", sha256="other")], "no version of encoder-a has this sha256"),
        (silent, "no answer in 0.05 s"),
    ],
    ids=["missing", "another-encoder", "silent-server"],
)
def test_input_artifact_that_cannot_be_linked_costs_one_warning_and_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, artifacts: Any, reason: str
) -> None:
    run = OnlineRun()
    tracker = online(tmp_path, monkeypatch, run, artifacts)
    monkeypatch.setattr("common.runs.tracking.ANSWER_SECONDS", 0.05)
    tracker.use_encoder(Path("runs/a/encoder"), "this", "encoder-a")
    tracker.log({"accuracy": 0.5}, 1)
    tracker.table("results", ["a"], [[1]])
    tracker.summary({"best": 0.5})
    tracker.finish()
    assert run.used == []
    assert run.told == {
        "encoder_sha256": "this",
        "encoder_path": "runs/a/encoder",
        "accuracy": 0.5,
        "results": "table",
        "best": 0.5,
    }
    assert run.ended == [0]
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"W&B could not link the input artifact ({reason}); the encoder's sha256 and path are in the run's config"
    ]


def test_encoder_that_no_run_has_logged_is_recorded_by_hash_and_path_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = OnlineRun()
    online(tmp_path, monkeypatch, run, missing).use_encoder(Path("timm/vit"), "this", None)
    assert run.told == {"encoder_sha256": "this", "encoder_path": "timm/vit"}
    assert not ours(caplog)


def test_run_that_failed_takes_nothing_more_and_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = OnlineRun(full=True)
    tracker = online(tmp_path, monkeypatch, run)
    tracker.log({"loss": 1.0}, 1)
    tracker.summary({"best": 0.5})
    tracker.finish(1)
    tracker.finish(1)
    assert not tracker.active
    assert run.told == {}
    assert run.ended == [1]


def test_run_that_failed_and_cannot_be_closed_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.runs.tracking.FAILED_SECONDS", 0.05)
    run = OnlineRun(full=True)
    monkeypatch.setattr(run, "finish", lambda **_: threading.Event().wait())
    tracker = online(tmp_path, monkeypatch, run)
    tracker.log({"loss": 1.0}, 1)
    ended = threading.Thread(target=tracker.finish, daemon=True)
    ended.start()
    ended.join(20)
    assert not ended.is_alive()

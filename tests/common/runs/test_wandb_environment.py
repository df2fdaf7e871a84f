"""W&B's own environment variables count where the config is silent, and only there."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from common.runs.folder import StageConfig, with_group
from common.runs.tracking import Tracker, WandbConfig
from tests.offline_wandb import history, offline_records

ENVIRONMENT = {
    "WANDB_PROJECT": "birds",
    "WANDB_NAME": "first",
    "WANDB_RUN_GROUP": "monday",
    "WANDB_ENTITY": "team",
    "WANDB_TAGS": "x,y",
    "WANDB_NOTES": "a note",
    "WANDB_RUN_ID": "abc123",
}
SETTINGS: dict[str, Any] = {
    "project": "fish",
    "name": "second",
    "group": "tuesday",
    "entity": "others",
    "tags": ["z"],
    "notes": "another",
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    wandb.teardown()  # it reads the environment once per process
    for name in (*ENVIRONMENT, "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    yield
    wandb.teardown()


def tracked(folder: Path, where: Path | None = None, **settings: Any) -> Any:
    """The run that a stage with these settings logs offline."""
    config = StageConfig.model_validate({"out": folder, "wandb": {"mode": "offline", **settings}})
    tracker = Tracker(with_group(config).wandb, folder, job_type="stage", settings={})
    tracker.log({"loss": 1.0}, 1)
    tracker.finish()
    history(where or folder)  # waits until the file is complete
    return offline_records(where or folder, "run")[-1]


def facts(run: Any) -> dict[str, Any]:
    return {
        "project": run.project,
        "name": run.display_name,
        "group": run.run_group,
        "entity": run.entity,
        "tags": list(run.tags),
        "notes": run.notes,
    }


def test_environment_is_obeyed_where_the_config_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    found = tracked(tmp_path / "run")
    assert facts(found) == {
        "project": "birds",
        "name": "first",
        "group": "monday",
        "entity": "team",
        "tags": ["x", "y"],
        "notes": "a note",
    }
    assert found.run_id == "abc123"


def test_settings_come_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert facts(tracked(tmp_path / "run", **SETTINGS)) == SETTINGS


def test_without_either_the_folder_names_the_run(tmp_path: Path) -> None:
    found = facts(tracked(tmp_path / "owls"))
    assert found == {"project": "retouch", "name": "owls", "group": "owls", "entity": "", "tags": [], "notes": ""}


def test_run_id_of_a_sweep_is_for_its_first_run_and_survives_resumption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "sweep7")
    first, baseline, resumed = (tracked(tmp_path / name).run_id for name in ("run", "baseline", "run"))
    assert first == resumed == "sweep7"
    assert baseline != "sweep7"


def test_files_are_where_wandb_dir_says_and_can_be_uploaded_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    tracked(tmp_path / "run", tmp_path / "elsewhere")
    assert not list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    config = WandbConfig(mode="offline")
    again = Tracker(config, tmp_path / "run", job_type="stage", settings={})
    command = again.sync_command()
    again.finish()
    assert command is not None
    assert str(tmp_path / "elsewhere" / "wandb" / "offline-run-") in command


def test_the_command_to_upload_is_said_where_wandb_dir_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "other"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file"))
    tracker = Tracker(WandbConfig(mode="offline"), tmp_path / "run", job_type="stage", settings={})
    assert tracker.active
    parts = tracker.parts
    with caplog.at_level(logging.INFO, logger="retouch"):
        tracker.finish()
    assert f"W&B ran offline; to upload the run: {tracker.sync_command()}" in caplog.messages
    assert tmp_path / "file" not in parts.parents
    assert list(parts.glob(f"offline-run-*-{tracker.run_id}"))


def test_group_of_the_environment_comes_before_that_of_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    config = StageConfig(out=Path("runs/probe"))
    assert with_group(config, "owls").wandb.group == "owls"
    monkeypatch.setenv("WANDB_RUN_GROUP", "monday")
    assert with_group(config, "owls").wandb.group == "monday"
    assert json.loads(config.wandb.model_dump_json())["group"] is None

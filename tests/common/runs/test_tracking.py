"""W&B as a guest: its real offline files are read back, and its failures harm nothing else."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import wandb
from wandb.sdk.lib.wbauth import wbnetrc

from common.runs.tracking import Tracker, WandbConfig
from tests.offline_wandb import history, offline_records

KEY = "k" * 40
ACCOUNT = (
    "WANDB_MODE",
    "WANDB_DISABLED",
    "WANDB_API_KEY",
    "WANDB_IDENTITY_TOKEN_FILE",
    "WANDB_BASE_URL",
    "WANDB_CONFIG_DIR",
    "NETRC",
)


@pytest.fixture(autouse=True)
def _no_account(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user who has never logged in, wherever the tests run; W&B reads its own settings once per process."""
    for name in ACCOUNT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))  # no ./wandb/settings
    wandb.teardown()
    yield
    wandb.teardown()


def ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What this program logged; W&B logs to Python's own loggers too."""
    return [record.getMessage() for record in caplog.records if record.name == "retouch"]


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


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The modes W&B is started in: nothing is started here."""
    modes: list[str] = []

    def init(**options: Any) -> SimpleNamespace:
        modes.append(options["mode"])
        return SimpleNamespace(dir=str(tmp_path / "wandb" / "run" / "files"))

    monkeypatch.setattr(wandb, "init", init)
    return modes


@pytest.mark.parametrize(
    ("config", "environment", "expected"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY}, "online"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "disabled"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_DISABLED": "true"}, "disabled"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_DISABLED": "false"}, "online"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_DISABLED": "true", "WANDB_MODE": "offline"}, "offline"),
        ("online", {"WANDB_API_KEY": KEY, "WANDB_DISABLED": "true"}, "online"),
        ("disabled", {"WANDB_MODE": "online"}, "disabled"),
        ("online", {"WANDB_API_KEY": KEY}, "online"),
        ("online", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "online"),
        ("online", {"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, "online"),
        ("online", {"WANDB_IDENTITY_TOKEN_FILE": "token"}, "online"),
    ],
)
def test_mode_is_offline_without_an_account(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    starts: list[str],
    config: Any,
    environment: dict[str, str],
    expected: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Tracker(WandbConfig(mode=config), tmp_path, job_type="x", settings={}).mode == expected
    assert starts == ([] if expected == "disabled" else [expected])


OWN, OTHER = wandb.Settings().base_url, "https://wandb.example:8080"


@pytest.mark.parametrize(
    ("written", "environment", "expected"),
    [
        ({".netrc": OWN}, {}, "online"),
        ({".netrc": "https://api.wandb.ai"}, {}, "online"),  # by an older W&B
        ({".netrc": OTHER}, {}, "offline"),
        ({".netrc": OTHER}, {"WANDB_BASE_URL": OTHER}, "online"),
        ({".netrc": "https://api.wandb.ai"}, {"WANDB_BASE_URL": OTHER}, "offline"),
        ({"_netrc": OWN}, {}, "online"),
        ({"keys": OWN}, {"NETRC": "~/keys"}, "online"),
        ({".netrc": OWN}, {"NETRC": "~/keys"}, "offline"),
    ],
)
def test_a_login_is_found_where_wandb_wrote_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    starts: list[str],
    written: dict[str, str],
    environment: dict[str, str],
    expected: str,
) -> None:
    for name, host in written.items():
        with monkeypatch.context() as login:
            login.setenv("NETRC", f"~/{name}")
            wbnetrc.write_netrc_auth(host=host, api_key=KEY)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Tracker(WandbConfig(), tmp_path, job_type="x", settings={}).mode == expected
    assert starts == [expected]


def test_a_login_at_a_server_of_ones_own_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: list[str]
) -> None:
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    (tmp_path / "settings").write_text(f"[default]\nbase_url = {OTHER}\n")  # as `wandb login --host` leaves it
    wbnetrc.write_netrc_auth(host=OTHER, api_key=KEY)
    assert Tracker(WandbConfig(), tmp_path, job_type="x", settings={}).mode == "online"


def test_a_key_in_the_settings_file_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: list[str]
) -> None:
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    (tmp_path / "settings").write_text(f"[default]\napi_key = {KEY}\n")
    assert Tracker(WandbConfig(), tmp_path, job_type="x", settings={}).mode == "online"


@pytest.mark.parametrize("key", [None, KEY], ids=["no account", "account"])
def test_looking_for_a_login_asks_prints_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    starts: list[str],
    capfd: pytest.CaptureFixture[str],
    key: str | None,
) -> None:
    def no_network(*_: Any) -> None:
        raise AssertionError("no network connection is needed to find a key")

    monkeypatch.delenv("WANDB_SILENT", raising=False)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr("builtins.input", no_network)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    environment, streams = dict(os.environ), (sys.stdout, sys.stderr)
    tracker = Tracker(WandbConfig(), tmp_path, job_type="x", settings={})
    assert tracker.mode == ("online" if key else "offline")
    assert dict(os.environ) == environment
    assert (sys.stdout, sys.stderr) == streams
    assert capfd.readouterr() == ("", "")
    assert list(Path.home().iterdir()) == []
    assert list(Path.cwd().iterdir()) == []


def test_a_server_that_is_silent_at_the_login_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("common.runs.tracking.ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(wandb, "login", lambda **_: threading.Event().wait())
    streams = (sys.stdout, sys.stderr)
    assert Tracker(WandbConfig(), tmp_path, job_type="x", settings={}).mode == "offline"
    assert (sys.stdout, sys.stderr) == streams
    assert ours(caplog) == ["W&B runs offline (its login cannot be read: no answer in 0.05 s)"]


def test_an_open_run_of_the_callers_own_shows_the_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: list[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    for offline in (False, True):
        monkeypatch.setattr(wandb, "run", SimpleNamespace(offline=offline))
        mode = Tracker(WandbConfig(), tmp_path, job_type="x", settings={}).mode
        assert mode == ("offline" if offline else "online")


def test_online_without_an_account_is_offline_with_a_warning(
    tmp_path: Path, starts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert Tracker(WandbConfig(mode="online"), tmp_path, job_type="x", settings={}).mode == "offline"
    assert starts == ["offline"]
    assert ours(caplog) == ["W&B runs offline (no API key was found: set WANDB_API_KEY or run `wandb login`)"]


@pytest.mark.parametrize("mode", ["auto", "online"])
@pytest.mark.parametrize(
    "content",
    [
        "machine example login Zoë password x".encode("latin-1"),
        b"nonsense",
        f"machine {urlsplit(OWN).netloc} password 'x'".encode(),
    ],
    ids=["not UTF-8", "not a netrc file", "a key that cannot be one"],
)
def test_a_login_that_cannot_be_read_is_reported_and_harms_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    starts: list[str],
    caplog: pytest.LogCaptureFixture,
    mode: Any,
    content: bytes,
) -> None:
    monkeypatch.delenv("WANDB_SILENT", raising=False)
    (Path.home() / ".netrc").write_bytes(content)
    assert Tracker(WandbConfig(mode=mode), tmp_path, job_type="x", settings={}).mode == "offline"
    assert starts == ["offline"]
    assert [message.partition(": ")[0] for message in ours(caplog)] == ["W&B runs offline (its login cannot be read"]


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

"""Runs are online for those who are logged in, wherever W&B wrote that, and offline for all others."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import wandb
from wandb.sdk.lib.wbauth import wbnetrc

from common.runs.tracking import Tracker, WandbConfig
from tests.common.runs.wandb_account import KEY, ours

pytestmark = pytest.mark.usefixtures("no_account")


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

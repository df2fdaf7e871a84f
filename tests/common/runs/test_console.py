"""Commands end in order, and printed ones work as they are typed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from pathlib import Path

import pytest

from common.engine.stopping import StopRequest
from common.runs.console import RESUMED, answer, program


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment below the working folder, its Python running, and none of its programs on the PATH."""
    folder = tmp_path / "home" / ".venv" / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "retouch"):
        (folder / name).write_text("#!/bin/sh\necho started\n")
        (folder / name).chmod(0o755)
    monkeypatch.setattr("sys.executable", str(folder / "python"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path / "home")
    return folder


def test_program_on_the_path_is_written_bare(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"/bin:{installed}")
    assert program("retouch") == "retouch"


def test_program_of_an_environment_that_is_not_active_is_written_from_here(installed: Path) -> None:
    assert program("retouch") == ".venv/bin/retouch"


@pytest.mark.parametrize("place", ["other place", "home/.venv/bin"])
def test_from_elsewhere_the_whole_path_can_be_typed(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / place).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / place)
    assert program("retouch") == f"{installed}/retouch"
    assert subprocess.run(program("retouch"), shell=True, capture_output=True, text=True).stdout == "started\n"


def test_path_with_a_space_is_quoted(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = installed.parent.rename(installed.parent.with_name("my env"))
    monkeypatch.setattr("sys.executable", str(moved / "bin" / "python"))
    assert subprocess.run(program("retouch"), shell=True, capture_output=True, text=True).stdout == "started\n"


def test_program_that_is_nowhere_keeps_its_name(installed: Path) -> None:
    assert program("wandb") == "wandb"


@pytest.mark.parametrize(
    ("number", "lossless", "code"),
    [(signal.SIGTERM, True, 0), (signal.SIGTERM, False, 143), (signal.SIGINT, True, 0), (signal.SIGINT, False, 130)],
)
def test_a_signal_outside_the_loop_closes_what_is_open_and_says_what_to_do(
    number: signal.Signals, lossless: bool, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "retouch")
    done: list[str] = []

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
            done.append("worked on")
        except Exception:
            done.append("taken for an error")
        finally:
            if number == signal.SIGTERM:
                os.kill(os.getpid(), number)  # twice, as `timeout` does
            done.append("closed")

    before = signal.getsignal(signal.SIGTERM)
    assert answer("retouch stage", work, lossless=lossless) == code
    assert done == ["closed"]
    name = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
    assert caplog.messages == [f"stopped by {name}; to continue, {RESUMED}"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_that_the_shell_lets_a_process_ignore_does_not_stop_the_loop() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest(enabled=True) as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop.asked
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_sigterm_in_the_loop_is_left_to_the_loop() -> None:
    asked: list[bool] = []

    def work() -> None:
        with StopRequest(enabled=True) as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            asked.append(stop.asked)

    assert answer("retouch stage", work) == 0
    assert asked == [True]


def test_a_deleted_working_folder_is_one_plain_message(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert program("retouch") == f"{installed}/retouch"
    assert answer("retouch stage", lambda: None) == 2
    assert capsys.readouterr().err == (
        "retouch stage: the working folder was deleted; change to one that exists, as with cd ~\n"
    )
    monkeypatch.chdir(tmp_path)

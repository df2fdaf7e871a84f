"""Printed commands work as they are typed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from common.console import program


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

"""``make setup`` says what is missing, and leaves nothing behind that a second try would take for an environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What ``make setup`` reads, in a folder of its own."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(checkout: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """``make setup`` with a Python that is a shell script."""
    python = checkout / "some-python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    command = ["make", "setup", f"PYTHON={python}", *words]
    # a make that runs the tests must not speak here
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, env=outside)


def test_a_python_that_is_too_old_is_refused_before_anything_is_made(checkout: Path) -> None:
    done = make(checkout, "exit 1", "UV=")
    assert done.returncode != 0
    assert done.stdout == "Python 3.11 or later is needed: make demo PYTHON=python3.12\n"
    assert not (checkout / ".venv").exists()


def test_a_python_that_cannot_finish_an_environment_leaves_none(checkout: Path) -> None:
    half = 'if [ "$1" = -m ]; then mkdir -p .venv/bin; touch .venv/bin/python; chmod +x .venv/bin/python; exit 1; fi'
    done = make(checkout, half, "UV=")
    assert done.returncode != 0
    assert "Setting up .venv with pip" in done.stdout
    assert not (checkout / ".venv").exists()


def test_an_installation_that_fails_is_not_taken_for_a_finished_one(checkout: Path) -> None:
    """Though its output goes through a filter."""
    env = "mkdir -p .venv/bin; printf '#!/bin/sh\\nexit 1\\n' > .venv/bin/python; chmod +x .venv/bin/python"
    done = make(checkout, f'if [ "$1" = -m ]; then {env}; fi', "UV=")
    assert done.returncode != 0
    assert not (checkout / ".venv" / ".installed").exists()


@pytest.mark.parametrize(("script", "asked"), [("exit 0", "some-python"), ("exit 1", ">=3.11")])
def test_uv_finds_another_python_where_the_first_is_too_old(checkout: Path, script: str, asked: str) -> None:
    uv = checkout / "uv"
    uv.write_text('#!/bin/sh\necho "$@" >> said\n')
    uv.chmod(0o755)
    make(checkout, script, f"UV={uv}")
    first, *_ = (checkout / "said").read_text().splitlines()
    assert first.startswith("venv --quiet --python ")
    assert first.endswith(f"{asked} .venv")

"""Ctrl-C from the first import of a command on: one line, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from retouch.interrupts import command_of

ROOT = Path(__file__).resolve().parents[2]
# Python runs this before anything else: Ctrl-C comes as a certain module is imported
STOPPING = """\
import os, signal, sys

class Stop:
    def find_spec(name, path=None, target=None):
        if name == os.environ["STOP_AT"]:
            signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # the shell of a test may ignore it
sys.meta_path.insert(0, Stop)
"""
SCRIPT = "import sys\nfrom retouch.cli import main\nsys.exit(main())\n"  # as pip writes it
SCRIPTS = {"retouch": SCRIPT, "mine.py": "import retouch\n"}


def stopped(folder: Path, at: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a command that Ctrl-C stops as it imports a module; it may begin with a script."""
    (folder / "sitecustomize.py").write_text(STOPPING)
    for name, text in SCRIPTS.items():
        (folder / name).write_text(text)
    words = [str(folder / command[0]) if command[0] in SCRIPTS else command[0], *command[1:]]
    environment = {**os.environ, "STOP_AT": at, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("at", "command", "name"),
    [
        ("pathlib", ["retouch", "recipes"], "retouch"),
        ("retouch.packages", ["retouch", "recipes"], "retouch"),
        ("pydantic", ["retouch", "recipes"], "retouch"),
        ("retouch.cli", ["retouch", "recipes"], "retouch"),
        ("finetune.__main__", ["retouch", "recipes"], "retouch"),
        ("common.config", ["-m", "retouch", "recipes"], "python -m retouch"),
        ("common.runs.console", ["-m", "pretrain", "denoise"], "python -m pretrain"),
        ("common.runs.console", ["-m", "finetune", "probe"], "python -m finetune"),
    ],
)
def test_a_command_that_is_stopped_while_it_is_imported_ends_with_one_line(
    at: str, command: list[str], name: str, tmp_path: Path
) -> None:
    done = stopped(tmp_path, at, *command)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{name}: stopped by Ctrl-C\n")


@pytest.mark.parametrize("at", ["finetune.config", "torch", "torch._C", "numpy"])
def test_a_stage_that_is_stopped_while_it_imports_torch_says_how_to_continue(at: str, tmp_path: Path) -> None:
    done = stopped(tmp_path, at, "-m", "retouch", "probe", "encoder=runs/mine", "out=mine")
    assert done.returncode == 130
    said = f"{done.stdout}{done.stderr}".splitlines()
    assert len(said) == 1
    assert "stopped by Ctrl-C; to continue, " in said[0]


def test_a_program_that_imports_retouch_keeps_its_traceback(tmp_path: Path) -> None:
    done = stopped(tmp_path, "pydantic", "mine.py")
    assert done.returncode != 130
    assert done.stderr.endswith("KeyboardInterrupt\n")


def test_an_error_of_a_command_keeps_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise RuntimeError('not a mistake of the user')\n")
    done = stopped(tmp_path, "", "retouch", "recipes")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("RuntimeError: not a mistake of the user\n")


@pytest.mark.parametrize(
    ("started", "name"),
    [
        ("python /usr/bin/retouch probe", "retouch"),
        ("python -u -X importtime retouch.exe", "retouch"),
        ("python -Wignore -W error bin/retouch-script.py", "retouch"),
        ("python -u -m pretrain denoise", "python -m pretrain"),
        ("python -m retouch", "python -m retouch"),
        ("python -m pytest retouch", ""),
        ("python -c retouch", ""),
        ("python mine.py retouch -m pretrain", ""),
        ("python", ""),
    ],
)
def test_commands_are_told_from_programs(started: str, name: str) -> None:
    assert command_of(started.split()) == name

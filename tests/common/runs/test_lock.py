"""One process at a time in a run folder, and none forever: a lock that a kill frees."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import PIPE

import pytest
import torch

from common.errors import UserError
from common.machine.distributed import World
from common.runs.folder import StageConfig, check_run_folder, open_run
from common.runs.lock import LOCK, check_unused, locked

HERE = World(0, 1, torch.device("cpu"))


def config(out: Path, **changes: object) -> StageConfig:
    return StageConfig.model_validate({"out": out, "wandb": {"mode": "disabled"}, **changes})


@contextmanager
def another_process(folder: Path, work: str = "time.sleep(60)") -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of ``folder`` and then works."""
    script = f"""
        import os, sys, time
        from pathlib import Path
        from common.runs.lock import locked

        with locked(Path(sys.argv[1])):
            print("locked", flush=True)
            {work}
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("changes", [{}, {"resume": True}, {"overwrite": True}], ids=["new", "resume", "overwrite"])
def test_second_process_is_told_who_uses_the_folder_and_changes_nothing(
    tmp_path: Path, changes: dict[str, bool]
) -> None:
    with open_run(config(tmp_path), HERE):
        pass
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with another_process(tmp_path) as process:
        for call in (lambda: check_run_folder(config(tmp_path, **changes)), lambda: enter(config(tmp_path, **changes))):
            with pytest.raises(UserError) as caught:
                call()
            assert f"out: {tmp_path} is in use by process {process.pid} on {socket.gethostname()}, since 2" in str(
                caught.value
            )
        after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != LOCK}
    assert after == before


def enter(settings: StageConfig) -> None:
    with open_run(settings, HERE):
        raise AssertionError("it must not open")


def test_folder_of_a_killed_process_can_be_resumed_at_once(tmp_path: Path) -> None:
    with open_run(config(tmp_path), HERE):
        pass
    with another_process(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / LOCK).is_file()  # it had no time to remove it
    with open_run(config(tmp_path, resume=True), HERE):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK).exists()


def test_children_of_a_killed_process_do_not_keep_its_folder(tmp_path: Path) -> None:
    work = "print(os.fork() or time.sleep(60), flush=True); time.sleep(60)"
    with another_process(tmp_path, work) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        try:
            os.kill(child, 0)  # it lives
            with locked(tmp_path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_folder_is_free_for_the_next_run_of_the_same_process(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path), pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
            check_unused(tmp_path)
        check_unused(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_of_many_at_once_gets_the_folder(tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from common.errors import UserError
        from common.runs.lock import locked

        print("ready", flush=True)
        sys.stdin.readline()
        try:
            with locked(Path(sys.argv[1])):
                sys.stdin.readline()
        except UserError:
            sys.exit(2)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    with ExitStack() as ended:
        processes = [ended.enter_context(subprocess.Popen(command, stdin=PIPE, stdout=PIPE)) for _ in range(4)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        for process in processes:  # all imports are done: they ask for it at once
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
        patience = time.monotonic() + 20
        while sum(process.poll() == 2 for process in processes) < 3:
            assert time.monotonic() < patience
            time.sleep(0.01)
        [winner] = [process for process in processes if process.poll() is None]
        winner.communicate(b"\n")
        assert winner.returncode == 0


def test_file_system_without_locks_is_used_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with open_run(config(tmp_path), HERE):
        assert not (tmp_path / LOCK).exists()

"""A refusal of the system (permissions, disk space) gives one plain message, and a run can be continued afterwards."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import refused_by_system
from common.runs.console import answer
from retouch.cli import main
from tests.common.data.samples import write_folder

TINY = ["data.image_size=16", "data.workers=0", "encoder.model_args.width=8", "batch_size=4", "wandb.mode=disabled"]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As a full disk, without one: writing more bytes than this into a file fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_run_without_room_says_so_and_goes_on_when_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path / "data")
    command = ["pretrain", "denoise", f"data={tmp_path}/data", f"out={tmp_path}/run", "steps=2", *TINY]
    with files_of_at_most(50_000):
        assert main(command) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "retouch pretrain: a file cannot be written: File too large; raise the limit (ulimit -f); then start the same "
        "command again, with out=FOLDER resume=true if its run folder exists"
    )
    assert main([*command, "resume=true"]) == 0
    assert (tmp_path / "run" / "encoder" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, "Permission denied: a/b; change the permissions of it or of a folder above it, or choose"),
        (errno.EROFS, "Read-only file system: a/b; change the permissions"),
        (errno.EISDIR, "Is a directory: a/b; move it away, or choose another folder; then run it again"),
        (errno.ENAMETOOLONG, "File name too long: a/b; choose a shorter name, or a folder with a shorter path"),
        (errno.ENOSPC, "a file cannot be written: No space left on device; make room on the disk; then run it again"),
    ],
)
def test_an_error_of_the_system_is_one_message(number: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise OSError(number, os.strerror(number), "a/b")

    assert answer("retouch x", work, again="run it again") == 2
    assert capsys.readouterr().err.startswith(f"retouch x: {message}")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7.28 TiB for an array"),
        RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000 bytes."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_too_little_memory_is_one_message(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise error

    assert answer("retouch x", work, again="run it again") == 2
    said = capsys.readouterr().err
    assert said.startswith("retouch x: memory ran out (")
    assert said.endswith(
        "); lower batch_size, data.image_size or data.workers, or stop other programs; then run it again\n"
    )


def test_memory_that_cannot_be_had_is_recognized() -> None:
    for ask in (lambda: torch.empty(1 << 50), lambda: np.empty(1 << 50)):
        with pytest.raises((RuntimeError, MemoryError)) as raised:
            ask()
        assert "memory ran out" in refused_by_system(raised.value)


def test_other_errors_keep_their_traceback() -> None:
    def work() -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    with pytest.raises(OSError, match="Bad file descriptor"):
        answer("retouch x", work)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
@pytest.mark.parametrize("setting", ["data={}/data", "data=folder:{}/data", "out={}/run", "data=zip:{}/a.zip"])
def test_a_path_below_a_closed_folder_is_named(
    setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = tmp_path / "closed"
    write_folder(closed / "data")
    closed.chmod(0)
    try:
        assert main(["pretrain", "denoise", f"out={tmp_path}/run", "steps=2", *TINY, setting.format(closed)]) == 2
    finally:
        closed.chmod(0o700)
    assert f"{closed}" in capsys.readouterr().err

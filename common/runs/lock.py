"""One process per run folder: a lock that the operating system frees when its process ends, however it ends."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import UserError
from common.machine.started import is_first

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"  # in the run folder, while it is in use; says who uses it
PATIENCE = 1.0  # seconds for others that only look

_held: set[int] = set()


def _let_go() -> None:
    """A forked child, such as a decoding worker, must not keep the lock of a parent that was killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def check_unused(folder: Path) -> None:
    """Refuse a folder that another run uses; changes nothing on disk.

    Of the processes of one run, rank 0 alone looks: the others could meet its own lock.

    Raises:
        UserError: names the process, its machine and since when.
    """
    if is_first() and is_used(folder):
        raise _in_use(folder)


def is_used(folder: Path) -> bool:
    """Whether a run uses the folder now; False where that cannot be determined."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        # shared: several processes of one run may look at once
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside, no other process can open ``folder``, which exists.

    Raises:
        UserError: another process uses it.
    """
    descriptor = None if fcntl is None else _acquire(folder)
    if descriptor is None:
        yield
        return
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # not in a forked child
            _held.remove(descriptor)
            with suppress(OSError):
                (folder / LOCK).unlink()
            os.close(descriptor)


def _acquire(folder: Path) -> int | None:
    """The locked file; None where the file system has no locks."""
    path, deadline = folder / LOCK, time.monotonic() + PATIENCE
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() > deadline:
                raise _in_use(folder) from None
            time.sleep(0.05)
            continue
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            return None
        if _is(path, descriptor):
            who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(who).encode(), 0)
            return descriptor
        os.close(descriptor)  # its last user removed the file in between


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _in_use(folder: Path) -> UserError:
    try:
        who = json.loads((folder / LOCK).read_text(encoding="utf-8"))
        user = f"process {who['pid']} on {who['host']}, since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        user = "another process"
    return UserError(f"out: {folder} is in use by {user}; wait until it has ended, stop it, or choose another out")

"""What every command line of the project does around its work: messages, and answers to mistakes."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError
from common.runs.logs import setup_console

log = logging.getLogger("retouch")

RESUMED = "start the same command again, with resume=true if its run folder exists"


class _Terminated(BaseException):
    """SIGTERM. Like Ctrl-C it passes through whatever catches errors, and closes what is open on its way."""


def answer(name: str, work: Callable[[], object], *, lossless: bool = False, again: str = RESUMED) -> int:
    """Do the work; the exit code is 0, 2 with one plain message for a user's mistake, or 130 for Ctrl-C.

    SIGTERM is the train loop's affair while it runs. Before and after it ends the work in order, with a line about what
    to do; the exit code is 143 then, or 0.

    Args:
        lossless: a stopped run goes on from its checkpoints, so that SIGTERM is no failure.
        again: what to do after SIGTERM.
    """
    setup_console(is_main=os.environ.get("RANK", "0") == "0")
    try:
        with _orderly_end():
            work()
    except _Terminated:
        log.info("stopped by SIGTERM; to go on, %s", again)
        return 0 if lossless else 128 + signal.SIGTERM
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Inside, the first SIGTERM raises; later ones do not disturb what it closes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def end(number: int, frame: object) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise _Terminated

    old = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def program(name: str) -> str:
    """``name`` as it can be typed here: bare where a shell finds it, else by its path beside this Python.

    A path below the working folder is given from there, such as ``.venv/bin/retouch``.
    """
    beside = shutil.which(name, path=str(Path(sys.executable).parent))
    if shutil.which(name) or beside is None:
        return name
    path, here = Path(beside), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if here in path.parent.parents else path))

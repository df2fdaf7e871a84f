"""One logger for the whole program: plain lines on the console, and lines with times in a run's ``train.log``.

The console shows what matters to people (``log.info`` and above); ``train.log`` also has the details (``log.debug``).
"""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from common.machine.versions import version_of

log = logging.getLogger("retouch")

VERSIONED = ("retouch", "torch", "torchvision", "timm", "numpy")  # what the digits of a result depend on


class _Console(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the current ``sys.stderr``, so that redirected and captured streams work."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        return f"{record.levelname.lower()}: {message}" if record.levelno >= logging.WARNING else message


@lru_cache
def say_once(level: int, text: str) -> None:
    """Log a message, unless this program has logged it before."""
    log.log(level, "%s", text)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the digits of a result depend on."""
    found = {"Python": platform.python_version()}
    for name in VERSIONED:
        if number := version_of(name):
            found[name] = number
    return found


def log_versions() -> None:
    """Log what repeating the run needs: ``versions: Python 3.12.3, torch 2.11.0, ...``, in ``train.log`` only."""
    log.debug("versions: %s", ", ".join(f"{name} {number}" for name, number in versions().items()))


def setup_console(is_main: bool = True) -> None:
    """Send messages to stderr; from ranks other than 0, errors only."""
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _Console) for handler in log.handlers):
        console = _Console()
        console.setFormatter(_Plain())
        log.addHandler(console)
    for handler in log.handlers:
        if isinstance(handler, _Console):
            handler.setLevel(logging.INFO if is_main else logging.ERROR)


class _Details(logging.Filter):
    """Hands every message to the files of runs, and other handlers only those that the logger let through before.

    A logger makes no messages below its level, so the level is lowered while a file is open. A notebook that has set it
    to WARNING still sees warnings alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._files: list[logging.Handler] = []
        self._level = self._shown = logging.NOTSET  # the logger's own level before, and what it let through

    def add(self, file: logging.Handler) -> None:
        if not self._files:
            self._level, self._shown = log.level, log.getEffectiveLevel()
            log.setLevel(logging.DEBUG)
            log.addFilter(self)
        self._files.append(file)

    def remove(self, file: logging.Handler) -> None:
        if file not in self._files:
            return
        self._files.remove(file)
        if not self._files:
            log.removeFilter(self)
            if log.level == logging.DEBUG:  # nobody has set another one meanwhile
                log.setLevel(self._level)

    def filter(self, record: logging.LogRecord) -> bool:
        for file in () if hasattr(record, "of_no_run") else tuple(self._files):  # of a call that waits for its turn
            file.handle(record)
        return record.levelno >= self._shown


_details = _Details()


class EarlyLog(logging.Handler):
    """The messages of a stage before it opens its run folder: nothing is written while settings are checked."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def close(self) -> None:
        _details.remove(self)
        super().close()


class LogFile(logging.FileHandler):
    """The ``train.log`` of a run, until it is closed."""

    def close(self) -> None:
        _details.remove(self)
        super().close()


@contextmanager
def early_log() -> Iterator[EarlyLog]:
    """Inside, messages are kept until ``add_log_file`` takes them over."""
    early = EarlyLog()
    _details.add(early)
    try:
        yield early
    finally:
        early.close()


def add_log_file(path: Path, early: EarlyLog | None = None) -> LogFile:
    """Append every message with its time to ``path``, the ``early`` ones first; the caller closes the file.

    The logger's level is unchanged for other handlers.
    """
    file = LogFile(path, encoding="utf-8", errors="backslashreplace")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S"))
    if early is not None:
        for record in early.records:
            file.handle(record)
    _details.add(file)
    if early is not None:
        early.close()
    return file

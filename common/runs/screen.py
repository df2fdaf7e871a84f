"""Standard output: neither a reader that stops early, such as ``head``, nor a narrow encoding stops a run."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100  # of tables in files and pipes


class Patient:
    """A text stream that can always be written to; all else is as it is there.

    What its encoding lacks is written as escapes, as are file names that are not UTF-8. Once its reader is gone,
    nothing more is written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text; returns its length."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except BrokenPipeError:
            self._lose()
        return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._lose()

    def _lose(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())  # or Python would fail again when it ends


def write_to(stream: TextIO | None, text: str) -> None:
    """Write a text at once; nothing where the stream is closed (None)."""
    if stream is not None:
        patient = Patient(stream)
        patient.write(text)
        patient.flush()


def say(text: str) -> None:
    """Print to standard output."""
    write_to(sys.stdout, f"{text}\n")


def print_line(console: Console, text: str) -> None:
    """A line as it is: brackets in names and paths are no markup."""
    console.print(text, highlight=False, markup=False)


def screen(width: int | None = None, *, pipe_width: int = WIDTH) -> Console:
    """Standard output for tables. Names such as ``shapes:train:500`` hold no emoji.

    Args:
        width: in columns; by default that of the terminal, or where there is none ``pipe_width``.
    """
    from rich.console import Console  # help and messages do without it

    file: Any = None if sys.stdout is None else Patient(sys.stdout)
    narrow = None if Console().is_terminal else pipe_width
    return Console(file=file, width=width or narrow, emoji=False)

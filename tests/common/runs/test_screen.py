"""What is printed cannot stop a run: its reader may be gone, its encoding narrow, or the stream closed."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.engine.progress import StepProgress
from common.runs.screen import Patient, print_line, say, screen, write_to
from retouch.cli import main

ROOT = Path(__file__).resolve().parents[3]


class Gone(io.StringIO):
    """A stream whose reader has stopped."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def fileno(self) -> int:
        return self.number


def test_what_an_encoding_lacks_is_written_as_escapes() -> None:
    stream = io.TextIOWrapper(written := io.BytesIO(), encoding="ascii")
    write_to(stream, "81.2 ± 0.3, caf\udce9")
    assert written.getvalue() == b"81.2 \\xb1 0.3, caf\\udce9"


def test_what_an_encoding_has_stays() -> None:
    stream = io.TextIOWrapper(written := io.BytesIO(), encoding="utf-8")
    write_to(stream, "81.2 ± 0.3, caf\udce9")
    assert written.getvalue().decode() == "81.2 ± 0.3, caf\\udce9"


def test_a_reader_that_is_gone_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "pipe").open("w") as pipe:
        monkeypatch.setattr(sys, "stdout", Gone(pipe.fileno()))
        say("one")
        console = screen()
        console.print("two")
        assert os.path.samestat(os.fstat(pipe.fileno()), os.stat(os.devnull))  # noqa: PTH116


def test_a_closed_stream_takes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    say("one")
    screen().print("two")
    with StepProgress("three", 3, 0, seconds=0.0) as bar:
        bar.update(1, 0.5, 10.0)


@pytest.mark.parametrize("text", ["all results: runs/[/b]/[red]", "shapes:train:500", "a\\[b"])
def test_a_line_is_printed_as_it_is(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", written := io.StringIO())
    print_line(screen(), text)
    assert written.getvalue() == f"{text}\n"


def test_a_table_is_as_wide_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert (screen().width, screen(pipe_width=120).width, screen(40).width) == (100, 120, 40)


def test_a_stream_is_otherwise_itself() -> None:
    stream: Any = io.StringIO()
    assert not Patient(stream).isatty()
    assert Patient(stream).write("four") == 4
    assert stream.getvalue() == "four"


def test_help_for_a_full_disk_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = io.StringIO()
    monkeypatch.setattr(full, "write", lambda text: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    monkeypatch.setattr(sys, "stdout", full)
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", "--help"])
    assert ended.value.code == 2
    assert "retouch pretrain: a file cannot be written: No space left on device; make room" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["recipes"], ["pretrain", "--help"], ["--version"], ["nothing"]])
def test_a_command_whose_reader_stops_ends_as_always(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "retouch", *arguments], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(writing)
    assert done.returncode == (2 if arguments == ["nothing"] else 0)
    assert "Error" not in done.stderr

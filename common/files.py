"""Writing files that matter: under a temporary name, then renamed, so that a reader never sees half of one."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import UserError

LONGEST_NAME = 255  # bytes of a name, on nearly all file systems
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # not a drive, which has one letter
ELSEWHERE = "this is an address, but files are written to this machine only: give a path here, and copy them afterwards"


def in_full(path: str | Path) -> Path:
    """A path with the home folder in place of ``~``.

    A name that only begins so, such as ``~backup``, is itself: a user may be called ``backup`` without anybody's
    knowing. So is ``~`` where there is no home folder, for which ``Path.expanduser`` raises an error.
    """
    path = Path(path)
    return Path(os.path.expanduser(path)) if path.parts[:1] == ("~",) else path  # noqa: PTH111


def is_utf8(path: Path) -> bool:
    """Whether a path is UTF-8, which safetensors requires."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def is_too_long(path: Path) -> bool:
    """Whether a path, or a name in it, is too long for the file system."""
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def is_address(path: Path) -> bool:
    """Whether it is meant for a server, as ``s3://bucket/run``: it would become a folder ``s3:`` of this machine."""
    scheme = path.parts[0] if path.parts else ""
    return ADDRESS.fullmatch(scheme) is not None and not Path(scheme).exists()


def check_place(folder: Path, key: str) -> None:
    """Check that a folder can be written to, or made, before anything is; ``key`` is the setting that names it.

    Raises:
        UserError: says why not.
    """
    if "\0" in str(folder):
        raise UserError(f"{key}: no path has a zero byte in it: {str(folder)!r}; remove it")
    if not is_utf8(folder):
        raise UserError(
            f"{key}: {str(folder)!a} is not UTF-8, which names of files of weights must be; choose another {key}"
        )
    if folder.parts[:1] == ("~",):
        raise UserError(
            f"{key}: there is no home folder here (HOME is not set), so {folder} is nowhere; write it in full"
        )
    if is_too_long(folder):
        raise UserError(f"{key}: {str(folder)[:60]}...: longer than this file system takes; choose a shorter {key}")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{key}: {folder} is a file; choose a folder")
    if not folder.exists():
        above = next(parent for parent in folder.absolute().parents if parent.exists())
        if not above.is_dir():
            raise UserError(f"{key}: {folder} cannot be created: {above} is a file; choose another {key}")
        if not os.access(above, os.W_OK | os.X_OK):
            raise UserError(
                f"{key}: {folder} cannot be created: no permission to write to {above}; choose another {key}"
            )
    elif not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise UserError(f"{key}: no permission to write to {folder}; choose another {key}")


def stream_at(path: str | Path) -> str:
    """``a pipe``, ``a device`` or ``a socket`` if ``path`` is one, which might take forever to read.

    Empty for files and folders, and if nothing is there.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 -- asked of every image
    except (OSError, ValueError):
        return ""
    kinds = {"a pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK, "a device": stat.S_ISCHR, "a disk": stat.S_ISBLK}
    return next((name for name, is_one in kinds.items() if is_one(mode)), "")


def refuse_stream(path: Path, what: str = "") -> None:
    """Raise ``UserError`` if ``path`` is a stream (``stream_at``), not a file; ``what`` names it in the message."""
    if kind := stream_at(path):
        raise UserError(f"{what or path} is {kind}, not a file: save its content as a file, and name that")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name next to ``path``; on success it replaces ``path``, on failure it is removed.

    The temporary name is one that ``leftover`` recognizes if a kill leaves it behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _temporary(path.absolute())  # pyarrow takes a relative path such as `12:30/a.parquet` for an address
    try:
        yield unfinished
        _sync(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` atomically."""
    with replacing(path) as unfinished:
        # file names that are not UTF-8 are written as escapes, which JSON reads back
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def as_utf8(name: str) -> str:
    """A file name as UTF-8, which parquet requires; other bytes become ``\\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_marked(path: Path, mark: str) -> bool:
    """Whether a file has the mark of those that we write near its beginning, so that we may replace it."""
    try:
        with path.open("rb") as file:
            return mark.encode() in file.read(1000)
    except OSError:
        return False


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder next to ``path``; on success it replaces ``path``, on failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _temporary(path)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        for file in unfinished.rglob("*"):
            if file.is_file():
                file.chmod(unfinished.stat().st_mode & 0o666)  # safetensors writes files that only their owner may read
                _sync(file)
        if path.exists():
            old = _discarded(path)
            path.rename(old)
            unfinished.rename(path)
            shutil.rmtree(old)
        else:
            unfinished.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Rename ``path``, then remove it: a kill never leaves half of it under its own name."""
    if leftover(path) is None:
        old = _discarded(path)
        shutil.rmtree(old, ignore_errors=True)
        path = path.rename(old)
    shutil.rmtree(path)


def run_stage(folder: str | Path) -> str | None:
    """The stage of Retouch that writes to a folder, by the first line of its ``config.yaml``, or ``None``."""
    try:
        # called for every folder of a data set; if this is a named pipe, reading it would block
        with os.fdopen(os.open(f"{folder}/config.yaml", os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            return stage_of(file.readline(LONGEST_MARK))
    except (OSError, ValueError):  # the latter of a zero byte, which no path has
        return None


def stage_of(line: bytes) -> str | None:
    """The stage of Retouch that the first line of a ``config.yaml`` names, or ``None``."""
    found = re.match(rb"# retouch (\w+)\s", line)
    return None if found is None else found[1].decode()


def run_recipe(folder: str | Path) -> str:
    """The recipe or settings file that a run was started with, as the first line of its ``config.yaml`` says.

    Empty if it was started with neither.
    """
    try:
        with Path(folder, "config.yaml").open(encoding="utf-8", errors="replace") as file:
            found = re.match(r"# retouch \w+ (.+)", file.readline(1000))
    except OSError:
        return ""
    return "" if found is None else found[1].strip()


LONGEST_MARK = 100  # bytes of such a line, of which more are not read
GROUP = "_seeds"  # the end of the mark of a group: a folder of runs of one stage with several seeds


def is_group(folder: str | Path) -> bool:
    """Whether the runs of one stage with several seeds are in a folder (``common.runs.seeds``)."""
    return (run_stage(folder) or "").endswith(GROUP)


def command(mark: str) -> str:
    """The command that writes to a folder with this mark (``run_stage``), in words."""
    stage = mark.removesuffix(GROUP)
    return f"retouch {stage}" if stage == mark else f"retouch {stage} with seeds"


def leftover(path: Path) -> str | None:
    """The name being written or removed when a kill left ``path`` behind; ``None`` if it is not such a leftover."""
    found = re.fullmatch(r"\.(.+)\.\d+\.(?:tmp|old)", path.name)
    return found[1] if found else None


def _temporary(path: Path) -> Path:
    return _hidden(path, "tmp")


def _discarded(path: Path) -> Path:
    return _hidden(path, "old")


def _hidden(path: Path, end: str) -> Path:
    """A name that ``leftover`` recognizes; of a very long name, only the beginning is kept."""
    end = f".{os.getpid()}.{end}"
    kept = os.fsencode(path.name)[: LONGEST_NAME - len(end) - 1].decode(errors="ignore")
    return path.with_name(f".{kept}{end}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

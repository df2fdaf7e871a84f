"""Raised for errors the user can fix."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from typing import TypeVar, overload


class UserError(Exception):
    """A user's mistake in plain words: every problem at once, each with what to do about it.

    The command line prints ``str(error)`` without a traceback and exits with code 2.
    """

    def __init__(self, *problems: str, title: str = "") -> None:
        self.problems = problems
        self.title = title
        super().__init__(str(self))

    @property
    def lines(self) -> list[str]:
        """The message, line by line: the problems below their title."""
        return [self.title, *(f"  {problem}" for problem in self.problems)] if self.title else [*self.problems]

    def __str__(self) -> str:
        return "\n".join(self.lines)


REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_PLACE = {errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}  # a file is where a folder should be, or it has no name

ALLOCATION = re.compile(r"Allocator: (can't allocate memory|not enough memory)|CUDA out of memory")

IN_THE_WAY = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY}  # a folder in place of a file, or the reverse

LONG = 200  # characters of a path that is too long, in a message


def refused_by_system(error: Exception) -> str:
    """What to do about an error that only the user can fix: a missing permission, a full disk, a limit of file sizes.

    Also a name that is too long, a folder where a file belongs, and too little memory, of the machine or of a GPU.
    Empty for all other errors.
    """
    if _is_out_of_memory(error):
        return (
            f"memory ran out ({one_line(error, 150)}); lower batch_size, data.image_size or data.workers, or stop "
            "other programs"
        )
    number, path = getattr(error, "errno", None), getattr(error, "filename", None)
    if number is None and (found := re.search(r"\(os error (\d+)\)", str(error))):  # as safetensors puts it
        number = int(found[1])
    if number in REFUSED:
        what = f"{os.strerror(number)}: {path}" if path else os.strerror(number)
        return f"{what}; change the permissions of it or of a folder above it, or choose another"
    if number in IN_THE_WAY and path:
        target = getattr(error, "filename2", None) or path  # of a file that is renamed
        return f"{os.strerror(number)}: {target}; move it away, or choose another folder"
    if number == errno.ENAMETOOLONG:
        shown = "" if not path else f": {path}" if len(str(path)) <= LONG else f": {str(path)[:LONG]}..."
        return f"{os.strerror(number)}{shown}; choose a shorter name, or a folder with a shorter path"
    if number in NO_ROOM:
        room = "raise the limit (ulimit -f)" if number == errno.EFBIG else "make room on the disk"
        return f"a file cannot be written: {os.strerror(number)}; {room}"
    return ""


def _is_out_of_memory(error: Exception) -> bool:
    """Whether numpy, Arrow, torch or the system could not allocate; torch says so in words, and has a type for GPUs."""
    if isinstance(error, RuntimeError):
        return type(error).__name__ == "OutOfMemoryError" or ALLOCATION.search(str(error)) is not None
    return isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM


def cache_refused(error: BaseException, setting: str) -> str:
    """What to do about a download that cannot be kept: says that ``setting`` names the folder.

    Empty for all other errors, such as those of a network.
    """
    seen: BaseException | None = error
    while seen is not None:
        # errors of a network may have the same numbers, but name no file
        if isinstance(seen, OSError) and (
            seen.errno in NO_ROOM or (seen.filename and seen.errno in REFUSED | NO_PLACE)
        ):
            why = os.strerror(seen.errno or 0) + (f": {seen.filename}" if seen.filename else "")
            return f"the download cannot be kept ({why}); set {setting} to a folder that can be written"
        seen = seen.__cause__ or seen.__context__
    return ""


A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")


@overload
def check_all(a: Callable[[], A], b: Callable[[], B], /) -> tuple[A, B]: ...


@overload
def check_all(a: Callable[[], A], b: Callable[[], B], c: Callable[[], C], /) -> tuple[A, B, C]: ...


@overload
def check_all(
    a: Callable[[], A], b: Callable[[], B], c: Callable[[], C], d: Callable[[], D], /
) -> tuple[A, B, C, D]: ...


@overload
def check_all(
    a: Callable[[], A], b: Callable[[], B], c: Callable[[], C], d: Callable[[], D], e: Callable[[], E], /
) -> tuple[A, B, C, D, E]: ...


@overload
def check_all(*steps: Callable[[], A]) -> tuple[A, ...]: ...


def check_all(*steps: Callable[[], object]) -> tuple[object, ...]:
    """Run independent checks and return their values; the problems of all are raised as one error."""
    values: list[object] = []
    problems: list[str] = []
    for step in steps:
        try:
            values.append(step())
        except UserError as error:
            problems += error.lines
    if problems:
        raise UserError(*dict.fromkeys(problems))  # two steps may find the same problem
    return tuple(values)


def one_line(error: BaseException, limit: int | None = None) -> str:
    """An error's message on one line, at most ``limit`` characters of it; its type where it has no message."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def reason_of(error: BaseException) -> str:
    """The root cause of an error on one line; some packages, such as `datasets`, wrap it in a general error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error, 300)


def moved_away(error: UserError, folder: object) -> UserError:
    """What is wrong with a folder that the run would write again, and what helps."""
    what = str(error).partition("; ")[0]
    return UserError(f"{what}; move {folder} away, and the same command writes it again")

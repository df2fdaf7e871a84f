"""Raised for errors the user can fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


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


def check_all(*steps: Callable[[], Any]) -> list[Any]:
    """Run independent checks and return their values; the problems of all are raised as one error."""
    values: list[Any] = []
    problems: list[str] = []
    for step in steps:
        try:
            values.append(step())
        except UserError as error:
            problems += error.lines
    if problems:
        raise UserError(*dict.fromkeys(problems))  # two steps may find the same problem
    return values


def one_line(error: BaseException, limit: int | None = None) -> str:
    """An error's message on one line, at most ``limit`` characters of it; its type where it has no message."""
    return " ".join(str(error).split())[:limit] or type(error).__name__

"""The one exception for mistakes a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """A user's mistake, told plainly: every problem at once, each with what to do about it.

    The command line prints ``str(error)`` without a traceback and exits with code 2.
    """

    def __init__(self, *problems: str, title: str = "") -> None:
        self.problems = problems
        self.title = title
        super().__init__(str(self))

    def __str__(self) -> str:
        if not self.title:
            return "\n".join(self.problems)
        return "\n".join([self.title, *(f"  {problem}" for problem in self.problems)])

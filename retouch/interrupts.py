"""Ctrl-C where no command can answer it, as while Python imports the command: one line and code 130, no traceback.

Imports only what Python has loaded before.
"""

from __future__ import annotations

import os
import sys

CODE = 130  # 128 + SIGINT, as a shell has it
MODULES = ("retouch", "pretrain", "finetune")  # for python -m


def end_plainly() -> None:
    """Let a command of ours that Ctrl-C stops end with one line. A program that imports Retouch keeps its traceback.

    This is for the time before a command works, and after: work has an answer of its own (``common.runs.console``).
    """
    name = command_of(sys.orig_argv)
    if not name:
        return
    before = sys.excepthook

    def end(kind: type[BaseException], error: BaseException, trace: object) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            before(kind, error, error.__traceback__)
            return
        sys.stderr.write(f"{name}: stopped by Ctrl-C\n")
        raise SystemExit(CODE)

    sys.excepthook = end


def command_of(started: list[str]) -> str:
    """How a command line of Python names one of our commands: ``retouch``, ``python -m pretrain``; else empty."""
    words = iter(started[1:])
    for word in words:
        if word == "-m":
            module = next(words, "")
            return f"python -m {module}" if module in MODULES else ""
        if word in ("-X", "-W"):  # options with a value
            next(words, None)
        elif word == "-c":
            return ""
        elif not word.startswith("-"):  # the script
            script = os.path.basename(word).partition(".")[0].removesuffix("-script")  # noqa: PTH119 -- pathlib is not loaded
            return script if script == "retouch" else ""
    return ""

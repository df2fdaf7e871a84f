"""The command line: stages by name, messages, exit codes, and plain answers to mistakes."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from common.errors import UserError
from common.runs.logs import setup_console

log = logging.getLogger("retouch")

RESUMED = "start the same command again, with resume=true if its run folder exists"
DASHED = re.compile(r"--[A-Za-z_][\w.]*=")
SETTINGS = (
    "CONFIG and every key.sub=value are checked before anything is written. A run writes all settings with their "
    "values to config.yaml in its folder; for an unknown key, the error names the nearest known one."
)


@dataclass(frozen=True)
class Stage:
    """One stage, run as ``NAME CONFIG [key.sub=value ...]``.

    Attributes:
        module: holds ``command(path, overrides)``; imported when the stage runs, so that ``--help`` is quick.
        lossless: a stopped run continues from its checkpoints, so to stop it is no failure.
    """

    name: str
    help: str
    module: str
    lossless: bool = False

    def add_arguments(self, parser: Parser) -> None:
        """The arguments of every stage."""
        parser.epilog, parser.takes_settings = SETTINGS, True
        parser.add_argument("config", metavar="CONFIG", help="a YAML file, for example from configs/")
        parser.add_argument(
            "overrides", nargs="*", default=[], metavar="key.sub=value", help="settings that replace those of the file"
        )
        parser.set_defaults(run=self.run)

    def run(self, given: argparse.Namespace) -> int:
        """Run the stage; returns the exit code."""

        def work() -> None:
            importlib.import_module(self.module).command(given.config, given.overrides)

        return answer(f"retouch {self.name}", work, lossless=self.lossless)


class Parser(argparse.ArgumentParser):
    """Takes settings with dashes too, ``--key.sub=value``: the agent of a W&B sweep writes them so."""

    takes_settings = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else args
        if self.takes_settings:
            args = [arg.removeprefix("--") if DASHED.match(arg) else arg for arg in args]
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments"):
            message += "; settings are written key=value"
        super().error(message)


def run_stages(program: str, stages: Sequence[Stage], arguments: Sequence[str] | None = None) -> int:
    """The command line of one package: its one stage, or the stage that the first argument names.

    Returns:
        The exit code: 0, or 2 with one plain message for a user's mistake.
    """
    if len(stages) == 1:
        parser = Parser(prog=program, description=stages[0].help)
        stages[0].add_arguments(parser)
    else:
        parser = Parser(prog=program)
        add_stages(parser.add_subparsers(required=True, metavar="STAGE"), stages)
    given = parser.parse_args(arguments)
    code: int = given.run(given)
    return code


def add_stages(commands: argparse._SubParsersAction[Parser], stages: Sequence[Stage]) -> None:
    """One command per stage."""
    for stage in stages:
        stage.add_arguments(commands.add_parser(stage.name, help=stage.help, description=stage.help))


class _Terminated(BaseException):
    """SIGTERM. Like Ctrl-C, it is not caught where errors are, and closes what is open on its way up."""


def answer(name: str, work: Callable[[], object], *, lossless: bool = False, again: str = RESUMED) -> int:
    """Do the work; returns the exit code: 0, or 2 with one plain message for a user's mistake.

    While the train loop runs, it handles Ctrl-C and SIGTERM itself: it writes a checkpoint and ends. Before and after,
    both close what is open. Either way, how to continue is logged, and the exit code is 0 for lossless work; else it
    is 130 (Ctrl-C) or 143 (SIGTERM).

    Args:
        lossless: a stopped run continues from its checkpoints, so to stop it is no failure.
        again: how to continue.
    """
    setup_console(is_main=os.environ.get("RANK", "0") == "0")
    try:
        with _orderly_end():
            work()
    except (_Terminated, KeyboardInterrupt) as stopped:
        signal_name, number = (
            ("SIGTERM", signal.SIGTERM) if isinstance(stopped, _Terminated) else ("Ctrl-C", signal.SIGINT)
        )
        log.info("stopped by %s; to continue, %s", signal_name, again)
        return 0 if lossless else 128 + number
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return 0


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Inside, the first SIGTERM raises; later ones do not interrupt what is being closed."""
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
    """``name`` as it can be typed here: bare if a shell finds it, else its path in the folder of this Python.

    A path below the working folder is relative to it, such as ``.venv/bin/retouch``.
    """
    installed = shutil.which(name, path=str(Path(sys.executable).parent))
    if shutil.which(name) or installed is None:
        return name
    path, here = Path(installed), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if here in path.parent.parents else path))

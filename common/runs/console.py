"""The command line: stages by name, their help, messages, exit codes, and plain answers to mistakes."""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
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
from typing import Any, NamedTuple, NoReturn

from common.config import read_settings
from common.errors import UserError, check_all, refused_by_system
from common.machine.started import is_first
from common.recipes import STANDARD, Given, header, listing, offered, stage_config, understand, understand_run
from common.runs.completion import complete_recipe, complete_run, complete_setting, remember_keys
from common.runs.describe import describe, settings_of
from common.runs.logs import setup_console
from common.runs.screen import say, write_to
from common.settings import check_overrides, plain

log = logging.getLogger("retouch")

RESUMED = "start the same command again, with out=FOLDER resume=true if its run folder exists"
UNKNOWN_COMMAND = re.compile(r"argument (?:COMMAND|STAGE): invalid choice: '(.*?)' \(choose from (.*)\)")
DASHED = re.compile(r"--[A-Za-z_][\w.]*=")
MOST_COLUMNS = 100
RECIPE = "the name of a recipe, or a YAML file: what ends in .yaml or holds a separator is a file"
SETTINGS = """\
All settings are checked before anything is written. {prog} RECIPE --help lists those of a recipe;
retouch recipes RECIPE > mine.yaml copies it."""
RUN_SETTINGS = """\
All settings are checked before anything is written. {prog} RUN --help lists them."""
LABELED = "Your images: data=my/labeled, with a folder for each class"
IMAGES = {"": "Your images: data=my/pictures", "probe": LABELED, "finetune": LABELED}
MARKED = "settings, as key=value (* set by the recipe or on the command line; all others have their default):"


class Flag(NamedTuple):
    """A setting that may also be written ``--key VALUE``."""

    key: str
    metavar: str
    help: str


@dataclass(frozen=True)
class Stage:
    """One stage, run as ``NAME [RECIPE] [key.sub=value ...]``, or as ``NAME RUN [key.sub=value ...]``.

    Attributes:
        module: holds the function that runs it, which has the stage's name; imported when it runs: ``--help`` is quick.
        settings: where the type of its settings is, as ``module:name``.
        lossless: a stopped run continues from its checkpoints, so stopping it is not a failure.
        takes: for a stage that takes a finished run (the setting ``run``) in place of a recipe: what it may be.
        flags: settings that may also be written as flags.
    """

    name: str
    help: str
    module: str
    settings: str
    lossless: bool = False
    takes: str = ""
    flags: tuple[Flag, ...] = ()

    def add_arguments(self, parser: Parser) -> None:
        """The arguments of every stage."""
        parser.stage = self
        standard = f" (default: {STANDARD[self.name]})" if self.name in STANDARD else ""
        metavar, text = ("RUN", self.takes) if self.takes else ("RECIPE", f"{RECIPE}{standard}")
        source: Any = parser.add_argument("source", nargs="?", metavar=metavar, help=text)
        overrides: Any = parser.add_argument(
            "overrides",
            nargs="*",
            metavar="key.sub=value",
            help="settings" if self.takes else "settings that replace those of the recipe",
        )
        for flag in self.flags:  # `Parser` reads them as settings
            parser.add_argument(f"--{flag.key}", metavar=flag.metavar, help=flag.help)
        complete = complete_run if self.takes else complete_recipe
        source.completer = lambda prefix, **_: complete(self.name, prefix)
        overrides.completer = lambda prefix, **_: complete_setting(self.name, prefix)
        parser.set_defaults(run=self.run)

    def understand(self, source: str | None, overrides: Sequence[str] = ()) -> Given:
        """The settings that a user means, not yet read.

        Raises:
            UserError: there is no such recipe.
        """
        return (understand_run if self.takes else understand)(self.name, source, overrides)

    def check_words(self, source: str | None, overrides: Sequence[str]) -> None:
        """Check what needs no schema: that there is such a recipe, and that settings are written as settings.

        Raises:
            UserError: with every problem.
        """
        check_all(lambda: self.understand(source, overrides), lambda: check_overrides(overrides))

    def run(self, given: argparse.Namespace) -> int:
        """Run the stage; returns the exit code."""

        def work() -> None:
            self.check_words(given.source, given.overrides)  # before what takes seconds to import
            config = stage_config(self.schema(), given.source, given.overrides)
            remember_keys(self.name, (one.key for one in settings_of(type(config), plain(config), {})))
            getattr(importlib.import_module(self.module), self.name)(config)

        return answer(f"retouch {self.name}", work, lossless=self.lossless)

    def schema(self) -> Any:
        """The type of its settings."""
        module, _, name = self.settings.partition(":")
        return getattr(importlib.import_module(module), name)

    def describe(self, source: str, overrides: Sequence[str]) -> None:
        """Print what a recipe says of itself, and all settings with their values."""
        self.check_words(source, overrides)
        given, schema = self.understand(source, overrides), self.schema()
        settings = settings_of(schema, read_settings(schema, given.source, given.overrides), given.defaults)
        remember_keys(self.name, (one.key for one in settings))
        about = header(given.source.read_text(encoding="utf-8")) if isinstance(given.source, Path) else [self.help]
        yours = IMAGES.get(self.name, IMAGES[""]) if any(one.key.startswith("data.") for one in settings) else ""
        parts = ["\n".join(about), yours, MARKED, describe(settings, columns())]
        say("\n\n".join(filter(None, parts)))


class Parser(argparse.ArgumentParser):
    """Also reads settings with dashes, ``--key.sub=value``, as the agent of a W&B sweep writes them, and flags.

    Attributes:
        stage: the stage whose arguments it parses, if there is one.
        example: a command that works, for one that lacks an argument.
    """

    stage: Stage | None = None
    example: str = ""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = list(sys.argv[1:] if args is None else args)
        if self.stage is not None:
            args = _as_settings(args, [f"--{flag.key}" for flag in self.stage.flags])
            asked = [arg for arg in args if arg not in ("-h", "--help")]
            if asked and len(asked) < len(args):
                stage = self.stage
                self.exit(answer(f"retouch {stage.name}", lambda: stage.describe(asked[0], asked[1:])))
        return super().parse_known_args(args, namespace)

    def _print_message(self, message: str, file: Any = None) -> None:
        if not message:
            return
        try:
            write_to(file or sys.stderr, message)
        except OSError as error:  # help into a file on a full disk
            write_to(sys.stderr, f"{self.prog}: {refused_by_system(error) or error}\n")
            raise SystemExit(2) from None

    def format_help(self) -> str:
        if self.stage is None:
            return super().format_help()
        if self.stage.takes:
            return f"{super().format_help()}\n{RUN_SETTINGS.format(prog=self.prog)}\n"
        name = self.stage.name
        listed = listing({one.name: one for one in offered(name)}, columns())
        return f"{super().format_help()}\n{SETTINGS.format(prog=self.prog)}\n\nrecipes:\n{listed}\n"

    def error(self, message: str) -> NoReturn:
        if found := UNKNOWN_COMMAND.match(message):
            near = difflib.get_close_matches(found[1].lower(), re.findall(r"[\w-]+", found[2]), n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            message = f"no command {found[1]!r}; {meant}`{self.prog} --help` lists all"
        elif message.startswith("the following arguments are required: ") and self.example:
            message += f"; for example: {self.example}"
        elif message.startswith("unrecognized arguments: "):
            words = message.partition(": ")[2].split()
            all_settings = all("=" in word and not word.startswith("-") for word in words)
            message += "; this command takes no settings" if all_settings else "; settings are written key=value"
        super().error(message)


def _as_settings(args: Sequence[str], flags: Sequence[str]) -> list[str]:
    """``--key.sub=value`` as ``key.sub=value``, and ``--key value`` of flags likewise, after all else.

    Flags may stand before the recipe or the run, which is the first of the others.
    """
    found: list[str] = []
    last: list[str] = []
    rest = iter(args)
    for arg in rest:
        value = next(rest, None) if arg in flags else None
        if value is not None:
            last.append(f"{arg.removeprefix('--')}={value}")
        elif DASHED.match(arg):
            (last if arg.partition("=")[0] in flags else found).append(arg.removeprefix("--"))
        else:
            found.append(arg)
    return [*found, *last]


def columns() -> int:
    """How wide a text may be here."""
    return min(shutil.get_terminal_size((MOST_COLUMNS, 24)).columns, MOST_COLUMNS)


def run_stages(program: str, stages: Sequence[Stage], arguments: Sequence[str] | None = None) -> int:
    """The command line of one package: its one stage, or the stage that the first argument names.

    Returns:
        The exit code: 0, or 2 with one plain message for a user's mistake.
    """
    if len(stages) == 1:
        parser = Parser(prog=program, description=stages[0].help, allow_abbrev=False)
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
        # an abbreviated flag would be parsed, but would not be a setting
        parser = commands.add_parser(stage.name, help=stage.help, description=stage.help, allow_abbrev=False)
        stage.add_arguments(parser)


class _Terminated(BaseException):
    """SIGTERM. Like Ctrl-C, it is not caught as an error, and closes what is open on its way up."""


def answer(name: str, work: Callable[[], object], *, lossless: bool = False, again: str = "") -> int:
    """Do the work; returns the exit code: 0, or 2 with one plain message for a user's mistake.

    While the train loop runs, it handles Ctrl-C and SIGTERM itself: it writes a checkpoint and ends. Before and after,
    both close what is open. Either way, how to continue is logged, and the exit code is 0 for lossless work; else it
    is 130 (Ctrl-C) or 143 (SIGTERM).

    Args:
        lossless: a stopped run continues from its checkpoints, so stopping it is not a failure.
        again: how to continue; by default as the run that was stopped says of itself, if it was opened.
    """
    setup_console(is_main=is_first())
    try:
        with _orderly_end():
            _check_working_folder()
            work()
    except (_Terminated, KeyboardInterrupt) as stopped:
        signal_name, number = (
            ("SIGTERM", signal.SIGTERM) if isinstance(stopped, _Terminated) else ("Ctrl-C", signal.SIGINT)
        )
        said = next(iter(getattr(stopped, "__notes__", ())), RESUMED)
        log.info("stopped by %s; to continue, %s", signal_name, again or said)
        return 0 if lossless else 128 + number
    except UserError as error:
        write_to(sys.stderr, f"{name}: {error}\n")
        return 2
    except Exception as error:
        if not (problem := refused_by_system(error)):
            raise
        write_to(sys.stderr, f"{name}: {problem}; then {again or RESUMED}\n")
        return 2
    return 0


def _check_working_folder() -> None:
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UserError("the working folder was deleted; change to one that exists, as with cd ~") from None


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
    path = Path(installed)
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the folder was deleted; a command that needs it will say so
        return shlex.quote(installed)
    return shlex.quote(str(path.relative_to(here) if here in path.parent.parents else path))

"""What a user gives to a stage: a recipe that comes with Retouch, a file, a mapping, or a finished run to apply.

Recipes are YAML files in ``configs/``, one folder per stage, found by name from anywhere.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from common.config import Config, read_settings, validate
from common.errors import UserError
from common.files import as_utf8, in_full, run_stage

if TYPE_CHECKING:
    from common.runs.folder import StageConfig

FOLDER = Path(__file__).resolve().parents[1] / "configs"
STAGES = ("pretrain", "probe", "finetune", "embed", "study")
SWEEP = "sweep"  # the folder of W&B sweeps: they start stages, and are not settings of one
EXAMPLE = "colorize"  # the recipe that messages name where a stage has no standard one
STANDARD = {"probe": "linear", "finetune": "full", "embed": "embed", "study": "study"}  # where no recipe is named
EXPECT = "Expect: "
CHOICE = (
    "For your own pictures: colorize if they are in color; mask or denoise if they are gray, or if color tells your "
    "classes apart; retouch study tries them and more. What to expect was measured on the images of the recipe, mostly "
    "generated ones; with yours, it will differ."
)  # what the list of recipes begins with
LESSON = "lecture"
OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")
YAML = (".yaml", ".yml")

# a recipe (or a run, of stages that take one) or a YAML file, a mapping, or settings already read
Settings = Config | str | Path | Mapping[str, Any]
S = TypeVar("S", bound="StageConfig")


class Recipe(NamedTuple):
    """A shipped recipe. The comments at its top say what it is, how to run it and what to expect."""

    stage: str
    name: str
    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def is_lesson(self) -> bool:
        """Whether it is a part of ``retouch lecture``, too short to be of use elsewhere."""
        return self.name == LESSON or self.name.endswith(f"_{LESSON}")

    @property
    def title(self) -> str:
        """The first line of its comments."""
        return header(self.text)[0]

    @property
    def expect(self) -> str:
        """What to expect of it; empty if it does not say."""
        found = re.search(rf"^{EXPECT}(.*?)(?:\n\n|\Z)", "\n".join(header(self.text)), re.MULTILINE | re.DOTALL)
        return " ".join(found[1].split()) if found else ""


def header(text: str) -> list[str]:
    """The lines of the comments at the top of a YAML file, without ``#``."""
    lines = re.match(r"(?:#.*\n)*", text)
    return [re.sub("^# ?", "", line) for line in (lines[0] if lines else "").splitlines()]


def recipes(stage: str | None = None) -> list[Recipe]:
    """All recipes, or those of one stage."""
    return [
        Recipe(one, path.stem, path)
        for one in STAGES
        if stage in (None, one)
        for path in sorted((FOLDER / one).glob("*.yaml"))
    ]


def offered(stage: str | None = None) -> list[Recipe]:
    """The recipes to choose from: all but those of the lecture."""
    return [one for one in recipes(stage) if not one.is_lesson]


def sweeps() -> list[Recipe]:
    """The searches for ``wandb sweep`` that come with Retouch."""
    return [Recipe(SWEEP, path.stem, path) for path in sorted((FOLDER / SWEEP).glob("*.yaml"))]


def full_names(found: Sequence[Recipe]) -> list[str]:
    """Their names, preceded by the stage where two stages have a recipe of that name."""
    names = [one.name for one in found]
    return [f"{one.stage}/{one.name}" if names.count(one.name) > 1 else one.name for one in found]


def find_recipe(name: str, stage: str | None = None) -> Recipe:
    """A recipe by its name, such as ``denoise``, or by stage and name, such as ``probe/linear``.

    Without a stage, it may also be a search for W&B.

    Raises:
        UserError: there is no such recipe, or several stages have one of this name.
    """
    known = recipes(stage) if stage else [*recipes(), *sweeps()]
    found = [one for one in known if name in (one.name, f"{one.stage}/{one.name}")]
    if len(found) > 1:
        raise UserError(f"recipe {name!r} is ambiguous: choose {' or '.join(full_names(found))}")
    if not found:
        if stage is not None and name and Path(name).is_dir():
            raise _folder(name, stage)
        raise UserError(f"no recipe {name!r}{_hint(name, known)}; {_choices(stage)}")
    return found[0]


def _folder(path: str | Path, stage: str) -> UserError:
    """A folder was given where a recipe is expected: it may be images, or a run."""
    key = "encoder" if run_stage(path) else "data"
    return UserError(f"{path} is a folder, not a recipe; did you mean: {_command(stage, f'{key}={path}')}?")


def _command(stage: str, *settings: str) -> str:
    """A command of a stage, with a recipe if it needs one."""
    return shlex.join(["retouch", stage, *([] if stage in STANDARD else [EXAMPLE]), *settings])


def _hint(name: str, known: Sequence[Recipe]) -> str:
    """What else may have been meant."""
    files = [file for file in (name, f"{name}.yaml", f"{name}.yml") if Path(file).is_file()]
    if files:
        return f"; for the file here, write {f'.{os.sep}' if files[0] == name else ''}{files[0]}"
    others = [one.stage for one in recipes() if one.name == name]
    if others:
        return f"; it is a recipe of retouch {' and '.join(others)}"
    near = difflib.get_close_matches(name.lower(), [one.name for one in known], n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _choices(stage: str | None) -> str:
    return f"{f'those of retouch {stage}' if stage else 'there'} are {', '.join(full_names(offered(stage)))}"


def listing(named: Mapping[str, Recipe], width: int, *, expect: bool = False) -> str:
    """Recipes with their titles, and what to expect of them, in lines of at most ``width`` characters."""
    indent = " " * (max(map(len, named)) + 4)
    lines = []
    for name, one in named.items():
        first = f"  {name}".ljust(len(indent))
        lines += textwrap.wrap(one.title, width, initial_indent=first, subsequent_indent=indent)
        if expect:
            lines += textwrap.wrap(EXPECT + one.expect, width, initial_indent=indent, subsequent_indent=indent)
    return "\n".join(lines)


# ---- what a user gives to a stage


class Given(NamedTuple):
    """Where the settings of a stage come from."""

    source: Path | Mapping[str, Any] | Config
    name: str  # of the recipe or file; runs are named after it
    origin: str  # what messages call it
    overrides: tuple[str, ...]

    @property
    def defaults(self) -> dict[str, Any]:
        """The run folder is numbered when the run starts."""
        return {"out": f"runs/{self.name}-{{n}}"}


def understand(stage: str, source: Settings | None, overrides: Sequence[str] = ()) -> Given:
    """The settings that a user means: a text is a YAML file if it ends in .yaml or holds a separator, else a recipe.

    Without a recipe (``None``, or a text that is a setting itself), it is the stage's standard one.

    Raises:
        UserError: there is no such recipe, or none is named and the stage has no standard one.
    """
    if isinstance(source, str) and OVERRIDE.match(source):
        overrides, source = (source, *overrides), None
    if source is None:
        if stage not in STANDARD:
            example = _command(stage, *(overrides or ["data=my/pictures"]))
            raise UserError(f"name a recipe, such as: {example}; `retouch recipes` lists all")
        source = STANDARD[stage]
    if isinstance(source, str) and not _is_path(source):
        recipe = find_recipe(source, stage)
        return Given(recipe.path, recipe.name, f"recipe {recipe.name}", tuple(overrides))
    if isinstance(source, (str, Path)):
        path = in_full(source)
        if path.is_dir():
            raise _folder(path, stage)
        if not path.exists() and path.stem in (one.name for one in recipes(stage)):
            raise UserError(f"config file not found: {path}; the recipe is called {path.stem}")
        return Given(path, path.stem, str(path), tuple(overrides))
    return Given(source, stage, "the config", tuple(overrides))


def understand_run(stage: str, source: Settings | None, overrides: Sequence[str] = ()) -> Given:
    """The settings of a stage that takes a finished run: a text is its folder, the setting ``run``.

    A text that ends in .yaml is a settings file, such as the ``config.yaml`` of an earlier run of the stage.

    Raises:
        UserError: the run is named twice.
    """
    if isinstance(source, str) and OVERRIDE.match(source):
        overrides, source = (source, *overrides), None
    if isinstance(source, (str, Path)):
        if str(source).endswith(YAML):
            return Given(in_full(source), stage, str(source), tuple(overrides))
        if any(text.startswith("run=") for text in overrides):
            raise UserError(f"run: given as {source} and as run=...; give it once")
        source = {"run": str(source)}
    return Given({} if source is None else source, stage, "the settings", tuple(overrides))


def _is_path(text: str) -> bool:
    return text.endswith(YAML) or any(mark in text for mark in (os.sep, os.altsep) if mark)


def stage_config(schema: type[S], source: Settings | None = None, overrides: Sequence[str] = ()) -> S:
    """The settings of a stage: of a recipe, a run, a YAML file, a mapping or a config, with overrides.

    Without ``out``, the run folder is ``runs/NAME-{n}``, after the recipe, the file, or else the stage.

    Raises:
        UserError: with every problem at once.
    """
    given = (understand_run if schema.takes_run else understand)(schema.stage, source, overrides)
    tree = read_settings(schema, given.source, given.overrides)
    config = validate(schema, {**given.defaults, **tree}, given.origin)
    if isinstance(given.source, Path):
        vars(config)["recipe"] = " ".join(as_utf8(given.name).split())  # a name is one line
    return config

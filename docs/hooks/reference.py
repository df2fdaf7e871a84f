"""The reference: a page of all commands, one of all recipes, and one of the settings of each command."""

from __future__ import annotations

import argparse
import importlib
import os
import re
from collections.abc import Sequence
from typing import NamedTuple
from unittest import mock

from schema_tables import Section, sections

from common.config import Config
from common.recipes import CHOICE, STAGES, Recipe, full_names, header, recipes, sweeps
from common.runs.console import Parser
from retouch.cli import command_line

WIDTH = 80  # columns of a command's help: no more fit on the page
# commands that take settings and are no stages: where the type of their settings is
SETTINGS = {"label": "retouch.labeling.settings:LabelConfig", "export": "retouch.exporting.settings:ExportConfig"}


class Command(NamedTuple):
    """One command of ``retouch``."""

    name: str
    about: str  # in a line
    usage: str  # its --help
    schema: type[Config] | None  # of its settings, if it takes any

    @property
    def settings_page(self) -> str:
        return f"reference/settings/{self.name}.md"


def pages() -> dict[str, str | bytes]:
    """Path in the site -> text."""
    known = commands()
    return {
        "reference/commands.md": commands_page(known),
        "reference/recipes.md": recipes_page(),
        **{one.settings_page: settings_page(one, one.schema) for one in known if one.schema is not None},
    }


def commands() -> list[Command]:
    """All commands, in the order of ``retouch --help``."""
    [choice] = [one for one in command_line()._actions if isinstance(one, argparse._SubParsersAction)]
    lines = {one.dest: one.help or "" for one in choice._choices_actions}
    return [_command(name, lines[name], parser) for name, parser in choice.choices.items()]


def _command(name: str, about: str, parser: Parser) -> Command:
    with mock.patch.dict(os.environ, COLUMNS=str(WIDTH)):
        usage = argparse.ArgumentParser.format_help(parser)  # without the list of recipes, which have a page
    if parser.stage is not None:
        return Command(name, about, usage, parser.stage.schema())
    if name not in SETTINGS:
        return Command(name, about, usage, None)
    module, _, schema = SETTINGS[name].partition(":")
    return Command(name, about, usage, getattr(importlib.import_module(module), schema))


def commands_page(known: Sequence[Command]) -> str:
    """Every command with its help."""
    parts = [
        "# Commands",
        "What `retouch COMMAND --help` says. Settings are written `key=value`; all of them are checked before "
        "anything is written, and every problem is named at once (exit code 2).",
    ]
    for one in known:
        parts += [f"## {one.name}", _sentence(one.about), _block(one.usage, "text")]
        links = []
        if any(recipe.stage == one.name for recipe in recipes()):
            links.append(f"its [recipes](recipes.md#{_anchor(f'retouch {one.name}')})")
        if one.schema is not None:
            links.append(f"[all of its settings](settings/{one.name}.md)")
        parts += [f"See {' and '.join(links)}."] if links else []
    return _page(parts)


def recipes_page() -> str:
    """Every recipe: what it is, what to expect of it, and its settings."""
    shipped = recipes()
    parts = [
        "# Recipes",
        "Settings that ship with Retouch. A recipe holds only what differs from the defaults; "
        "`retouch recipes NAME > mine.yaml` copies one, and `key=value` after its name changes it. Where two commands "
        "have a recipe of the same name, `COMMAND/NAME` says which.",
        CHOICE,
    ]
    for stage in STAGES:
        parts.append(f"## retouch {stage}")
        for name, one in zip(full_names(shipped), shipped, strict=True):
            if one.stage == stage:
                parts += _recipe(name, one)
    parts.append("## wandb sweep")
    parts += [part for one in sweeps() for part in _recipe(one.name, one)]
    return _page(parts)


def _recipe(name: str, one: Recipe) -> list[str]:
    about = re.sub(r"^Expect: ", "**Expect:** ", "\n".join(header(one.text)[1:]).strip("\n"), flags=re.MULTILINE)
    # commands are indented by two: blocks of Markdown are by four
    about = re.sub(r"^  (?=\S)", "    ", about, flags=re.MULTILINE)
    settings = "\n".join(one.text.splitlines()[len(header(one.text)) :]).strip()
    return [f"### {name}", one.title, about, _block(settings, "yaml")]


def settings_page(command: Command, schema: type[Config]) -> str:
    """Every setting of a command: its key, default, type and meaning."""
    found = sections(schema, {"out": f"runs/{'RECIPE' if command.name in STAGES else command.name}-{{n}}"})
    parts = [
        f"# retouch {command.name}",
        f"Settings of `retouch {command.name}`: {command.about[0].lower()}{command.about[1:]}. A key is written "
        "`key=value` on the command line, and a value as in YAML: `[a, b]` is a list, `{key: value}` a mapping, "
        "`null` none.",
        *(part for one in found for part in _section(one)),
    ]
    return _page(parts)


def _section(one: Section) -> list[str]:
    lines = ["| key | default | takes | |", "| --- | --- | --- | --- |"]
    for row in one.rows:
        default = f"`{row.default}`" if row.default else "required"
        lines.append(f"| `{row.key}` | {_cell(default)} | {_cell(row.takes)} | {_cell(row.text)} |")
    return [f"## {one.title} {{ #{one.anchor} }}", one.text, "\n".join(lines) if one.rows else ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}{'' if text[-1] in '.?' else '.'}"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _block(text: str, language: str) -> str:
    return f"```{language}\n{text.strip()}\n```"


def _page(parts: Sequence[str]) -> str:
    return "\n\n".join(filter(None, parts)) + "\n"

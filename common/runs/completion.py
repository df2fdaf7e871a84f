"""What the shell completes: recipes, keys of settings, and the paths after them. Quick: nothing here imports torch.

The types of the settings do import it. Their keys are therefore stored in the cache folder whenever a stage has read
them, to run or to show its help; before that, keys are not completed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from common.files import in_full, write_text
from common.machine.cache import cache_folder
from common.recipes import offered


def complete_recipe(stage: str, prefix: str) -> list[str]:
    """Recipes of a stage and YAML files; or a setting, since a stage may have a standard recipe."""
    names = [one.name for one in offered(stage) if one.name.startswith(prefix)]
    return [*names, *complete_run(stage, prefix)]


def complete_run(stage: str, prefix: str) -> list[str]:
    """Folders and YAML files, one of which names the run; or a setting."""
    files = [path for path in _paths(prefix) if path.endswith(("/", ".yaml", ".yml"))]
    return [*files, *complete_setting(stage, prefix)]


def complete_setting(stage: str, prefix: str) -> list[str]:
    """Keys of a stage; after ``key=``, paths."""
    key, given, value = prefix.partition("=")
    if given:
        return [f"{key}={path}" for path in _paths(value)]
    return [f"{one}=" for one in _known(stage) if one.startswith(prefix)]


def remember_keys(stage: str, keys: Iterable[str]) -> None:
    """Add the keys of a stage to those that are completed."""
    known = _known(stage)
    if new := set(keys) - set(known):
        with contextlib.suppress(OSError):  # a cache that cannot be written costs completion only
            write_text(_file(stage), "".join(f"{key}\n" for key in sorted({*known, *new})))


def _known(stage: str) -> list[str]:
    try:
        return _file(stage).read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return []


def _file(stage: str) -> Path:
    return cache_folder() / "keys" / stage


def _paths(prefix: str) -> list[str]:
    """Files and folders that begin like this; folders end in a slash."""
    name = prefix.rpartition("/")[2]
    above = prefix.removesuffix(name)
    try:
        with os.scandir(in_full(above)) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries)
    except OSError:
        return []
    shown = [(one, is_folder) for one, is_folder in found if one.startswith(name) and (name or not one.startswith("."))]
    return [f"{above}{one}{'/' * is_folder}" for one, is_folder in shown]

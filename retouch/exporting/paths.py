"""Paths of this machine: an export shows others only their last part, as ``…/pictures``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath

from pydantic import JsonValue

from common.encoders.hub import on_hub
from common.encoders.provenance import Provenance
from common.encoders.readme import plain
from common.files import in_full

REST = "…"  # stands for the folders that are left out; no path begins with it
END = r"""[^\s"'`,;:()<>\[\]{}|]+"""  # of a path, as far as it can be told apart from the text around it
BEFORE = rf"(?<![\w./~{REST}*-])"  # no path begins in the middle of a word, of a relative path or of an address
AFTER = r"(?![\w/\\-]|\.\w)"  # a path or a name does not end within a longer one
ABSOLUTE = rf"{BEFORE}/(?!/){END}|(?<!\w)[A-Za-z]:[\\/](?!/){END}|\\\\[\w.-]+\\{END}"
PARTS = r"[\\/]+"  # what is between the parts of a path
NOTHING = r"(?!)"  # never matches
SCHEME = re.compile(r"^[a-z]\w+:(?!/?/?$)")  # of a source, such as folder:


def folders_of(named: Iterable[str | Path | None]) -> list[str]:
    """Folders of this machine: the parents of these paths and sources, home and working folder; longest first.

    Below a known folder, a path may have spaces.
    """
    texts = [SCHEME.sub("", str(one)) for one in named if one is not None and not on_hub(str(one))]
    around = [str(PurePath(text).parent) for text in texts if PurePath(text).is_absolute()]
    found = {*around, str(in_full("~")), str(Path.cwd())} - {"~", Path("/").anchor}
    return sorted(found, key=len, reverse=True)


def in_markdown(texts: Iterable[str]) -> list[str]:
    """Folders or names as they are and as a model card writes them, the longest first."""
    return sorted({form for text in texts for form in (text, plain(text))}, key=len, reverse=True)


def without_paths(text: str, folders: Sequence[str], kept: Sequence[str] = ()) -> str:
    """A text with ``…`` in place of the folders of every absolute path.

    Args:
        folders: from ``folders_of`` or ``in_markdown``.
        kept: what may look like a path but is not one, such as the names of classes; the longest first.
    """
    like_paths = [re.escape(name) for name in kept if name and without_paths(name, folders) != name]
    names = rf"(?<![\w/])(?:{'|'.join(like_paths) or NOTHING}){AFTER}"
    text = re.sub(r"file:/+", "/", text)
    for folder in folders:
        text = _replaced(rf"{BEFORE}{re.escape(folder)}(?![\w.-])", text, names, lambda path: REST)
    return _replaced(ABSOLUTE, text, names, lambda path: f"{REST}/{re.split(PARTS, path.rstrip('/'))[-1]}")


def _replaced(pattern: str, text: str, kept: str, by: Callable[[str], str]) -> str:
    """A text with what matches a pattern replaced, except what matches ``kept``."""
    return re.sub(rf"({kept})|{pattern}", lambda found: found[0] if found[1] is not None else by(found[0]), text)


def without_paths_in(value: JsonValue, folders: Sequence[str]) -> JsonValue:
    """The same for every text in a value."""
    if isinstance(value, str):
        return without_paths(value, folders)
    if isinstance(value, list):
        return [without_paths_in(one, folders) for one in value]
    if isinstance(value, dict):
        return {key: without_paths_in(one, folders) for key, one in value.items()}
    return value


def shared(provenance: Provenance, folders: Sequence[str]) -> Provenance:
    """The facts about a training that an export shows others."""
    return Provenance.model_validate(without_paths_in(provenance.model_dump(mode="json"), folders))


def has_path(value: JsonValue) -> bool:
    """Whether a text in a value holds an absolute path."""
    return without_paths_in(value, ()) != value

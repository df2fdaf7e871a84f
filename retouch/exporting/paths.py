"""Paths of this machine: in an export, only their last part is left, such as ``…/pictures``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath

from pydantic import JsonValue

from common.encoders.hub import on_hub
from common.encoders.provenance import Provenance
from common.encoders.readme import plain
from common.files import in_full

REST = "…"  # replaces the folders that are removed; no path begins with it
END = r"""[^\s"'`,;:()<>\[\]{}|]+"""  # of a path, up to a character that may belong to the text around it
BEFORE = rf"(?<![\w./~{REST}*-])"  # no path begins inside a word, a relative path or an address
AFTER = r"(?![\w/\\-]|\.\w)"  # no path or name ends inside a longer one
ABSOLUTE = rf"{BEFORE}/(?!/){END}|(?<!\w)[A-Za-z]:[\\/](?!/){END}|\\\\[\w.-]+\\{END}"
PARTS = r"[\\/]+"  # separates the parts of a path
NOTHING = r"(?!)"  # never matches
SCHEME = re.compile(r"^[a-z]\w+:(?!/?/?$)")  # of a source, such as folder:


def folders_of(named: Iterable[str | Path | None]) -> list[str]:
    """Folders of this machine: the parents of these paths and sources, the home and the working folder; longest first.

    A path below a known folder may contain spaces.
    """
    texts = [SCHEME.sub("", str(one)) for one in named if one is not None and not on_hub(str(one))]
    around = [str(PurePath(text).parent) for text in texts if PurePath(text).is_absolute()]
    found = {*around, str(in_full("~")), str(Path.cwd())} - {"~", Path("/").anchor}
    return sorted(found, key=len, reverse=True)


def in_markdown(texts: Iterable[str]) -> list[str]:
    """Folders or names as they are and as escaped in a model card, longest first."""
    return sorted({form for text in texts for form in (text, plain(text))}, key=len, reverse=True)


def without_paths(text: str, folders: Sequence[str], kept: Sequence[str] = ()) -> str:
    """A text with ``…`` in place of the folders of every absolute path.

    Args:
        folders: from ``folders_of`` or ``in_markdown``.
        kept: texts that may look like paths but are not, such as class names; longest first.
    """
    like_paths = [re.escape(name) for name in kept if name and without_paths(name, folders) != name]
    names = rf"(?<![\w/])(?:{'|'.join(like_paths) or NOTHING}){AFTER}"
    text = re.sub(r"file:/+", "/", text)
    for folder in folders:
        text = _replaced(rf"{BEFORE}{re.escape(folder)}(?![\w.-])", text, names, lambda path: REST)
    return _replaced(ABSOLUTE, text, names, lambda path: f"{REST}/{re.split(PARTS, path.rstrip('/'))[-1]}")


def _replaced(pattern: str, text: str, kept: str, by: Callable[[str], str]) -> str:
    """A text in which matches of a pattern are replaced, except matches of ``kept``."""
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
    """The provenance as it is written to an export, without paths of this machine."""
    return Provenance.model_validate(without_paths_in(provenance.model_dump(mode="json"), folders))


def has_path(value: JsonValue) -> bool:
    """Whether a text in a value holds an absolute path."""
    return without_paths_in(value, ()) != value

"""Paths of this machine: what an export tells others names their last part alone, as ``…/pictures``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePath

from pydantic import JsonValue

from common.encoders.hub import on_hub
from common.encoders.provenance import Provenance

REST = "…"  # stands for the folders that are left out; no path begins so
END = r"""[^\s"'`,;:()<>\[\]{}|]+"""  # of a path, as far as it can be told from the text around it
BEFORE = rf"(?<![\w./~{REST}*-])"  # no path begins in the middle of a word, of a relative path or of an address
ABSOLUTE = re.compile(rf"{BEFORE}/(?!/){END}|(?<!\w)[A-Za-z]:[\\/](?!/){END}|\\\\[\w.-]+\\{END}")
SCHEME = re.compile(r"^[a-z]\w+:(?!/?/?$)")  # of a source, such as folder:


def folders_of(named: Iterable[str | Path | None]) -> list[str]:
    """Folders of this machine: those around these paths and sources, the longest first.

    With the home and the working folder. Where they are known, a path may have spaces.
    """
    texts = [SCHEME.sub("", str(one)) for one in named if one is not None and not on_hub(str(one))]
    around = [str(PurePath(text).parent) for text in texts if PurePath(text).is_absolute()]
    found = {*around, str(Path.home()), str(Path.cwd())} - {Path("/").anchor}
    return sorted(found, key=len, reverse=True)


def without_paths(text: str, folders: Sequence[str], kept: Collection[str] = ()) -> str:
    """A text with ``…`` in place of the folders of every absolute path.

    Args:
        folders: of ``folders_of``.
        kept: what looks like a path and is none, such as the name of a class.
    """
    text = re.sub(r"file:/+", "/", text)
    for folder in folders:
        text = re.sub(rf"{BEFORE}{re.escape(folder)}(?![\w.-])", REST, text)

    def last(found: re.Match[str]) -> str:
        path = found[0]
        name = re.split(r"[\\/]+", path.rstrip("/"))[-1]
        return path if path in kept else f"{REST}/{name}"

    return ABSOLUTE.sub(last, text)


def without_paths_in(value: JsonValue, folders: Sequence[str]) -> JsonValue:
    """The same of every text in a value."""
    if isinstance(value, str):
        return without_paths(value, folders)
    if isinstance(value, list):
        return [without_paths_in(one, folders) for one in value]
    if isinstance(value, dict):
        return {key: without_paths_in(one, folders) for key, one in value.items()}
    return value


def shared(provenance: Provenance, folders: Sequence[str]) -> Provenance:
    """What others are told of a training."""
    return Provenance.model_validate(without_paths_in(provenance.model_dump(mode="json"), folders))


def has_path(value: JsonValue) -> bool:
    """Whether a text in a value holds an absolute path."""
    return without_paths_in(value, ()) != value

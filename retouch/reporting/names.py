"""Short names of data for running text: the part about data has the whole paths."""

from __future__ import annotations

import re
from pathlib import PurePath

from common.data.build import SOURCES
from common.data.split import BESIDES, split_of

PART = re.compile(r"(.*) (\([^()]*\))")  # of the images of a source
MANY = re.compile(r"[*?]")  # in a name that stands for several files; folders may have brackets
HERE = "the current folder"  # as it was for the run
SUFFIXES = {suffix for scheme in SOURCES.values() for suffix in scheme.suffixes}


def data_name(source: str) -> str:
    """The data that a source names, in a word: ``cifar10`` for ``parquet:/data/cifar10/test-*.parquet``."""
    whole, _ = _parted(source)
    scheme, _, rest = whole.partition(":")
    if scheme == "patches":
        return data_name(rest)
    if scheme not in SOURCES:
        return _name_of(whole) or HERE
    if scheme == "hf":
        rest = rest.partition(":")[0]
    elif not SOURCES[scheme].path:
        return rest.partition(":")[0] if scheme in ("torchvision", "memory") else scheme
    return _name_of(rest) or (HERE if rest.startswith(".") else scheme)


def in_text(source: str) -> str:
    """A source in a sentence: its name for files of this machine, and which part of them; all else as it is."""
    whole, part = _parted(source)
    scheme = whole.partition(":")[0]
    files = scheme not in SOURCES or (SOURCES[scheme].path and not SOURCES[scheme].remote)
    return f"{data_name(source)}{part and f' {part}'}" if files else source


def _parted(source: str) -> tuple[str, str]:
    """A source, and in brackets, which part of it."""
    found = PART.fullmatch(source)
    return (found[1], found[2]) if found else (source, "")


def _name_of(path: str) -> str:
    """The last part of a path that is neither the name of a split nor that of many files."""
    parts = [part for part in PurePath(path).parts if part.strip("/\\.")]
    for part in reversed(parts):
        stem = part.rpartition(".")[0] if PurePath(part).suffix in SUFFIXES else part
        if not (MANY.search(part) or split_of(stem) or stem.lower() in BESIDES):
            return stem
    return parts[-1] if parts else ""

"""Short names of data for running text: the part about data has the whole paths."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath
from posixpath import normpath

from common.data.build import SOURCES
from common.data.split import BESIDES, split_of

# of the images of a source, as the stages write it; a folder may have a name that ends in brackets
PART = re.compile(r"(.*) (\((?:\d+% (?:for training|for testing|held out), seed \d+|train|test)\))")
MANY = re.compile(r"[*?]")  # in a name that stands for several files; folders may have brackets
SHARD = re.compile(r"(?:[-_.]|^)\d+-of-\d+(?:-[0-9a-f]{16})?$|^\d+$")  # which one of several files it is
REVISION = re.compile(r"[0-9a-f]{40}")  # of a repository, in the Hub's cache
CACHED = re.compile(r"datasets--(?:.*--)?(.+)")  # a data set of the Hub there
LAYOUT = {*BESIDES, "snapshots", "default", "plain_text"}  # folders of the Hub that name no data
HERE, ABOVE, HIGHER = "the current folder", "the parent folder", "a folder above"  # as it was for the run
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
    return _name_of(rest) or scheme


def in_text(source: str) -> str:
    """A source in a sentence: its name for files of this machine, and which part of them; all else as it is."""
    whole, part = _parted(source)
    scheme = whole.partition(":")[0]
    files = scheme not in SOURCES or (SOURCES[scheme].path and not SOURCES[scheme].remote)
    return f"{data_name(source)}{part and f' {part}'}" if files else source


def names_apart(sources: Iterable[str]) -> dict[str, str]:
    """The name of each source; data that would share a name with others have their whole source instead."""
    named: dict[str, set[str]] = {}
    sources = tuple(sources)
    for source in sources:
        named.setdefault(data_name(source), set()).add(_whole(source))
    return {one: name if len(named[name := data_name(one)]) == 1 else _whole(one) for one in sources}


def _whole(source: str) -> str:
    """What distinguishes its data from others: neither a split nor a part, nor how many images are generated."""
    whole, _ = _parted(source)
    scheme, _, rest = whole.partition(":")
    if scheme in SOURCES and scheme != "patches" and not SOURCES[scheme].path:
        return data_name(source)
    return f"{scheme}:{rest.partition(':')[0]}" if scheme == "hf" else whole


def _parted(source: str) -> tuple[str, str]:
    """A source, and in brackets, which part of it."""
    found = PART.fullmatch(source)
    return (found[1], found[2]) if found else (source, "")


def _name_of(path: str) -> str:
    """The last part of a path that names data: not a split, not one of many files, not a folder of the Hub's layout."""
    path = normpath(path)
    parts = [part for part in PurePath(path).parts if part.strip("/\\")]
    if path == "." or parts[-1:] == [".."]:
        return [HERE, ABOVE, HIGHER][min(len(parts), 2)]
    stems = [_stem(part) for part in parts if part != ".." and not MANY.search(part)]
    for stem in reversed(stems):
        if stem and not (split_of(stem) or stem.lower() in LAYOUT or REVISION.fullmatch(stem)):
            return stem
    if stems:
        return stems[-1] or parts[-1]
    return HERE if parts else ""


def _stem(part: str) -> str:
    """A part of a path without the suffix of a source, and without the number of one of several files."""
    if (cached := CACHED.fullmatch(part)) is not None:
        return cached[1]
    file = PurePath(part).suffix.lower() in SUFFIXES
    stem = part[: part.rindex(".")] if file else part
    return SHARD.sub("", stem) if file and part.lower().endswith(".parquet") else stem

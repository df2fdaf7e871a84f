"""What the footers of parquet files say before they are read: which have rows, and how they number their classes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.data.split import first
from common.errors import UserError, reason_of


def with_rows(spec: str, files: Sequence[str]) -> list[str]:
    """The ``files`` that have rows, according to their footers.

    Raises:
        UserError: a file is not readable, none has rows, or two number the classes of a column in different ways, of
            which `datasets` would take the first for both.
    """
    footers, problems = _footers(spec, {file: file for file in files})
    _refuse(spec, problems + _numbered_differently(spec, footers))
    if not footers:
        raise UserError(f"{spec}: no rows in {', '.join(files[:3])}{' and others' if len(files) > 3 else ''}")
    return list(footers)


def check_shards(spec: str, files: Mapping[str, str]) -> None:
    """Files of one table, by the name that a user knows, must number their classes alike: a number has one meaning.

    Raises:
        UserError: two do not.
    """
    _refuse(spec, _numbered_differently(spec, _footers(spec, files)[0]))


def _footers(spec: str, files: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The footers of the files that have rows, and what is wrong with the others."""
    footers, problems = {}, []
    for name, file in files.items():
        try:
            footer = pq.read_metadata(file)
        except (OSError, pa.ArrowException) as error:
            problems.append(f"{spec}: {name} is not readable as parquet: {reason_of(error)}")
            continue
        if footer.num_rows:
            footers[name] = footer
    return footers, problems


def _numbered_differently(spec: str, footers: Mapping[str, Any]) -> list[str]:
    problems = []
    classes: dict[str, tuple[str, list[str]]] = {}  # of each column: the first file that lists them, and their names
    for file, footer in footers.items():
        for column, names in _class_names(footer).items():
            before, known = classes.setdefault(column, (file, names))
            if names != known:
                problems.append(
                    f"{spec}: {before} and {file} number the classes of {column!r} differently ({first(known)}; "
                    f"{first(names)}): use one as data.test, or write both with the same list of classes"
                )
    return problems


def _refuse(spec: str, problems: list[str]) -> None:
    if problems:
        more = [f"{spec}: and {len(problems) - 3} more files"] if len(problems) > 3 else []
        raise UserError(*problems[:3], *more)


def _class_names(footer: Any) -> dict[str, list[str]]:
    """The classes that `datasets` has written into the footer of a parquet file, by column."""
    try:
        note = json.loads((footer.metadata or {}).get(b"huggingface", b"{}"))
        features = note["info"]["features"].items()
    except (ValueError, KeyError, TypeError, AttributeError):  # of another program, or damaged
        return {}
    return {name: one["names"] for name, one in features if isinstance(one, dict) and "names" in one}

"""`csv:PATH` and `list:PATH`: images named in a file, one per line, with labels next to them.

Paths are relative to the folder of the file or, if the first image is not there, to the working folder. A listed file
that is missing counts as an unreadable image. A line that starts with ``#`` is a comment, unless there is such a file.
"""

from __future__ import annotations

import codecs
import csv
import io
import logging
import os
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.data.columns import (
    IMAGE_COLUMNS,
    ColumnSource,
    choose_rows,
    may_name_splits,
    only,
    without_label,
)
from common.data.decode import image_suffixes, open_image
from common.data.names import Names
from common.data.request import Request
from common.data.source import Labels, Source, class_name, digest
from common.data.split import split_of
from common.data.words import MISSING
from common.errors import UserError, one_line
from common.files import in_full
from common.runs.logs import say_once

PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image_path", *IMAGE_COLUMNS)


class Table(NamedTuple):
    """The rows of a file: paths of images, and other columns by name."""

    paths: list[str]
    columns: dict[str, list[str]]

    def only(self, rows: Sequence[int]) -> Table:
        """Some rows of it."""
        columns = {name: [cells[row] for row in rows] for name, cells in self.columns.items()}
        return Table([self.paths[row] for row in rows], columns)


class ListSource(ColumnSource):
    """The images of a table, in its order.

    Args:
        root: the folder that paths are relative to.
        label: the column that the user named.

    Raises:
        UserError: there is no such column.
    """

    test: ListSource | None = None

    def __init__(self, spec: str, table: Table, root: Path, label: str | None = None) -> None:
        self.spec, self.root, self.paths = spec, root, Names(table.paths)
        if label is not None and label not in table.columns:
            known = f"it has {', '.join(table.columns)}" if table.columns else "it has no labels"
            raise UserError(f"{spec}: data.label: no column {label!r}; {known}")
        self._labels = {name: _classes(cells) for name, cells in table.columns.items()}
        # the first row may have no mask
        self._files = {name: cells for name, cells in table.columns.items() if _is_image(next(filter(None, cells), ""))}
        self.mask_columns = tuple(self._files)
        self._choose_tasks(self._labels, (), label)

    @cached_property
    def fingerprint(self) -> str:
        parts: list[object] = []
        for index, path in enumerate(self.paths):
            try:
                status = os.stat(self.where(index))  # noqa: PTH116 -- a million times
            except OSError:  # unreadable
                parts += (path, "missing")
            else:
                parts += (path, status.st_size, status.st_mtime_ns)
        for name, (values, names) in self._labels.items():
            parts += (name, *names, values.numpy().tobytes())
        return digest(parts)

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Image.Image | Tensor:
        return open_image(self.where(index))

    def where(self, index: int) -> str:
        return str(self.root / self.paths[index])  # an absolute path stays as it is

    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        task = self.resolve(task)
        values, names = self._labels[task]
        if missing := int((values < 0).sum()):
            raise UserError(without_label(self.spec, missing, len(self), task))
        if double := self._with_two_labels(task):
            say_once(
                logging.WARNING,
                f"{self.spec}: {len(double):,} images are listed with different labels in column {task!r}, such as "
                f"{double[0]}: if images have several labels, list each once and set data.labels={task}",
            )
        return Labels(values if rows is None else values[rows], names, task)

    def _with_two_labels(self, task: str) -> list[str]:
        """The paths that are listed more than once, and not with the same label."""
        known: dict[str, int] = {}
        values = self._labels[task][0].tolist()
        double = [
            path for path, value in zip(self.paths, values, strict=True) if known.setdefault(path, value) != value
        ]
        return list(dict.fromkeys(double))

    def masks(self, column: str) -> Source:
        """The masks that a column names.

        Raises:
            UserError: rows have none.
        """
        cells = self._files[column]
        if empty := [self.paths[row] for row, cell in enumerate(cells) if not cell]:
            raise UserError(
                f"{self.spec}: {len(empty):,} of {len(cells):,} rows have no mask in column {column!r}, such as "
                f"that of {empty[0]}: leave these rows out"
            )
        return ListSource(f"{self.spec} ({column})", Table([_native(cell) for cell in cells], {}), self.root)

    def _column(self, name: str) -> list[str] | None:
        if name not in self._labels:
            return None
        values, names = self._labels[name]
        return [names[value] if value >= 0 else "" for value in values.tolist()]

    def published_test(self) -> Source | None:
        """Its rows whose split is test, where a column gives the split of every row."""
        return self.test

    def _different(self, column: str) -> int:
        return len(self._labels[column][1])


def list_source(request: Request) -> ListSource:
    """``csv:PATH`` (a table with a header) or ``list:PATH`` (a path per line, and perhaps a label after it).

    Rows of a table whose column ``split`` names splits are those splits, as for folders; so are the rows of a list in
    which splits stand after the paths.

    Raises:
        UserError: the file cannot be read, or a column is missing, or not clear.
    """
    spec, label = request.spec, request.label
    file = in_full(request.rest)
    text = _text(spec, file)

    def exists(path: str) -> bool:
        return any(os.path.exists(folder / _native(path)) for folder in (file.parent, Path()))  # noqa: PTH110 -- of any length

    table = _table(spec, text, request.image, exists) if request.scheme == "csv" else _list(text, label, exists)
    if not table.paths:
        raise UserError(f"{spec}: no images are listed in {file.absolute()}")
    if "://" in table.paths[0]:
        raise UserError(f"{spec} lists addresses, such as {table.paths[0]}: download the images, and list their paths")
    _check_text(spec, table, exists)
    table.paths[:] = map(_native, table.paths)
    root = file.parent
    if not (root / table.paths[0]).exists() and Path(table.paths[0]).exists():
        root = Path()
    maybe = {name: cells for name, cells in table.columns.items() if name != label and may_name_splits(name)}
    chosen = choose_rows(spec, maybe, request.split)
    for name in chosen.columns:
        del table.columns[name]
    source = ListSource(spec, table if chosen.rows is None else table.only(chosen.rows), root, label)
    if chosen.test is not None:
        source.test = ListSource(f"{spec} (test)", table.only(chosen.test), root, label)
    return source


def one_image(request: Request) -> ListSource:
    """The image in one file, as a source of its own."""
    file = in_full(request.rest)
    return ListSource(request.spec, Table([file.name], {}), file.parent)


def _native(path: str) -> str:
    """A path as this machine writes it, with the home folder in full."""
    path = os.fsdecode(path.encode("utf-8", "surrogateescape"))
    return os.path.expanduser(path) if path.startswith("~/") else path  # noqa: PTH111 -- a million times


def _check_text(spec: str, table: Table, exists: Callable[[str], bool]) -> None:
    """Refuse what is not UTF-8, except in names of files: these may have any bytes.

    Raises:
        UserError: names the column, or the first file that is not there.
    """
    foreign = [name for name, cells in table.columns.items() if not _is_text(name, *cells)]
    problems = [f"{spec}: column {one!a} is not in UTF-8: save the file as UTF-8" for one in foreign]
    path = None if _is_text(*table.paths) else next(path for path in table.paths if not _is_text(path))
    if path is not None and not exists(path):
        problems.append(f"{spec}: the path {path!a} is not in UTF-8, and there is no such file: save it as UTF-8")
    if problems:
        raise UserError(*problems)


def _is_text(*cells: str) -> bool:
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(spec: str, file: Path) -> str:
    try:
        data = file.read_bytes()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = data.decode("utf-16")
        else:
            text = data.decode("utf-8-sig", "surrogateescape")  # a file name may have any bytes
    except UnicodeDecodeError:
        raise UserError(f"{spec}: {file.absolute()} is not readable as UTF-16: save it as UTF-8") from None
    except FileNotFoundError:
        raise UserError(f"{spec}: no such file: {file.absolute()}") from None
    except OSError as error:
        raise UserError(f"{spec}: {file.absolute()} cannot be read: {error.strerror}") from None
    if "\0" in text:  # no path has one
        line = text[: text.index("\0")].count("\n") + 1
        raise UserError(
            f"{spec}: {file.absolute()} has a zero byte in line {line}, so it is not UTF-8 text: save it as UTF-8"
        )
    return text


def _list(text: str, label: str | None, exists: Callable[[str], bool]) -> Table:
    """A path per line, perhaps in quotes; what follows its suffix, after a space, comma or tab, is its label."""
    suffixes = "|".join(re.escape(suffix) for suffix in image_suffixes())
    form = re.compile(rf"([\"']?)(.*(?:{suffixes}))\1(?:[\s,;]+(\S.*))?", re.IGNORECASE)
    paths, labels = [], []
    for line in filter(None, map(str.strip, re.split("[\r\n]+", text))):
        found = form.fullmatch(line)
        path = line if found is None else found[2]
        if not line.startswith("#") or exists(path):
            paths.append(path)
            labels.append("" if found is None else found[3] or "")
    if not any(labels):
        return Table(paths, {})
    splits = {split_of(one) for one in set(labels)} - {None}
    return Table(paths, {"split" if label is None and len(splits) > 1 else "label": labels})


def _table(spec: str, text: str, image: str | None, exists: Callable[[str], bool]) -> Table:
    says = re.match(r"sep=(.)\r?\n", text)  # what Excel writes above a table
    text = text[says.end() :] if says else text
    first = next((line for line in text.split("\n") if line.strip() and not line.startswith("#")), "")
    delimiter = says[1] if says else max(",;\t|", key=first.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
        rows = [row for row in rows if not row[0].startswith("#") or any(map(exists, row))]
    except csv.Error as error:
        raise UserError(f"{spec} is not readable as CSV: {one_line(error)}") from None
    if not rows:
        raise UserError(f"{spec}: the file is empty")
    if any(map(_is_image, rows[0])):  # no header
        others = ["label"] if len(rows[0]) == 2 else [f"column {number}" for number in range(1, len(rows[0]) + 1)]
        rows.insert(0, ["path" if _is_image(cell) else others.pop(0) for cell in rows[0]])
    names, *cells = [[cell.strip() for cell in row] for row in rows]
    if len(set(names)) < len(names):
        raise UserError(f"{spec}: two columns have the same name: {', '.join(names)}")
    uneven = [number for number, row in enumerate(cells, start=2) if len(row) != len(names)]
    if uneven:
        raise UserError(
            f"{spec}: {len(uneven)} rows, the first of them number {uneven[0]}, have a different number of cells than "
            f"the {len(names)} columns {', '.join(names)}"
        )
    columns = {name: [row[place] for row in cells] for place, name in enumerate(names)}
    chosen = _path_column(spec, columns, image)
    return Table(columns.pop(chosen), columns)


def _path_column(spec: str, columns: dict[str, list[str]], image: str | None) -> str:
    """The column of paths: the one that the user names, that is called so, or whose first cell ends like an image."""
    if image is not None:
        if image not in columns:
            raise UserError(f"{spec}: data.image: no column {image!r}; it has {', '.join(columns)}")
        return image
    usual = [name for known in PATH_COLUMNS for name in columns if name.lower() == known]
    ending = [name for name, cells in columns.items() if cells and _is_image(cells[0])]
    found = only(ending, tuple(usual)) or next(iter(usual), None)
    if found is None:
        what = "several columns hold" if ending else "no column holds"
        raise UserError(
            f"{spec}: {what} paths of images: {', '.join(ending or columns)}; set data.image to one of them"
        )
    return found


def _is_image(cell: str) -> bool:
    return os.path.splitext(cell.strip())[1].lower() in image_suffixes()  # noqa: PTH122


def _classes(cells: list[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Labels in words -> the class of each row, -1 where there is none, and the sorted names of the classes."""
    words = [class_name(cell) for cell in cells]
    given = {word for word in words if word not in MISSING}
    names = sorted(given, key=int) if all(re.fullmatch("[0-9]+", word) for word in given) else sorted(given)
    number = {name: index for index, name in enumerate(names)}
    return torch.from_numpy(np.array([number.get(word, -1) for word in words], np.int64)), tuple(names)

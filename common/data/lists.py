"""`csv:PATH` and `list:PATH`: images named in a file, one per line, with labels beside them.

Paths are relative to the folder of the file or, if the first image is not there, to the working folder. A listed file
that is missing counts as an unreadable image.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.data.columns import IMAGE_COLUMNS, ColumnSource, only
from common.data.decode import image_suffixes, open_image
from common.data.names import Names
from common.data.source import Labels, Source, class_name, digest
from common.data.split import Split, choose_split, split_of
from common.errors import UserError, one_line

PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image_path", *IMAGE_COLUMNS)
SPLIT_COLUMNS = ("split", "set", "subset", "partition")


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
        self._choose_tasks(self._labels, (), label)

    @cached_property
    def fingerprint(self) -> str:
        parts: list[object] = []
        for index, path in enumerate(self.paths):
            try:
                status = os.stat(self.where(index))  # noqa: PTH116 -- a million times
            except OSError:  # unreadable
                parts += (os.fsencode(path), "missing")
            else:
                parts += (os.fsencode(path), status.st_size, status.st_mtime_ns)
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
            raise UserError(f"{self.spec}: {missing} of {len(self)} rows have no label in column {task!r}")
        return Labels(values if rows is None else values[rows], names, task)

    def published_test(self) -> Source | None:
        """Its rows whose split is test, where a column says of every row to which split it belongs."""
        return self.test

    def _different(self, column: str) -> int:
        return len(self._labels[column][1])


def list_source(spec: str, path: str, split: str, image: str | None = None, label: str | None = None) -> ListSource:
    """Open ``csv:PATH`` (a table with a header) or ``list:PATH`` (a path per line, and perhaps a label after it).

    Rows of a CSV whose column ``split`` names splits are those splits, as for folders.

    Args:
        image: the column of paths, if it is not the obvious one.
        label: the column of labels, if it is not the obvious one.

    Raises:
        UserError: the file cannot be read, or a column is missing, or not clear.
    """
    file = Path(path).expanduser()
    text = _text(spec, file)
    table = _table(spec, text, image) if spec.startswith("csv:") else _list(text)
    if not table.paths:
        raise UserError(f"{spec}: no images are listed in {file.absolute()}")
    if "://" in table.paths[0]:
        raise UserError(f"{spec} lists addresses, such as {table.paths[0]}: download the images, and list their paths")
    root = file.parent
    if not (root / table.paths[0]).exists() and Path(table.paths[0]).exists():
        root = Path()
    column = next((name for name in table.columns if name.lower() in SPLIT_COLUMNS), None)
    rows = _split_rows(table.columns[column]) if column else {}
    if not column or not rows:
        return ListSource(spec, table, root, label)
    del table.columns[column]
    chosen, test = choose_split(rows, split)
    if chosen is None:
        raise UserError(f"{spec}: no rows of {split} among its splits {', '.join(rows)}")
    source = ListSource(spec, table.only(chosen), root, label)
    source.test = None if test is None else ListSource(f"{spec} (test)", table.only(test), root, label)
    return source


def _text(spec: str, file: Path) -> str:
    try:
        # a file name may have any bytes
        return file.read_bytes().decode("utf-8-sig", "surrogateescape")
    except FileNotFoundError:
        raise UserError(f"{spec}: no such file: {file.absolute()}") from None
    except OSError as error:
        raise UserError(f"{spec}: {file.absolute()} cannot be read: {error.strerror}") from None


def _list(text: str) -> Table:
    """A path per line; what follows its suffix, after a space, comma or tab, is its label."""
    suffixes = "|".join(re.escape(suffix) for suffix in image_suffixes())
    form = re.compile(rf"(.*(?:{suffixes}))(?:[\s,;]+(\S.*))?", re.IGNORECASE)
    lines = [line.strip() for line in text.split("\n") if line.strip() and not line.startswith("#")]
    found = [form.fullmatch(line) for line in lines]
    labels = [None if one is None else one[2] for one in found]
    paths = [line if one is None else one[1] for line, one in zip(lines, found, strict=True)]
    return Table(paths, {"label": [label or "" for label in labels]} if any(labels) else {})


def _table(spec: str, text: str, image: str | None) -> Table:
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
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
            f"{spec}: {len(uneven)} rows, the first of them number {uneven[0]}, have another number of cells than "
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


def _split_rows(cells: list[str]) -> dict[Split, list[int]]:
    """The rows of each split; none if a row names no split, or all name the same."""
    rows: dict[Split, list[int]] = {}
    for row, cell in enumerate(cells):
        name = split_of(cell)
        if name is None:
            return {}
        rows.setdefault(name, []).append(row)
    return rows if len(rows) > 1 else {}


def _classes(cells: list[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Labels in words -> the class of each row, -1 where it is empty, and the sorted names of the classes."""
    words = [class_name(cell) for cell in cells]
    given = {word for word in words if word}
    names = sorted(given, key=int) if all(re.fullmatch("[0-9]+", word) for word in given) else sorted(given)
    number = {name: index for index, name in enumerate(names)}
    return torch.from_numpy(np.array([number.get(word, -1) for word in words], np.int64)), tuple(names)

"""`parquet:GLOB`: tables with a column of images, read through Hugging Face `datasets`.

`datasets` keeps a memory-mapped copy in its cache, so any row of a table larger than memory can be read directly.
"""

from __future__ import annotations

import glob
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.data.columns import (
    IMAGE_COLUMNS,
    ChosenRows,
    ColumnSource,
    choose_rows,
    may_name_splits,
    only,
    without_label,
)
from common.data.decode import image_suffixes, open_image
from common.data.footers import with_rows
from common.data.listing import in_run_folder
from common.data.request import Request
from common.data.source import Labels, Source, class_name, digest
from common.data.split import Split, choose_split, first, split_of
from common.data.words import MISSING
from common.errors import UserError, reason_of
from common.files import in_full, stream_at
from common.runs.logs import say_once

log = logging.getLogger("retouch")


class TableSource(ColumnSource):
    """Rows of a `datasets` table. ``image`` and ``label`` name columns; by default, the obvious ones are used.

    Args:
        rows: those that are used; ``None`` for all.
        root: the folder of the table. Paths in it are relative to this or, where there is no file, to the working one.

    Raises:
        UserError: there is no column of that name, or not exactly one candidate for images.
    """

    test: Callable[[], Source] | None = None

    def __init__(
        self,
        spec: str,
        table: Any,
        identity: str,
        image: str | None = None,
        label: str | None = None,
        rows: Sequence[int] | None = None,
        root: str = "",
    ) -> None:
        self.spec, self._identity, self._root = spec, identity, root
        self._rows = None if rows is None else np.asarray(rows)
        table = table if rows is None else table.select(rows)
        images = [name for name, feature in table.features.items() if _holds_images(feature)]
        tasks = [name for name, feature in table.features.items() if _holds_labels(feature)]
        problems = []
        self._image = image or only(images, IMAGE_COLUMNS)
        if image is not None and image not in images:
            problems.append(f"data.image: {_wrong_column(image, table, images, 'images')}")
        elif not images:
            problems.append(f"no column holds images; it has {_kinds(table)}{_hint_of_paths(table)}")
        elif self._image is None:
            problems.append(f"several columns hold images: {', '.join(images)}; set data.image to one of them")
        if label is not None and label not in tasks:
            problems.append(f"data.label: {_wrong_column(label, table, tasks, 'labels')}")
        if problems:
            raise UserError(*(f"{spec}: {problem}" for problem in problems))
        classes = [name for name in tasks if isinstance(table.features[name], datasets.ClassLabel)]
        self._choose_tasks(tasks, classes, label)
        self._kinds = _kinds(table)
        # of several labels per image: lists, and columns of 0 and 1 with a decimal point
        features = table.features.items()
        more = [name for name, feature in features if _holds_lists(feature) or _is_value(feature, "float")]
        self._table = table.select_columns([self._image, *tasks, *more])
        if isinstance(table.features[self._image], datasets.Image):
            self._table = self._table.cast_column(self._image, datasets.Image(decode=False))
        self._images = self._table.select_columns([self._image])
        self.mask_columns = tuple(name for name in images if name != self._image)
        self._masks = table.select_columns([*self.mask_columns]) if self.mask_columns else None

    def published_test(self) -> Source | None:
        """The files of its test split, or the rows that are of it, where those of several splits were named."""
        return None if self.test is None else self.test()

    @cached_property
    def fingerprint(self) -> str:
        rows = [] if self._rows is None else [self._rows.tobytes()]
        return digest([self._identity, len(self), self._image, *self.tasks, *rows])

    def __len__(self) -> int:
        return len(self._table)

    def image(self, index: int) -> Image.Image | Tensor:
        cell = self._images[index][self._image]
        if isinstance(cell, dict):
            cell = cell["bytes"] or self._path(cell["path"])
        if not cell:
            raise ValueError("the row holds no image")
        return open_image(cell)

    def masks(self, column: str) -> Source:
        found = TableSource(f"{self.spec} ({column})", self._masks, self._identity, column, root=self._root)
        found._rows = self._rows
        return found

    def _path(self, path: str | None) -> str | None:
        local = os.path.join(self._root, path or "")  # noqa: PTH118 -- by image
        return local if path and os.path.exists(local) else path  # noqa: PTH110

    def where(self, index: int) -> str:
        return f"{self.spec}[{index if self._rows is None else self._rows[index]}]"

    def resolve(self, task: str | None) -> str:
        if not self.tasks:
            hint = "; whole numbers of which some are missing are floats: leave these rows out" * (
                "float" in self._kinds
            )
            raise UserError(
                f"{self.spec} has no labels, but labels are needed here: no column holds whole numbers, words, or true "
                f"and false; it has {self._kinds}{hint}"
            )
        return super().resolve(task)

    def _column(self, name: str) -> list[object] | None:
        if name == self._image or name not in self._table.column_names:
            return None
        feature = self._table.features[name]
        listed = _holds_lists(feature)
        kind = feature.feature if listed else feature
        names = dict(enumerate(kind.names)) if isinstance(kind, datasets.ClassLabel) else None
        cells = list(self._table[name])
        if names is None:
            return cells
        return [[names.get(one) for one in cell or []] if listed else names.get(cell) for cell in cells]

    def _different(self, column: str) -> int:
        return len(self._table.unique(column))

    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        task = self.resolve(task)
        cells = self._table.select_columns([task]).to_pandas()[task]
        feature = self._table.features[task]
        if isinstance(feature, datasets.ClassLabel):
            missing = cells.isna() | (cells < 0)
            listed = [class_name(name) for name in feature.names]
            given = cells.where(~missing, 0).astype(int).map(dict(enumerate(listed)))
            names = list(dict.fromkeys(listed))  # in the order of the file, with or without images
        else:
            given = cells.map(lambda cell: class_name(cell) if isinstance(cell, str) else cell)
            missing = cells.isna() | given.isin(MISSING)
            names = sorted(given[~missing].unique())
        if missing.any():
            raise UserError(without_label(self.spec, int(missing.sum()), len(self), task))
        numbers = {name: number for number, name in enumerate(names)}
        chosen = torch.from_numpy(given.map(numbers).to_numpy(np.int64, copy=True))
        return Labels(chosen if rows is None else chosen[rows], tuple(map(str, names)), task)


def parquet_source(request: Request) -> TableSource:
    """``parquet:GLOB``: all matching files, sorted by name (``**`` also matches folders).

    If they are named after splits (``train-00000.parquet``, ``train/0.parquet``), only those of ``split`` are read, and
    those in no split are left out, with a warning. If a column ``split`` names splits, only such rows are used. Files
    in run folders are left out, and those without rows: an empty shard may lack the types of the others.

    Raises:
        UserError: no file matches, one is not a parquet file, or none has rows.
    """
    spec, split = request.spec, request.split
    pattern = str(in_full(request.rest))
    matching = [pattern] if Path(pattern).is_file() else glob.glob(pattern, recursive=True)  # noqa: PTH207
    files = sorted(path for path in matching if Path(path).is_file())
    for path in matching:
        if kind := stream_at(Path(path)):
            log.warning("%s: %s is %s, not a file, and is left out", spec, path, kind)
    if not files:
        folder = Path(pattern)
        hint = f"; for a folder use {spec}/*.parquet" if folder.is_dir() else f" (from {Path.cwd()})"
        hint += "; in a pattern, a [ that is part of a name is written [[]" if "[" in pattern else ""
        raise UserError(f"{spec}: no file matches{hint}")
    own = [file for file in files if in_run_folder(Path(file), _fixed(pattern))]
    if own and len(own) < len(files):
        log.info("%s: %d files written by retouch left out: %s", spec, len(own), ", ".join(own[:3]))
        files = [file for file in files if file not in own]
    parts: dict[Split | None, list[str]] = {}
    for file in files:
        parts.setdefault(_file_split(file), []).append(file)
    named = {name: part for name, part in parts.items() if name is not None}
    if len(named) < 2:
        if None in parts and named.keys() & {"test", "val"}:
            one = next(iter(named.values()))[0]
            say_once(
                logging.WARNING, f"{spec}: {one} is used like the other files; if it is for testing, name the others"
            )
        return _parquet_table(request, files)
    if stray := parts.get(None):
        say_once(logging.WARNING, f"{spec}: files in no split are left out: {first(stray)}")
    chosen, test = choose_split(named, split)
    if chosen is None:
        raise UserError(f"{spec}: no {split} files among those of its splits {', '.join(named)}")
    counts = ", ".join(f"{name} ({len(part)} files)" for name, part in named.items())
    log.info("%s holds the splits %s: %s is used", spec, counts, ", ".join(chosen[:3]))
    source = _parquet_table(request, chosen)
    if test is not None:
        source.test = partial(_parquet_table, replace(request, split="test"), test)
    return source


def _fixed(pattern: str) -> Path:
    """The folder above everything that a glob may match."""
    parts = Path(pattern).parts
    fixed = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:fixed])


def _file_split(file: str) -> Split | None:
    """The split that a file is named after, or its folder."""
    path = Path(file)
    named = {split for word in re.split(r"[-_.]", path.name) if (split := split_of(word)) is not None}
    return named.pop() if len(named) == 1 else split_of(path.parent.name)


def _parquet_table(request: Request, files: list[str]) -> TableSource:
    spec, image, label = request.spec, request.image, request.label
    files = with_rows(spec, files)
    with _quiet():
        try:
            named = [glob.escape(file) for file in files]  # these are patterns, too
            table = datasets.load_dataset("parquet", data_files={"train": named}, split="train")
        except Exception as error:  # its readers raise anything on a foreign or truncated file
            check_cache(spec, None)
            raise UserError(f"{spec} is not readable as parquet: {reason_of(error)}") from None
    status = [(Path(file).name, Path(file).stat()) for file in files]
    parts = [part for name, stat in status for part in (name, stat.st_size, stat.st_mtime_ns)]
    folders = {str(Path(file).parent) for file in files}
    root = folders.pop() if len(folders) == 1 else ""
    table, chosen = rows_of_split(spec, table, request.split, label)
    source = TableSource(spec, table, digest(parts), image, label, chosen.rows, root)
    if chosen.test is not None:
        source.test = partial(TableSource, f"{spec} (test)", table, digest(parts), image, label, chosen.test, root)
    return source


def rows_of_split(spec: str, table: Any, split: str, label: str | None) -> tuple[Any, ChosenRows]:
    """A table without the columns that name splits, and which rows these say to use."""
    maybe = [
        name
        for name, kind in table.features.items()
        if name != label and may_name_splits(name) and isinstance(kind, datasets.Value | datasets.ClassLabel)
    ]
    cells = {name: list(table[name]) for name in maybe}
    for name in maybe:
        if isinstance(table.features[name], datasets.ClassLabel):
            names = table.features[name].names
            cells[name] = [None if cell is None or cell < 0 else names[cell] for cell in cells[name]]
    chosen = choose_rows(spec, cells, split)
    return table.remove_columns(chosen.columns), chosen


def check_cache(spec: str, root: str | None) -> None:
    """Say so if a table could not be loaded because `datasets` cannot write its copy of it.

    Its own error does not say so: a good file looks unreadable.

    Raises:
        UserError: its cache cannot be written.
    """
    cache = Path(root or datasets.config.HF_DATASETS_CACHE)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        setting = "data.root" if root else "HF_HOME"
        raise UserError(
            f"{spec}: `datasets` cannot write its cache {cache} ({error.strerror}); "
            f"set {setting} to a folder that can be written"
        ) from None


def _holds_images(feature: Any) -> bool:
    """An Image feature, raw bytes, or the struct that an Image feature becomes without its metadata."""
    if isinstance(feature, dict):
        return "bytes" in feature and _is_value(feature["bytes"], "binary")
    return isinstance(feature, datasets.Image) or _is_value(feature, "binary")


def _holds_labels(feature: Any) -> bool:
    return isinstance(feature, datasets.ClassLabel) or _is_value(feature, "int", "uint", "string", "bool")


def _holds_lists(feature: Any) -> bool:
    """Lists of labels, of any length."""
    return isinstance(feature, datasets.List | datasets.LargeList) and _holds_labels(feature.feature)


def _is_value(feature: Any, *kinds: str) -> bool:
    return isinstance(feature, datasets.Value) and _base(feature.dtype) in kinds


def _base(dtype: str) -> str:
    """``binary`` for ``large_binary`` and ``binary_view``, ``int`` for ``int64``."""
    return re.sub(r"\d+$", "", dtype).removeprefix("large_").removesuffix("_view")


def _kind(feature: Any) -> str:
    """The type of a column, in a word."""
    if _holds_images(feature):
        return "images"
    return str(feature.dtype) if isinstance(feature, datasets.Value) else type(feature).__name__.lower()


def _kinds(table: Any) -> str:
    return ", ".join(f"{name} ({_kind(feature)})" for name, feature in table.features.items())


def _hint_of_paths(table: Any) -> str:
    """What to do with a column of paths."""
    words = [name for name, feature in table.features.items() if _is_value(feature, "string")]
    paths = [name for name in words if Path(str(table[0][name])).suffix.lower() in image_suffixes()]
    return (
        f"; paths of images, as in {paths[0]}, are read from CSV files: save it as one, and use csv:PATH"
        if paths
        else ""
    )


def _wrong_column(name: str, table: Any, good: list[str], what: str) -> str:
    if name not in table.features:
        return f"no column {name!r}; it has {_columns(table)}"
    return f"column {name!r} does not hold {what}; columns that do: {', '.join(good) or 'none'}"


def _columns(table: Any) -> str:
    return ", ".join(table.features)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bars of `datasets`: a local file takes a moment."""
    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()

"""The source contract: a set of images, labeled or not, read row by row and not yet decoded."""

from __future__ import annotations

import hashlib
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from common.data.levels import Levels, has_deep, source_levels
from common.data.part import Part
from common.errors import UserError


class Labels(NamedTuple):
    """The classes of one task, by row."""

    values: Tensor  # int64 [N], each in 0..len(names) - 1
    names: tuple[str, ...]
    task: str


class MultiLabels(NamedTuple):
    """Labels by row, where an image may have any number of them."""

    values: Tensor  # bool [N L]
    names: tuple[str, ...]
    task: str  # the column, or all of them joined by +


class Source(ABC):
    """A set of images. Opening a source reads no image, and labels are read only by ``labels``.

    Attributes:
        spec: the string the user gave, e.g. ``folder:photos``.
        tasks: names of the labels it has, the default first; empty if unlabeled.
        color_tasks: those of ``tasks`` that need color: an encoder that sees gray only cannot learn them.
        endless: rows are generated, and exist beyond ``len``.
        only_here: images are objects of this program, which only a forked process is sure to have too.
        rows_per_image: neighboring rows that are parts of one image: row i is cut from image ``i // rows_per_image``.
        mask_columns: names of the masks it has.
        mask_names: of a source of masks, the names of the class numbers 0, 1, ..., where it knows them.
    """

    spec: str
    tasks: tuple[str, ...]
    color_tasks: tuple[str, ...] = ()
    endless: bool = False
    only_here: bool = False
    rows_per_image: int = 1
    mask_columns: tuple[str, ...] = ()
    mask_names: tuple[str, ...] = ()

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 in hex that changes whenever the images or labels change. Computed on first use."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image(self, index: int) -> Image.Image | Tensor:
        """One image as stored: PIL, or uint8 ``[3 h w]``. Raises any exception if it cannot be read."""

    @cached_property
    def levels(self) -> Levels | None:
        """Which values are black and white in images of more than 8 bits, measured on a sample; ``None`` for 8 bits."""
        return None if self.endless else source_levels(self)

    def set_levels(self, levels: Levels) -> None:
        """Let the user say which values are black and white, instead of a sample.

        Raises:
            UserError: its images have 8 bits.
        """
        if self.endless or not has_deep(self):
            raise UserError(
                f"data.levels: {self.spec} has images of 8 bits, for which there is nothing to set; remove it"
            )
        self.levels = levels

    def at(self, size: int) -> Source:
        """The same rows generated as squares of ``size`` pixels, if the source can do that; otherwise itself.

        ``load_images`` calls this first, and then resizes whatever does not have that size.
        """
        return self

    def scaled(self, levels: Levels | None) -> Source:
        """The same rows with these black and white, where it makes pixels of the images itself; otherwise itself.

        All other sources give images as stored, of which ``load_images`` makes pixels.
        """
        return self

    def bulk(self, rows: Tensor) -> Tensor | None:
        """Rows ``[b]`` at once as uint8 ``[b 3 h w]``, if that is faster for this source; otherwise ``None``."""
        return None

    @abstractmethod
    def where(self, index: int) -> str:
        """Where the image comes from, in readable form: a path, or a file and a row."""

    @abstractmethod
    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        """Labels of ``task`` (``None``: the default) for all rows, or for ``rows`` ``[b]``.

        Raises:
            UserError: there are no labels or no such task, or some row has no label.
        """

    def multi_labels(self, columns: Sequence[str], rows: Tensor | None = None) -> MultiLabels:
        """Several labels per image, from one column of lists or several of 0 and 1; of all rows or ``rows`` ``[b]``.

        Raises:
            UserError: there are no such columns, or they hold something else.
        """
        raise UserError(
            f"{self.spec}: data.labels names columns of a table; give a CSV file, parquet files or hf:NAME, or remove "
            "it"
        )

    def masks(self, column: str) -> Source:
        """The masks of these rows, one of ``mask_columns``: images whose values are class numbers.

        They are PIL images of one channel; ``bulk``, where there is one, gives uint8 ``[b 1 h w]``.
        """
        raise ValueError(f"{self.spec} has no masks {column!r}")

    def published_test(self) -> Source | None:
        """The test set that belongs to this training set; ``None`` where there is none, or the user named a split."""
        return None

    def default_tasks(self) -> tuple[str, ...]:
        """All tasks that are meant where none is named; the default task is one of them.

        Raises:
            UserError: there are no labels, or none is obvious.
        """
        return (self.resolve(None),)

    def resolve(self, task: str | None) -> str:
        """The name of ``task``, or of the default task for ``None``."""
        if not self.tasks:
            raise UserError(f"{self.spec} has no labels, but labels are needed here")
        if task is None:
            return self.tasks[0]
        if task not in self.tasks:
            raise UserError(
                f"{self.spec}: no task {task!r}; it has {', '.join(self.tasks)}; set data.task to one of them, or "
                "remove it"
            )
        return task


class Subset(Source):
    """Some rows of another source, in the given order.

    Attributes:
        part: how they can be drawn again; None where that is not known.
    """

    def __init__(self, source: Source, rows: Tensor, name: str, part: Part | None = None) -> None:
        self.source, self.rows, self.name, self.part = source, rows, name, part
        self.spec = f"{source.spec} ({name})"
        self.tasks, self.color_tasks = source.tasks, source.color_tasks
        self.mask_columns, self.mask_names = source.mask_columns, source.mask_names
        self.only_here = source.only_here

    @property
    def fingerprint(self) -> str:
        return digest([self.source.fingerprint, self.rows.numpy().tobytes()])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def levels(self) -> Levels | None:  # of the whole, so that its parts agree
        return self.source.levels

    def at(self, size: int) -> Source:
        return Subset(self.source.at(size), self.rows, self.name, self.part)

    def scaled(self, levels: Levels | None) -> Source:
        source = self.source.scaled(levels)
        return self if source is self.source else Subset(source, self.rows, self.name, self.part)

    def image(self, index: int) -> Image.Image | Tensor:
        return self.source.image(int(self.rows[index]))

    def bulk(self, rows: Tensor) -> Tensor | None:
        return self.source.bulk(self.rows[rows])

    def where(self, index: int) -> str:
        return self.source.where(int(self.rows[index]))

    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        return self.source.labels(task, self.rows if rows is None else self.rows[rows])

    def multi_labels(self, columns: Sequence[str], rows: Tensor | None = None) -> MultiLabels:
        return self.source.multi_labels(columns, self.rows if rows is None else self.rows[rows])

    def masks(self, column: str) -> Source:
        return Subset(self.source.masks(column), self.rows, self.name)

    def default_tasks(self) -> tuple[str, ...]:
        return self.source.default_tasks()

    def resolve(self, task: str | None) -> str:
        return self.source.resolve(task)


def class_name(name: str) -> str:
    """A class name as it looks: ``é`` may be one character or two, and a space at the end is not seen."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def digest(parts: Iterable[object]) -> str:
    """sha256 over a sequence of strings, numbers or bytes; each part is hashed with its length."""
    hashed = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode(errors="surrogateescape")
        hashed.update(len(data).to_bytes(8, "little") + data)
    return hashed.hexdigest()

"""The source contract: one set of images, labelled or not, read row by row and not yet decoded."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from common.errors import UserError


class Labels(NamedTuple):
    """The classes of the rows of one task."""

    values: Tensor  # int64 [N], each in 0..len(names) - 1
    names: tuple[str, ...]
    task: str


class Source(ABC):
    """A set of images. Opening a source reads no image, and no label until ``labels`` is called.

    Attributes:
        spec: the string the user gave, e.g. ``folder:photos``.
        tasks: names of the labels it can give, the one meant by default first; empty when unlabeled.
        color_tasks: those of ``tasks`` that are known to need colour: an encoder that sees gray only cannot learn them.
        endless: rows are generated, and exist beyond ``len`` too.
    """

    spec: str
    tasks: tuple[str, ...]
    color_tasks: tuple[str, ...] = ()
    endless: bool = False

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 in hex that changes when the images or labels it would give change. Computed when first asked."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image(self, index: int) -> Image.Image | Tensor:
        """One image, as stored: PIL, or uint8 ``[3 h w]``. Raises some exception if it cannot be read."""

    def at(self, size: int) -> Source:
        """The same rows for square images of ``size`` pixels, from sources that can make them so; others: themselves.

        ``load_images`` asks for this first, and resizes what does not have that size all the same.
        """
        return self

    def bulk(self, rows: Tensor) -> Tensor | None:
        """Rows ``[b]`` at once as uint8 ``[b 3 h w]``, from sources that are quicker that way; ``None`` from others."""
        return None

    @abstractmethod
    def where(self, index: int) -> str:
        """Where the image comes from, for people: a path, or a file and row."""

    @abstractmethod
    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        """Labels of ``task`` (``None``: the default one) of all rows, or of ``rows`` ``[b]``.

        Raises:
            UserError: there are no labels, no such task, or some row has none.
        """

    def published_test(self) -> Source | None:
        """The test set that belongs to this training set; ``None`` where there is none, or the user named a split."""
        return None

    def resolve(self, task: str | None) -> str:
        """The name of the task meant by ``task``."""
        if not self.tasks:
            raise UserError(f"{self.spec}: has no labels, and labels are needed here")
        if task is None:
            return self.tasks[0]
        if task not in self.tasks:
            raise UserError(
                f"{self.spec}: no task {task!r}; it has {', '.join(self.tasks)}: set data.task to that, or to null"
            )
        return task


class Subset(Source):
    """Some rows of another source, in the given order."""

    def __init__(self, source: Source, rows: Tensor, name: str) -> None:
        self.source, self.rows, self.name = source, rows, name
        self.spec = f"{source.spec} ({name})"
        self.tasks, self.color_tasks = source.tasks, source.color_tasks

    @property
    def fingerprint(self) -> str:
        return digest([self.source.fingerprint, self.rows.numpy().tobytes()])

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, size: int) -> Source:
        return Subset(self.source.at(size), self.rows, self.name)

    def image(self, index: int) -> Image.Image | Tensor:
        return self.source.image(int(self.rows[index]))

    def bulk(self, rows: Tensor) -> Tensor | None:
        return self.source.bulk(self.rows[rows])

    def where(self, index: int) -> str:
        return self.source.where(int(self.rows[index]))

    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        return self.source.labels(task, self.rows if rows is None else self.rows[rows])


def digest(parts: Iterable[object]) -> str:
    """sha256 over a sequence of strings, numbers or bytes; no two different sequences of parts run together."""
    hashed = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode(errors="surrogateescape")
        hashed.update(len(data).to_bytes(8, "little") + data)
    return hashed.hexdigest()

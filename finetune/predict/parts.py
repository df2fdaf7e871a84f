"""The table of predictions: its columns, its parts, and how they become one file.

A part is a number of neighboring images, and a parquet file of its own until all are there. It is computed without
regard to the others, so the table is the same however often the work was interrupted, and however it was shared.

Columns: ``path``; ``class``, the most likely one; ``confidence``, the calibrated probability of that class, from logits
divided by the classifier's temperature; and ``p(NAME)``, the probability of each class as the classifier gives it, the
softmax of its logits; or with ``top``, in their place, ``class_1``, ``p_1``, ``class_2``, ``p_2``, ..., most likely
first. Probabilities are float32 in [0, 1]. An image that cannot be read has its path alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.files import as_utf8, replacing
from finetune.calibration import confidence

PARTS = "parts"  # the folder of finished parts, until all are there
PART_ROWS = 8192  # images of a part: their answers fit in memory, and little is lost if one is interrupted
TABLES = {"csv": "predictions.csv", "parquet": "predictions.parquet"}
Format = Literal["csv", "parquet"]


@dataclass(frozen=True)
class Columns:
    """What is written of each image."""

    classes: tuple[str, ...]
    temperature: float
    top: int | None

    @property
    def schema(self) -> pa.Schema:
        fields = [("path", pa.string()), ("class", pa.string()), ("confidence", pa.float32())]
        if self.top is None:
            return pa.schema([*fields, *((f"p({as_utf8(name)})", pa.float32()) for name in self.classes)])
        best = [
            column
            for place in range(1, self.top + 1)
            for column in ((f"class_{place}", pa.string()), (f"p_{place}", pa.float32()))
        ]
        return pa.schema([*fields, *best])

    def answers(self, logits: Tensor) -> Answered:
        """Logits ``[b C]`` -> what is written of them."""
        probabilities, sure = logits.softmax(1), confidence(logits, self.temperature)
        if self.top is None:
            best = logits.argmax(1, keepdim=True)
        else:
            best = logits.topk(self.top, 1).indices
            probabilities = probabilities.gather(1, best)
        return Answered(*(one.cpu().numpy() for one in (best, sure, probabilities)))

    def table(self, paths: Sequence[str], readable: NDArray[np.bool_], given: Answered) -> pa.Table:
        """Rows of some images, of which ``given`` has the answers for the readable ones, in order.

        Args:
            readable: bool ``[n]``.
        """
        unreadable = ~readable

        def column(values: NDArray[Any]) -> pa.Array:
            whole = np.zeros(len(paths), values.dtype)
            whole[readable] = values
            return pa.array(whole, mask=unreadable)

        names = pa.array([as_utf8(name) for name in self.classes])

        def named(places: NDArray[np.int64]) -> pa.Array:
            return names.take(column(places))

        arrays = [pa.array([as_utf8(path) for path in paths], pa.string())]
        arrays += [named(given.classes[:, 0]), column(given.confidence)]
        for place, values in enumerate(given.probabilities.T):
            arrays += [column(values)] if self.top is None else [named(given.classes[:, place]), column(values)]
        return pa.Table.from_arrays(arrays, schema=self.schema)


class Answered(NamedTuple):
    """What is written of some images."""

    classes: NDArray[np.int64]  # [b 1], or [b top], most likely first
    confidence: NDArray[np.float32]  # [b]
    probabilities: NDArray[np.float32]  # [b C], or [b top]

    @classmethod
    def together(cls, batches: Sequence[Answered]) -> Answered:
        """Of all images of these batches."""
        return cls(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))


# ---- parts


def part_count(images: int) -> int:
    """The number of parts of so many images."""
    return -(-images // PART_ROWS)


def part_rows(number: int, images: int) -> Tensor:
    """The rows of a part, int64."""
    return torch.arange(number * PART_ROWS, min((number + 1) * PART_ROWS, images))


def part_path(folder: Path, number: int) -> Path:
    """Its file in the folder of the run."""
    return folder / PARTS / f"{number:06d}.parquet"


def missing_parts(folder: Path, images: int) -> list[int]:
    """The parts that are not there yet."""
    return [number for number in range(part_count(images)) if not part_path(folder, number).is_file()]


def write_part(folder: Path, number: int, table: pa.Table) -> None:
    """Write a part, atomically."""
    with replacing(part_path(folder, number)) as unfinished:
        pq.write_table(table, unfinished, compression="zstd")


# ---- the file


class Counts(NamedTuple):
    """What a table of predictions holds."""

    classes: dict[str, int]  # images of each class
    unreadable: int


def join_parts(folder: Path, images: int, columns: Columns, kind: Format) -> Counts:
    """Write the file of all parts, atomically, one part at a time; they stay where they are."""
    counted: Counter[str | None] = Counter()
    with replacing(folder / TABLES[kind]) as unfinished, _writer(kind, unfinished, columns.schema) as writer:
        for table in _parts(folder, images):
            writer.write_table(table)
            for pair in pc.value_counts(table["class"]).to_pylist():
                counted[pair["values"]] += pair["counts"]
    classes = {name: counted[as_utf8(name)] for name in columns.classes}
    return Counts(classes, counted[None])


def _parts(folder: Path, images: int) -> Iterator[pa.Table]:
    for number in range(part_count(images)):
        yield pq.ParquetFile(part_path(folder, number)).read()


def _writer(kind: Format, path: Path, schema: pa.Schema) -> Any:
    """What writes tables of this schema. In CSV, texts are in quotes, and the cells of unreadable images empty."""
    if kind == "csv":
        return pc_csv.CSVWriter(str(path), schema)
    return pq.ParquetWriter(path, schema, compression="zstd")

"""The table of predictions: its parts, and how they become one file.

A part is a number of neighboring images, and a parquet file of its own until all are there. It does not
depend on the others, so the table is the same however often the work was interrupted, and however it was shared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq
import torch
from torch import Tensor

from common.files import as_utf8, replacing
from finetune.predict.columns import Columns

PARTS = "parts"  # the folder of finished parts, until all are there
PART_ROWS = 1024  # images of a part: few, so that processes get equal shares, and little is lost if one is interrupted
TABLES = {"csv": "predictions.csv", "parquet": "predictions.parquet"}
Format = Literal["csv", "parquet"]


# ---- parts


def part_count(images: int) -> int:
    """The number of parts that this many images have."""
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
        # probabilities and paths hardly repeat: a dictionary of them takes time, and no fewer bytes
        pq.write_table(table, unfinished, compression="zstd", use_dictionary=False)


# ---- the file


class Counts(NamedTuple):
    """What a table of predictions holds."""

    classes: dict[str, int]  # images of each class or label
    unreadable: int


def join_parts(folder: Path, images: int, columns: Columns, kind: Format) -> Counts:
    """Write the file of all parts, atomically, one part at a time; they stay where they are."""
    counted: Counter[str] = Counter()
    unreadable = 0
    written = columns.for_csv if kind == "csv" else lambda table: table
    schema = written(columns.schema.empty_table()).schema
    with replacing(folder / TABLES[kind]) as unfinished, _writer(kind, unfinished, schema) as writer:
        for table in _parts(folder, images):
            writer.write_table(written(table))
            counted.update(columns.counts(table))
            unreadable += table.column(1).null_count
    return Counts({name: counted[as_utf8(name)] for name in columns.names}, unreadable)


def _parts(folder: Path, images: int) -> Iterator[pa.Table]:
    for number in range(part_count(images)):
        yield pq.ParquetFile(part_path(folder, number)).read()


def _writer(kind: Format, path: Path, schema: pa.Schema) -> Any:
    """A writer of tables of this schema. In CSV, texts are quoted, and the cells of unreadable images are empty."""
    if kind == "csv":
        return pc_csv.CSVWriter(str(path), schema)
    return pq.ParquetWriter(path, schema, compression="zstd")

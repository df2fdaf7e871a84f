"""``label_scores.parquet``: the score that the probe of each subject gave each label of each test image.

Columns: ``result`` (its place among the results with several labels), ``task``, ``row`` (of the test set), ``path``,
``labels`` (those of the image), and a list of numbers for each subject, such as ``encoder.linear``: above 0 where a
label is likely, in the order of the names in the file's metadata, ``labels``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from common.data import Images, MultiLabels
from common.errors import UserError, one_line
from common.files import as_utf8, replacing
from common.runs.results import file_of_run

LABEL_SCORES = "label_scores.parquet"


LINEAR = ".linear"  # ends the name of a column of scores


class ReadScores(NamedTuple):
    """The scores of one result, read back."""

    truth: Tensor  # bool [n L], in the order of the labels in the results
    scores: Mapping[str, Tensor]  # float32 [n L] each, by subject


class LabelScores(NamedTuple):
    """What several subjects gave for the same test images."""

    images: Images
    rows: Tensor  # int64 [n], of these images
    labels: MultiLabels  # of those
    scores: Mapping[str, Tensor]  # float32 [n L] each, by subject


def write_scores(folder: Path, found: Sequence[LabelScores]) -> None:
    """Write ``label_scores.parquet`` in ``folder``, atomically; no file if nothing was found."""
    if not found:
        return
    names = list(dict.fromkeys(f"{name}{LINEAR}" for one in found for name in one.scores))
    facts = {"result": pa.int32(), "task": pa.string(), "row": pa.int64(), "path": pa.string()}
    lists = {"labels": pa.list_(pa.string()), **dict.fromkeys(names, pa.list_(pa.float32()))}
    schema = pa.schema({**facts, **lists})
    table = pa.concat_tables([_table(one, number, schema) for number, one in enumerate(found)])
    labels = json.dumps([list(map(as_utf8, one.labels.names)) for one in found])
    with replacing(folder / LABEL_SCORES) as unfinished:
        pq.write_table(table.replace_schema_metadata({"labels": labels}), unfinished, compression="zstd")


def read_scores(path: str | Path) -> list[ReadScores]:
    """Read a ``label_scores.parquet``, or that of the run folder around it: one entry per result.

    Raises:
        UserError: there is no such file, or Retouch did not write it.
    """
    path = file_of_run(path, LABEL_SCORES, ("probe",))
    try:
        table = pq.ParquetFile(path).read()
        labels = json.loads((table.schema.metadata or {})[b"labels"])
        numbers = table["result"].to_pylist()
        starts = [numbers.index(number) for number in range(len(labels))]  # results follow each other
        ends = [*starts[1:], len(numbers)]
        return [_read(table.slice(a, b - a), names) for a, b, names in zip(starts, ends, labels, strict=True)]
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise UserError(f"{path} cannot be read as scores of labels: {one_line(error)}; run the probe again") from None


def _read(table: pa.Table, names: Sequence[str]) -> ReadScores:
    truth = torch.tensor([[name in shown for name in names] for shown in table["labels"].to_pylist()])
    scored = [name for name in table.column_names if name.endswith(LINEAR) and not table[name].null_count]
    return ReadScores(truth, {name.removesuffix(LINEAR): torch.tensor(table[name].to_pylist()) for name in scored})


def _table(one: LabelScores, number: int, schema: pa.Schema) -> pa.Table:
    n, names = len(one.rows), list(map(as_utf8, one.labels.names))
    shown = [[name for name, has in zip(names, row, strict=True) if has] for row in one.labels.values.tolist()]
    columns = {
        "result": [number] * n,
        "task": [as_utf8(one.labels.task)] * n,
        "row": one.images.kept[one.rows].tolist(),
        "path": [as_utf8(one.images.where(row)) for row in one.rows.tolist()],
        "labels": shown,
        **{f"{name}{LINEAR}": scores.tolist() for name, scores in one.scores.items()},
    }
    # null for a subject that only another result has
    return pa.table({field.name: pa.array(columns.get(field.name, [None] * n), field.type) for field in schema})

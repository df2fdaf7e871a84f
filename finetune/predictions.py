"""``predictions.parquet``: what each classifier answered for each test image.

Two runs on the same test images can be compared image by image, long after both are done:

    mine, other = (read_predictions(run)[0] for run in ("runs/mine", "runs/other"))
    compare(mine.answers["encoder.linear"], other.answers["encoder.linear"], mine.labels)

Columns: ``result`` (its place among the results), ``task``, ``row`` (of the test set), ``path``, ``label``, and one
column of answers for each classifier, such as ``encoder.linear``. Labels and answers are class names. A classifier that
has probabilities also has a column of them, ``encoder.linear.confidence``: that of the class it answered. For one that
the run keeps, ``encoder.linear.calibrated`` is the same after its temperature, as ``retouch predict`` gives it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from common.data import Images
from common.errors import UserError, one_line
from common.files import as_utf8, replacing
from common.runs.results import file_of_run

PREDICTIONS = "predictions.parquet"
CONFIDENCE = ".confidence"  # ends the name of a column of probabilities
CALIBRATED = ".calibrated"  # and of one of calibrated probabilities
NAMES = pa.dictionary(pa.int32(), pa.string())  # few different values: stored as numbers
FACTS = {"result": pa.int32(), "task": NAMES, "row": pa.int64(), "path": pa.string(), "label": NAMES}


@dataclass(frozen=True)
class Predictions:
    """The answers of several classifiers to the same test images of one task."""

    task: str
    classes: tuple[str, ...]
    rows: Tensor  # int64 [n], of the test set
    paths: tuple[str, ...]  # where each image comes from
    labels: Tensor  # int64 [n]
    answers: Mapping[str, Tensor]  # int64 [n] each, by subject and probe: encoder.linear, pixels.knn, tuned, ...
    # float32 [n] in [0, 1]: the probability of each answer, for the classifiers that have one (none: older files)
    confidences: Mapping[str, Tensor] = field(default_factory=dict)
    # likewise, after the temperature, for the classifiers that are kept (none: older files)
    calibrated: Mapping[str, Tensor] = field(default_factory=dict)

    def sure(self, column: str) -> Tensor | None:
        """The probability of each answer ``[n]``: calibrated where that is known; None where there is none."""
        return self.calibrated.get(column, self.confidences.get(column))

    @classmethod
    def of(
        cls,
        images: Images,
        index: Tensor,
        task: str,
        classes: Sequence[str],
        labels: Tensor,
        answers: Mapping[str, Tensor],
        confidences: Mapping[str, Tensor],
        calibrated: Mapping[str, Tensor] | None = None,
    ) -> Predictions:
        """For rows ``index`` ``[n]`` of these images, with their labels, and answers with their probabilities."""
        paths = tuple(as_utf8(images.where(row)) for row in index.tolist())
        names = tuple(map(as_utf8, classes))
        return cls(as_utf8(task), names, images.kept[index], paths, labels, answers, confidences, calibrated or {})


def write_predictions(folder: Path, found: Sequence[Predictions]) -> None:
    """Write ``predictions.parquet`` in ``folder``, atomically."""
    names = list(dict.fromkeys(name for one in found for name in one.answers))
    sure = list(dict.fromkeys(name for one in found for name in _probabilities(one)))
    schema = pa.schema({**FACTS, **dict.fromkeys(names, NAMES), **dict.fromkeys(sure, pa.float32())})
    table = pa.concat_tables([_table(one, number, schema) for number, one in enumerate(found)]).unify_dictionaries()
    classes = json.dumps([one.classes for one in found])
    with replacing(folder / PREDICTIONS) as unfinished:
        pq.write_table(table.replace_schema_metadata({"classes": classes}), unfinished, compression="zstd")


def read_predictions(path: str | Path) -> list[Predictions]:
    """Read a ``predictions.parquet``, or that of the run folder around it: one entry per result.

    Raises:
        UserError: there is no such file, or Retouch did not write it.
    """
    path = file_of_run(path, PREDICTIONS, ("probe", "finetune"))
    try:
        # not pq.read_table and Table.filter, nor to_numpy: they load what takes 100 MiB
        table = pq.ParquetFile(path).read()
        classes = json.loads((table.schema.metadata or {})[b"classes"])
        ends = np.searchsorted(table["result"].to_pylist(), range(len(classes)), side="right").tolist()
        starts = [0, *ends]  # results follow each other
        return [_read(table.slice(a, b - a), names) for a, b, names in zip(starts, ends, classes, strict=False)]
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise UserError(f"{path} cannot be read as predictions: {one_line(error)}; run the stage again") from None


def _table(one: Predictions, number: int, schema: pa.Schema) -> pa.Table:
    n = len(one.rows)
    columns = {
        "result": pa.array([number] * n, pa.int32()),
        "task": _named([0] * n, [one.task]),
        "row": pa.array(one.rows.tolist(), pa.int64()),
        "path": pa.array(one.paths, pa.string()),
        "label": _named(one.labels.tolist(), one.classes),
        **{name: _named(answers.tolist(), one.classes) for name, answers in one.answers.items()},
        **{name: pa.array(share.tolist(), pa.float32()) for name, share in _probabilities(one).items()},
    }
    # null for a classifier that only another result has
    filled = [columns[column.name] if column.name in columns else pa.nulls(n, column.type) for column in schema]
    return pa.table(filled, schema=schema)


def _probabilities(one: Predictions) -> dict[str, Tensor]:
    """The columns of probabilities."""
    found = {f"{name}{CONFIDENCE}": share for name, share in one.confidences.items()}
    return found | {f"{name}{CALIBRATED}": share for name, share in one.calibrated.items()}


def _named(places: Sequence[int], names: Sequence[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(places, pa.int32()), pa.array(names, pa.string()))


def _read(table: pa.Table, classes: Sequence[str]) -> Predictions:
    number = {name: place for place, name in enumerate(classes)}

    def places(column: str) -> Tensor:
        return torch.tensor([number[name] for name in table[column].to_pylist()], dtype=torch.int64)

    filled = [name for name in table.column_names if name not in FACTS and not table[name].null_count]

    def probabilities(end: str) -> dict[str, Tensor]:
        return {name.removesuffix(end): torch.tensor(table[name].to_pylist()) for name in filled if name.endswith(end)}

    answered = [name for name in filled if not name.endswith((CONFIDENCE, CALIBRATED))]
    return Predictions(
        task=table["task"][0].as_py(),
        classes=tuple(classes),
        rows=torch.tensor(table["row"].to_pylist(), dtype=torch.int64),
        paths=tuple(table["path"].to_pylist()),
        labels=places("label"),
        answers={name: places(name) for name in answered},
        confidences=probabilities(CONFIDENCE),
        calibrated=probabilities(CALIBRATED),
    )

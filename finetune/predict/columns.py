"""The columns of the table of predictions. Probabilities are float32 in [0, 1]; an unreadable image has only its path.

One class per image: ``path``; ``class``, the most likely one; ``confidence``, its probability; and ``p(NAME)``, the
calibrated probability of each class, from logits divided by the classifier's temperature, as
``Applied.probabilities`` and exports give it; or with ``top``, in their place, ``class_1``, ``p_1``, ``class_2``,
``p_2``, ..., most likely first.

Several labels per image: ``path``; ``labels``, those whose probability is at least the threshold, in parquet as a list,
in CSV with ``;`` between them; and ``p(NAME)``, the calibrated probability of each label; or with ``top``, in their
place, ``label_1``, ``p_1``, ..., most likely first.

Masks: ``path``; ``mask``, the file of the mask, from the folder of the table; and ``share(NAME)``, the share of each
class among the pixels of the central square.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from common.files import as_utf8
from finetune.applied import likely

JOINT = ";"  # between labels in CSV


@dataclass(frozen=True)
class Columns(ABC):
    """The answers that are written for each image."""

    names: tuple[str, ...]  # of the classes or labels
    temperature: float

    @property
    @abstractmethod
    def fields(self) -> list[pa.Field]:
        """The columns after the path."""

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([pa.field("path", pa.string()), *self.fields])

    @abstractmethod
    def answers(self, logits: Tensor, rows: Tensor) -> pa.Table:
        """Logits ``[b C]``, of masks ``[b C S S]``, of the images ``rows`` ``[b]`` -> the columns after the path."""

    def table(self, paths: Sequence[str], readable: NDArray[np.bool_], answered: Sequence[pa.Table]) -> pa.Table:
        """Rows of some images, of which ``answered`` has the answers for the readable ones, in order.

        Args:
            readable: bool ``[n]``.
        """
        place = pa.array(np.cumsum(readable) - 1, mask=~readable)
        nothing = pa.schema(self.fields).empty_table()
        found = pa.concat_tables([nothing, *answered]).take(place)
        return pa.Table.from_arrays([texts(paths), *found.columns], schema=self.schema)

    @abstractmethod
    def counts(self, table: pa.Table) -> Counter[str]:
        """How many images of a table have each class or label."""

    def for_csv(self, table: pa.Table) -> pa.Table:
        """The same without lists, which CSV does not have."""
        return table


@dataclass(frozen=True)
class NamedColumns(Columns, ABC):
    """With a probability of each name, or with ``top`` of the most likely ones."""

    kind: ClassVar[str]  # what a name is of

    top: int | None

    @property
    def probability_fields(self) -> list[pa.Field]:
        if self.top is None:
            return [pa.field(f"p({as_utf8(name)})", pa.float32()) for name in self.names]
        return [
            field
            for place in range(1, self.top + 1)
            for field in (pa.field(f"{self.kind}_{place}", pa.string()), pa.field(f"p_{place}", pa.float32()))
        ]

    def probability_columns(self, logits: Tensor, probabilities: Tensor) -> list[pa.Array]:
        """Of logits and probabilities ``[b C]``."""
        if self.top is None:
            return [array(column) for column in probabilities.unbind(1)]
        best = logits.topk(self.top, 1).indices
        pairs = zip(best.unbind(1), probabilities.gather(1, best).unbind(1), strict=True)
        return [column for place, values in pairs for column in (self.named(place), array(values))]

    def named(self, places: Tensor) -> pa.Array:
        """Places among the names, int64 ``[b]`` -> the names."""
        return texts(self.names).take(array(places))


@dataclass(frozen=True)
class ClassColumns(NamedColumns):
    """Of one class per image."""

    kind = "class"

    @property
    def fields(self) -> list[pa.Field]:
        return [pa.field("class", pa.string()), pa.field("confidence", pa.float32()), *self.probability_fields]

    def answers(self, logits: Tensor, rows: Tensor) -> pa.Table:
        probabilities = likely(logits, "class", self.temperature)
        said = [self.named(logits.argmax(1)), array(probabilities.amax(1))]
        columns = [*said, *self.probability_columns(logits, probabilities)]
        return pa.Table.from_arrays(columns, schema=pa.schema(self.fields))

    def counts(self, table: pa.Table) -> Counter[str]:
        return counted(table["class"])


@dataclass(frozen=True)
class LabelColumns(NamedColumns):
    """Of several labels per image."""

    kind = "label"

    threshold: float

    @property
    def fields(self) -> list[pa.Field]:
        return [pa.field("labels", pa.list_(pa.string())), *self.probability_fields]

    def answers(self, logits: Tensor, rows: Tensor) -> pa.Table:
        probabilities = likely(logits, "labels", self.temperature)
        has = probabilities >= self.threshold
        ends = pa.array(np.concatenate([[0], has.sum(1).cumsum(0).cpu().numpy()]), pa.int32())
        labels = pa.ListArray.from_arrays(ends, self.named(has.nonzero()[:, 1]))
        columns = [labels, *self.probability_columns(logits, probabilities)]
        return pa.Table.from_arrays(columns, schema=pa.schema(self.fields))

    def counts(self, table: pa.Table) -> Counter[str]:
        return counted(pc.list_flatten(table["labels"]))

    def for_csv(self, table: pa.Table) -> pa.Table:
        return table.set_column(1, "labels", pc.binary_join(table["labels"], JOINT))


@dataclass(frozen=True)
class MaskColumns(Columns):
    """Of the class of each pixel."""

    files: Sequence[str]  # of the mask of each image

    @property
    def fields(self) -> list[pa.Field]:
        shares = [pa.field(f"share({as_utf8(name)})", pa.float32()) for name in self.names]
        return [pa.field("mask", pa.string()), *shares]

    def answers(self, logits: Tensor, rows: Tensor) -> pa.Table:
        shares = one_hot(logits.argmax(1), len(self.names)).float().mean((1, 2))
        columns = [texts([self.files[row] for row in rows.tolist()]), *map(array, shares.unbind(1))]
        return pa.Table.from_arrays(columns, schema=pa.schema(self.fields))

    def counts(self, table: pa.Table) -> Counter[str]:
        """How many images show each class."""
        shown = (pc.sum(pc.greater(column, 0)).as_py() or 0 for column in table.columns[2:])
        return Counter(dict(zip(map(as_utf8, self.names), shown, strict=True)))


def array(values: Tensor) -> pa.Array:
    """A column ``[b]``."""
    return pa.array(values.cpu().numpy())


def texts(values: Sequence[str]) -> pa.Array:
    """A column of texts."""
    return pa.array([as_utf8(value) for value in values], pa.string())


def counted(column: pa.ChunkedArray) -> Counter[str]:
    """How often each text is in a column."""
    return Counter({pair["values"]: pair["counts"] for pair in pc.value_counts(column.drop_null()).to_pylist()})

"""Several labels per image: read from the cells of a table, matched by name, and split evenly.

A cell that holds several labels is a list, or text in which `;`, `|`, `,` or else spaces stand between them. An empty
one is an image with none of the labels. Instead, there may be one column for each label, of 0 and 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from common.data.source import MultiLabels, class_name
from common.data.split import first
from common.data.words import MISSING, NO, YES
from common.errors import UserError, check_all

SEPARATORS = (";", "|", ",")  # the first that a column has; otherwise spaces
Cell = object  # text, a number, a list of either, or nothing


def read_sets(column: str, cells: Sequence[Cell]) -> MultiLabels:
    """The labels of one column whose cells hold several."""
    words = [cell for cell in cells if isinstance(cell, str)]
    separator = next((mark for mark in SEPARATORS if any(mark in word for word in words)), None)
    sets: dict[Cell, tuple[str, ...]] = {}  # of each different text
    rows = []
    for cell in cells:
        if isinstance(cell, str):
            if cell not in sets:
                sets[cell] = _split(cell, separator)
            rows.append(sets[cell])
        elif isinstance(cell, list | tuple | np.ndarray):
            rows.append(tuple(class_name(str(one)) for one in cell))
        elif cell is None or cell != cell:  # NaN is not itself
            rows.append(())
        else:
            rows.append((class_name(str(cell)),))
    found = {name for row in rows for name in row if name not in MISSING}
    names = sorted(found, key=int) if all(re.fullmatch("[0-9]+", name) for name in found) else sorted(found)
    number = {name: place for place, name in enumerate(names)}
    pairs = [(row, number[name]) for row, some in enumerate(rows) for name in some if name in number]
    values = torch.zeros(len(rows), len(names), dtype=torch.bool)
    if pairs:
        values[tuple(torch.tensor(pairs).T)] = True
    return MultiLabels(values, tuple(names), column)


def read_flags(spec: str, columns: Sequence[str], cells: Sequence[Sequence[Cell]]) -> MultiLabels:
    """The labels of several columns of 0 and 1, each called after its column.

    Raises:
        UserError: names every column that holds something else or has empty cells.
    """
    values = check_all(*(lambda one=one: _flags(spec, *one) for one in zip(columns, cells, strict=True)))
    return MultiLabels(torch.tensor(values).T.contiguous(), tuple(columns), "+".join(columns))


def match_labels(train: MultiLabels, test: MultiLabels) -> MultiLabels:
    """The test labels in the order of the training labels, matched by name; those that no test image has are absent.

    Raises:
        UserError: test images have a label that training lacks.
    """
    place = {name: number for number, name in enumerate(train.names)}
    here = test.values.any(0).tolist()
    unknown = [name for name, has in zip(test.names, here, strict=True) if has and name not in place]
    if unknown:
        raise UserError(
            f"labels {train.task!r}: {first(unknown)} in the test set only; training has {first(train.names)}: add "
            "such images to training, or take them out of the test set"
        )
    values = torch.zeros(len(test.values), len(train.names), dtype=torch.bool)
    for number, name in enumerate(test.names):
        if name in place:
            values[:, place[name]] = test.values[:, number]
    return MultiLabels(values, train.names, train.task)


def iterative_parts(values: Tensor, shares: Sequence[float], seed: int) -> Tensor:
    """Deal rows into parts so that each label keeps its share in each: int64 ``[N]``, the part of every row.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011): the rarest label that is left is dealt first, each
    of its rows to the part that lacks it most; of equal ones, to the part that lacks rows most, and then to the first.

    Args:
        values: bool ``[N L]``.
        shares: of each part, with the sum 1.
        seed: of the order in which the rows of a label are dealt.
    """
    labels = values.numpy()
    order = np.random.default_rng(seed).permutation(len(labels))
    lacking = np.outer(shares, labels.sum(0)).astype(float)  # [parts L]
    room = np.array(shares, float) * len(labels)
    part = np.full(len(labels), -1)
    left = labels.sum(0)
    while left.any():
        rarest = int(np.where(left > 0, left, len(labels) + 1).argmin())
        for row in order[labels[order, rarest] & (part[order] < 0)]:
            chosen = max(range(len(shares)), key=lambda one: (lacking[one, rarest], room[one]))
            part[row] = chosen
            lacking[chosen] -= labels[row]
            room[chosen] -= 1
            left = left - labels[row]
    for row in order[part[order] < 0]:
        part[row] = int(room.argmax())
        room[part[row]] -= 1
    return torch.from_numpy(part)


def _split(cell: str, separator: str | None) -> tuple[str, ...]:
    """``a;b``, ``a b`` or ``['a', 'b']`` -> its labels."""
    if cell.startswith("[") and cell.endswith("]"):
        cell = re.sub(r"[\"']", "", cell[1:-1])
    parts = cell.split(separator)
    return tuple(filter(None, map(class_name, parts)))


def _flags(spec: str, column: str, cells: Sequence[Cell]) -> list[bool]:
    words = ["" if cell is None or cell != cell else class_name(str(cell)).lower() for cell in cells]
    strange = sorted({word for word in words if word not in YES + NO})
    if strange:
        shown = first([word or "nothing" for word in strange])
        raise UserError(
            f"{spec}: data.labels: column {column!r} holds {shown}, but each of several columns must hold 0 and 1; "
            "name one column if its cells hold several labels"
        )
    return [word in YES for word in words]

"""The columns of a table: which are images, labels or splits, and which labels are meant."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from common.data.multilabel import read_flags, read_sets
from common.data.source import MultiLabels, Source, class_name
from common.data.split import Split, choose_split, first, split_of
from common.data.words import NO, YES
from common.errors import UserError, check_all

log = logging.getLogger("retouch")

# what such columns are usually called, the likeliest first
IMAGE_COLUMNS = ("image", "img", "jpg", "png", "picture", "pixel_values")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "category")
SPLIT_COLUMNS = ("split", "partition")  # hold splits and nothing else
MAYBE_SPLIT_COLUMNS = ("set", "subset")  # hold splits, or labels


class ColumnSource(Source, ABC):
    """A source with one column of images, and any number of columns that may be labels."""

    def _choose_tasks(self, columns: Iterable[str], classes: Sequence[str], label: str | None) -> None:
        """Order the columns that may be labels, the obvious one first; ``classes`` are known to be labels."""
        tasks = tuple(columns)
        self._named, self._classes = label, classes
        first = label or only(classes, LABEL_COLUMNS) or only(tasks, LABEL_COLUMNS)
        self.tasks = tuple(sorted(tasks, key=lambda name: (name != first, name not in classes)))
        self._sure = first is not None or not tasks

    @abstractmethod
    def _different(self, column: str) -> int:
        """How many different values a column has."""

    @abstractmethod
    def _column(self, name: str) -> Sequence[object] | None:
        """The cells of a column that may hold labels; ``None`` if there is no such column."""

    def multi_labels(self, columns: Sequence[str], rows: Tensor | None = None) -> MultiLabels:
        def read(name: str) -> Sequence[object]:
            cells = self._column(name)
            if cells is None:
                known = f"it has {', '.join(self.tasks)}" if self.tasks else "it has no labels"
                raise UserError(f"{self.spec}: data.labels: no column {name!r}; {known}")
            return cells

        cells = check_all(*(lambda name=name: read(name) for name in columns))
        found = read_sets(columns[0], cells[0]) if len(columns) == 1 else read_flags(self.spec, columns, cells)
        return found if rows is None else found._replace(values=found.values[rows])

    def resolve(self, task: str | None) -> str:
        if task is None and not self._sure:
            choices = ", ".join(self.tasks)
            raise UserError(f"{self.spec}: several columns may be labels: {choices}; set data.label to one of them")
        return super().resolve(task)

    def default_tasks(self) -> tuple[str, ...]:
        """The column that the user named; else those known to be labels, those called so, or those that repeat."""
        if self._named is None:
            usual = [name for name in self.tasks if name in LABEL_COLUMNS]
            repeated = (name for name in self.tasks if self._different(name) <= len(self) // 2)
            if found := [name for name in self.tasks if name in self._classes] or usual or list(repeated):
                return tuple(found)
        return super().default_tasks()


class ChosenRows(NamedTuple):
    """The rows of a table that are used, ``None`` for all, and those of its test set, ``None`` where it has none."""

    columns: list[str]  # those that name the splits
    rows: list[int] | None = None
    test: list[int] | None = None


def may_name_splits(column: str) -> bool:
    """Whether a column of this name (``split``, ``is_test``, ``test``, ...) may say which split a row is of."""
    known = column.lower() in SPLIT_COLUMNS + MAYBE_SPLIT_COLUMNS
    return known or _flag(column) is not None or split_of(column) is not None


def choose_rows(spec: str, columns: Mapping[str, Sequence[object]], split: str) -> ChosenRows:
    """The rows of ``split`` where columns give the split of every row; all rows where none does.

    One column names the splits (``split``) or marks the rows of one split (``is_test``), or each split has a column
    of its own (``train`` and ``test``, or ``is_train``, ``is_val`` and ``is_test``).

    Args:
        columns: the cells of those that ``may_name_splits``.

    Raises:
        UserError: a column gives the split of some rows only, two columns disagree, or no row is in the split.
    """
    cells_of = {
        name: ["" if cell is None or cell != cell else class_name(str(cell)) for cell in cells]  # NaN is not itself
        for name, cells in columns.items()
    }
    flags = _flags(cells_of)
    named: dict[str, list[Split]] = {}
    if len(set(flags.values())) > 1:
        named = dict.fromkeys(flags, _one_hot(spec, flags, cells_of))
    for name in flags if not named else ():
        if _flag(name) is None:
            log.warning(
                "%s: column %r is taken for labels; if it says which rows are in %s, call it is_%s",
                *(spec, name, flags[name], flags[name]),
            )
    for name, words in cells_of.items():
        if name not in named and (splits := _splits(spec, name, words)) is not None:
            named[name] = splits
    if len(set(map(tuple, named.values()))) > 1:
        raise UserError(f"{spec}: columns {' and '.join(named)} name splits, but not the same ones: remove all but one")
    rows: dict[Split, list[int]] = {}
    for row, one in enumerate(next(iter(named.values()), [])):
        rows.setdefault(one, []).append(row)
    if len(rows) < 2:
        return ChosenRows(list(named))
    chosen, test = choose_split(rows, split)
    if chosen is None:
        raise UserError(f"{spec}: no rows of {split} among its splits {', '.join(rows)}")
    used = next(name for name, part in rows.items() if part is chosen)
    counts = ", ".join(f"{name} ({len(part):,} images)" for name, part in rows.items())
    log.info("%s holds the splits %s: %s is used", spec, counts, used)
    return ChosenRows(list(named), chosen, test)


def _splits(spec: str, column: str, words: list[str]) -> list[Split] | None:
    """The split of every row; ``None`` if the column is of another kind."""
    flag = _flag(column)
    meaning = {word: split_of(word) if flag is None else _flagged(flag, word) for word in dict.fromkeys(words)}
    splits = [one for one in map(meaning.__getitem__, words) if one is not None]
    if len(splits) == len(words):
        return splits
    only_perhaps = flag is None and column.lower() not in SPLIT_COLUMNS
    if not any(words) or (not splits and only_perhaps):
        return None
    counts = [f"{word or 'empty'} ({count:,})" for word, count in Counter(words).most_common()]
    known = "train, test or val" if flag is None else "true or false"
    raise UserError(
        f"{spec}: column {column!r} seems to name splits, but not in every row: {first(counts)}; write {known} into "
        f"all, or remove it, or set data.label={column} if it holds labels"
    )


def _flag(column: str) -> Split | None:
    """``test`` for a column ``is_test`` of true and false, and so on."""
    name = column.lower()
    return split_of(name.removeprefix("is")) if name.startswith("is") else None


def _flags(cells_of: Mapping[str, list[str]]) -> dict[str, Split]:
    """The split of each column of true and false: ``test`` for ``is_test`` or ``test``."""
    known = {name: _flag(name) or split_of(name) for name in cells_of}
    return {
        name: split
        for name, split in known.items()
        if split is not None and {word.lower() for word in cells_of[name]} <= {*YES, *NO}
    }


def _flagged(flag: Split, word: str) -> Split | None:
    if word.lower() in YES:
        return flag
    return None if word.lower() not in NO else "test" if flag == "train" else "train"


def _one_hot(spec: str, flags: Mapping[str, Split], cells_of: Mapping[str, list[str]]) -> list[Split]:
    """The split of every row where splits have a column each; without one for ``train``, all other rows are in it."""
    rest: list[Split] = [] if "train" in flags.values() else ["train"]
    marks = [
        list(dict.fromkeys(split for split, word in zip(flags.values(), row, strict=True) if word.lower() in YES))
        or rest
        for row in zip(*(cells_of[name] for name in flags), strict=True)
    ]
    none, several = sum(not found for found in marks), sum(len(found) > 1 for found in marks)
    if none or several:
        raise UserError(
            f"{spec}: columns {' and '.join(flags)} seem to name splits, but {none:,} rows are in none and {several:,} "
            "in several: mark one in each row, or remove the columns"
        )
    return [found[0] for found in marks]


def without_label(spec: str, missing: int, rows: int, task: str) -> str:
    """The message for rows whose label is ``MISSING``."""
    return f"{spec}: {missing} of {rows} rows have no label in column {task!r}"


def only(names: Sequence[str], usual: tuple[str, ...]) -> str | None:
    """The only name, or the most usual one of several."""
    return names[0] if len(names) == 1 else next((name for name in usual if name in names), None)

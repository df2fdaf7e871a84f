"""Labels in columns of a table: which columns are images, which are labels, and which labels are meant."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from common.data.source import Source
from common.errors import UserError

# what such columns are usually called, the likeliest first
IMAGE_COLUMNS = ("image", "img", "jpg", "png", "picture", "pixel_values")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "category")


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


def only(names: Sequence[str], usual: tuple[str, ...]) -> str | None:
    """The only name, or the most usual one of several."""
    return names[0] if len(names) == 1 else next((name for name in usual if name in names), None)

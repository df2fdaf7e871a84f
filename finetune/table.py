"""Results as tables: methods by tasks for the console, long rows for W&B, Markdown for documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich.markup import escape
from rich.table import Table

Result = dict[str, Any]

TASKS_ACROSS = 3  # tasks side by side in 100 columns
COLOUR_WORDS = ("color", "colour", "hue")


class Line(NamedTuple):
    """One method on one task."""

    task: str  # with what sets its data apart, where there are several
    method: str
    test_accuracy: float
    low: float
    high: float
    layer: str
    pooling: str
    setting: str  # "l2 0.001" or "k 20"
    n_test: int
    note: str


def data_names(results: Sequence[Result]) -> list[str]:
    """What sets the data of each result apart from that of the others, as short as can be; empty where all agree."""
    told = [
        (
            str(result["data"]["train"]),
            f"tested on {result['data']['test']}",
            f"{result['n_train']:,} training images",
            f"{result['n_test']:,} test images",
        )
        for result in results
    ]
    names: list[tuple[str, ...]] = [()] * len(told)
    for values in zip(*told, strict=True):
        longer = [(*name, value) for name, value in zip(names, values, strict=True)]
        if len(set(longer)) > len(set(names)):
            names = longer
    return [", ".join(name) for name in names]


def lines(results: Sequence[Result]) -> Iterator[Line]:
    """Every method on every task, from the ``results`` of one or several probes; a baseline they share comes once."""
    labels = {_label(result) for result in results}
    seen: set[tuple[Any, ...]] = set()
    for task, result in zip(_tasks(results), results, strict=True):
        gray = result["encoder"]["view"] == "gray" and any(word in result["task"].lower() for word in COLOUR_WORDS)
        subjects = [(_label(result), result, gray)]
        for kind, baseline in result["baselines"].items():
            name = "raw pixels" if kind == "pixels" else "random init"
            if kind != "pixels" and len(labels) > 1:
                name = f"{name} ({_label(result)})"
            subjects.append((name, baseline, gray and kind != "pixels"))
        for name, one, saw_gray in subjects:
            methods = [(f"{name}, linear", one, f"l2 {one['l2']:g}")]
            if one["knn"] is not None:
                methods.append((f"{name}, k-NN", one["knn"], f"k {one['knn']['k']}"))
            for method, found, setting in methods:
                low, high = found["ci95"]
                line = Line(
                    *(task, method, found["test_accuracy"], low, high, found["layer"], found["pooling"], setting),
                    *(one["n_test"], "saw gray only" if saw_gray else ""),
                )
                if line not in seen:
                    seen.add(line)
                    yield line


def results_table(results: Sequence[Result]) -> Table:
    """Test accuracy in percent with its 95% interval, methods down, tasks across; readable at 100 columns."""
    found = list(lines(results))
    tasks, methods = _in_order(line.task for line in found), _in_order(line.method for line in found)
    cells = {(line.task, line.method): line for line in found}
    table = Table(title="Test accuracy, % [95% Wilson interval]", title_justify="left", show_lines=False)
    if len(tasks) <= TASKS_ACROSS:
        table.add_column("method")
        for task in tasks:
            count = next(line.n_test for line in found if line.task == task)
            table.add_column(f"{task}\n{count:,} test images", justify="left")
        for method in methods:
            table.add_row(method, *(_cell(cells.get((task, method))) for task in tasks))
        return table
    for column in ("task", "method", "accuracy", "layer", "chosen"):
        table.add_column(column)
    for line in found:
        table.add_row(line.task, line.method, f"{_accuracy(line)} {line.note}", line.layer, line.setting)
    return table


def damage_table(results: Sequence[Result]) -> Table:
    """The same linear probe on clean and on damaged test images, in percent."""
    title = "The linear probe on damaged test images, % [95% Wilson interval]"
    table = Table(title=title, title_justify="left")
    damages = _in_order(damage for result in results for damage in result["damaged"])
    for column in ("encoder", "task", "clean", *damages):
        table.add_column(column)
    for task, result in zip(_tasks(results), results, strict=True):
        marks = [result, *(result["damaged"].get(damage) for damage in damages)]
        # interval below accuracy: side by side three damages would not fit 100 columns
        shown = [escape(percent(mark["test_accuracy"], mark["ci95"], "\n")) if mark else "" for mark in marks]
        table.add_row(_label(result), task, *shown)
    return table


def purposes_table(results: Sequence[Result]) -> Table:
    """How compact, invariant and abstract each code is; what tasks of one data set share stands in the first row."""
    title = "The code: compact, invariant (1: does not move), abstract (accuracy, %)"
    table = Table(title=title, title_justify="left")
    found = [result for result in results if "purposes" in result]
    tasks = _tasks(found)
    changes = _in_order(change for result in found for change in result["purposes"]["invariant"])
    for column in ("encoder", "non-zero", "bytes", *changes, "abstract"):
        table.add_column(column)
    above: list[str] = []
    for task, result in zip(tasks, found, strict=True):
        compact, invariant = result["purposes"]["compact"], result["purposes"]["invariant"]
        entries = f"{compact['nonzeros']:,.0f} of {compact['code_size']:,}"
        marks = [invariant.get(change) for change in changes]
        # adding zero: what rounds to nothing should not read -0.00
        shown = ["" if mark is None else f"{round(mark, 2) + 0.0:.2f}" for mark in marks]
        shared = [_label(result), entries, f"{compact['bytes']:,.0f}", *shown]
        blank = [""] * len(shared)
        abstract = f"{task} {100 * result['purposes']['abstract']:.1f}"
        table.add_row(*(blank if shared == above else shared), abstract)
        above = shared
    return table


def markdown_table(results: Sequence[Result]) -> str:
    """The results table for a document: methods down, tasks across."""
    found = list(lines(results))
    tasks, methods = _in_order(line.task for line in found), _in_order(line.method for line in found)
    cells = {(line.task, line.method): line for line in found}
    rows = ["| method | " + " | ".join(tasks) + " |", "| --- |" + " --- |" * len(tasks)]
    for method in methods:
        texts = []
        for task in tasks:
            line = cells.get((task, method))
            texts.append("" if line is None else " ".join(filter(None, [_accuracy(line), line.note])))
        rows.append(f"| {method} | " + " | ".join(texts) + " |")
    return "\n".join(rows) + "\n"


def table_columns() -> list[str]:
    """Columns of ``table_rows``."""
    return list(Line._fields)


def table_rows(results: Sequence[Result]) -> list[list[Any]]:
    """One row a method and task, for W&B."""
    return [list(line) for line in lines(results)]


def percent(accuracy: float, interval: Sequence[float], apart: str = " ") -> str:
    """``71.2 [70.2, 72.2]``: an accuracy and its interval, in percent."""
    low, high = interval
    return f"{100 * accuracy:.1f}{apart}[{100 * low:.1f}, {100 * high:.1f}]"


def _label(result: Result) -> str:
    """What people call this encoder: what it learned from, or else its network."""
    return str(result["encoder"]["pretext"] or result["encoder"]["name"])


def _tasks(results: Sequence[Result]) -> list[str]:
    """What people call the task of each result, different for different data."""
    names = zip(data_names(results), results, strict=True)
    return [f"{result['task']} ({data})" if data else str(result["task"]) for data, result in names]


def _accuracy(line: Line) -> str:
    return percent(line.test_accuracy, (line.low, line.high))


def _cell(line: Line | None) -> str:
    if line is None:
        return ""
    note = f"\n[dim]{line.note}[/dim]" if line.note else ""
    return f"{escape(_accuracy(line))}\n[dim]layer {line.layer}, {line.setting}[/dim]{note}"


def _in_order(values: Any) -> list[str]:
    return list(dict.fromkeys(values))

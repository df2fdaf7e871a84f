"""Results as tables: methods by tasks for the console, long rows for W&B, Markdown for documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table

from finetune.results import Choice, FinetuneResult, Outcome, ProbeResult, Score, choice_text

TASKS_ACROSS = 3  # tasks side by side in 100 columns
TITLE = "Test accuracy, % [95% Wilson interval]"
SUBJECTS = {"pixels": "raw pixels"}  # display names that differ from the key
PROBES = {"knn": "k-NN"}


class Line(NamedTuple):
    """One method on one task."""

    task: str  # with the data that distinguishes it, if there are several
    method: str
    test_accuracy: float
    low: float
    high: float
    layer: str
    pooling: str
    setting: str  # "l2 0.001", "k 20" or "step 450 of 600"
    n_test: int
    note: str

    @property
    def accuracy(self) -> str:
        """In percent, with its interval."""
        return _percent(self.test_accuracy, self.low, self.high)

    @property
    def chosen(self) -> str:
        """The choice made on the validation split."""
        return choice_text(self.layer, self.pooling, self.setting)


# ---- lines


def probe_lines(results: Sequence[ProbeResult]) -> list[Line]:
    """Every method on every task, from the results of one or more probe runs; a shared baseline appears once."""
    several = len({result.encoder.title for result in results}) > 1
    found: dict[Line, None] = {}
    for task, result in zip(task_names(results), results, strict=True):
        for key, subject in result.subjects.items():
            name = result.encoder.title if key == "encoder" else SUBJECTS.get(key, key.replace("_", " "))
            if several and key not in ("encoder", "pixels"):
                name = f"{name} ({result.encoder.title})"
            note = "saw gray only" if result.needs_color and subject.view == "gray" else ""
            for probe, outcome in subject.probes.items():
                method = f"{name}, {PROBES.get(probe, probe.replace('_', ' '))}"
                found[_line(task, method, outcome, note)] = None
    return list(found)


def finetune_lines(result: FinetuneResult) -> list[Line]:
    """The fine-tuned network and its baselines."""
    outcomes: dict[str, Outcome[Choice] | None] = {
        "trained from scratch" if result.start == "scratch" else "fine-tuned": result.tuned,
        "linear probe of the frozen encoder": result.linear_probe,
        "same network from scratch": result.from_scratch,
    }
    return [_line(result.task, method, outcome) for method, outcome in outcomes.items() if outcome is not None]


def _line(task: str, method: str, outcome: Outcome[Choice], note: str = "") -> Line:
    score = outcome.test
    return Line(task, method, score.accuracy, *score.ci95, *outcome.choice.cells, score.n, note)


def task_names(results: Sequence[ProbeResult]) -> list[str]:
    """The display name of each result's task, different for different data."""
    names = zip(data_names(results), results, strict=True)
    return [f"{result.task} ({data})" if data else result.task for data, result in names]


def data_names(results: Sequence[ProbeResult]) -> list[str]:
    """The shortest name that distinguishes each result's data from the others; empty if all are the same."""
    facts = [
        (
            result.data.train,
            f"tested on {result.data.test}",
            f"{result.linear.n_train:,} training images",
            f"{result.linear.test.n:,} test images",
        )
        for result in results
    ]
    names: list[tuple[str, ...]] = [()] * len(facts)
    for values in zip(*facts, strict=True):
        longer = [(*name, value) for name, value in zip(names, values, strict=True)]
        if len(set(longer)) > len(set(names)):
            names = longer
    return [", ".join(name) for name in names]


# ---- tables


def results_table(lines: Sequence[Line]) -> Table:
    """Test accuracy in percent with its 95% interval: methods in rows, tasks in columns; readable at 100 columns."""
    tasks, methods, cells = _grid(lines)
    table = Table(title=TITLE, title_justify="left", show_lines=False)
    if len(tasks) > TASKS_ACROSS:
        for column in ("task", "method", "accuracy", "layer", "chosen"):
            table.add_column(column)
        for line in lines:
            table.add_row(line.task, line.method, f"{escape(line.accuracy)} {line.note}", line.layer, line.setting)
        return table
    table.add_column("method")
    for task in tasks:
        count = next(line.n_test for line in lines if line.task == task)
        table.add_column(f"{task}\n{count:,} test images")
    if len(tasks) == 1:  # room for the whole choice
        table.add_column("chosen on validation")
        for line in lines:
            table.add_row(line.method, f"{escape(line.accuracy)}{_dim(line.note)}", line.chosen)
        return table
    for method in methods:
        found = [cells.get((task, method)) for task in tasks]
        table.add_row(method, *("" if line is None else _cell(line) for line in found))
    return table


def results_markdown(lines: Sequence[Line]) -> str:
    """The results table for a document: methods in rows, tasks in columns."""
    tasks, methods, cells = _grid(lines)

    def text(line: Line | None) -> str:
        return "" if line is None else " ".join(filter(None, [line.accuracy, line.note]))

    rows = [[method, *(text(cells.get((task, method))) for task in tasks)] for method in methods]
    return markdown(["method", *tasks], rows)


def damage_table(results: Sequence[ProbeResult]) -> Table:
    """Accuracy of the same linear probe on clean and on damaged test images, in percent."""
    title = "Linear probe on damaged test images: accuracy, % [95% Wilson interval]"
    table = Table(title=title, title_justify="left")
    damages = _in_order(damage for result in results for damage in result.linear.damaged)
    for column in ("encoder", "task", "clean", *damages):
        table.add_column(column)
    for task, result in zip(task_names(results), results, strict=True):
        scores = [result.linear.test, *(result.linear.damaged.get(damage) for damage in damages)]
        # the interval goes below the accuracy, so that three kinds of damage fit in 100 columns
        shown = ["" if score is None else escape(percent(score, "\n")) for score in scores]
        table.add_row(result.encoder.title, task, *shown)
    return table


def properties_table(results: Sequence[ProbeResult]) -> Table:
    """How compact, invariant and abstract each code is; values that tasks share appear only in the first row."""
    title = "Code properties: compact, invariant (1 = unchanged), abstract (linear probe, %)"
    table = Table(title=title, title_justify="left")
    codes = [(task, r, r.code) for task, r in zip(task_names(results), results, strict=True) if r.code is not None]
    changes = _in_order(change for _, _, code in codes for change in code.invariance)
    for column in ("encoder", "non-zero", "bytes", *changes, "abstract"):
        table.add_column(column)
    above: list[str] = []
    for task, result, code in codes:
        entries = f"{code.nonzeros:,.0f} of {code.size:,}"
        shown = [two_decimals(code.invariance.get(change)) for change in changes]
        shared = [result.encoder.title, entries, f"{code.bytes:,.0f}", *shown]
        table.add_row(
            *([""] * len(shared) if shared == above else shared), f"{task} {100 * result.linear.test.accuracy:.1f}"
        )
        above = shared
    return table


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: bool = False) -> str:
    """A Markdown table; ``right`` aligns all columns but the first to the right."""
    rule = ["---", *(["---:" if right else "---"] * (len(header) - 1))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *rows))


# ---- cells


def percent(score: Score, apart: str = " ") -> str:
    """``71.2 [70.2, 72.2]``: an accuracy and its interval, in percent."""
    return _percent(score.accuracy, *score.ci95, apart)


def two_decimals(value: float | None) -> str:
    """``0.91``; empty if undefined. Adding zero turns -0.00 into 0.00."""
    return "" if value is None else f"{round(value, 2) + 0.0:.2f}"


def _percent(accuracy: float, low: float, high: float, apart: str = " ") -> str:
    return f"{100 * accuracy:.1f}{apart}[{100 * low:.1f}, {100 * high:.1f}]"


def _cell(line: Line) -> str:
    chosen = choice_text(line.layer, "", line.setting)  # the pooling would not fit in 100 columns
    return f"{escape(line.accuracy)}{_dim(chosen)}{_dim(line.note)}"


def _dim(text: str) -> str:
    return f"\n[dim]{escape(text)}[/dim]" if text else ""


def _grid(lines: Sequence[Line]) -> tuple[list[str], list[str], dict[tuple[str, str], Line]]:
    """Tasks, methods, and the line of each pair."""
    cells = {(line.task, line.method): line for line in lines}
    return _in_order(line.task for line in lines), _in_order(line.method for line in lines), cells


def _in_order(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))

"""Results as tables: blocks of methods by task for the console and documents, long rows for W&B."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table

from finetune.results import (
    Choice,
    FinetuneResult,
    LabelEfficiency,
    LabelPoint,
    LabelResult,
    Outcome,
    ProbeResult,
    Score,
    Worth,
)

TITLE = "Test accuracy, % [95% interval]"
LABEL_TITLE = "Several labels per image, linear probe: mean average precision, % [95% interval]"
SUBJECTS = {"random_init": "untrained", "pixels": "raw pixels"}  # display names that differ from the key
NETWORKS = {"random_init": "the untrained network", "pixels": "raw pixels"}
PROBES = {"knn": "k-NN"}
MAIN = ("linear", "")  # the probe that has intervals in the tables, and a network that needs none


class Line(NamedTuple):
    """One probe of one method on one task."""

    task: str  # with the data that distinguishes it, if there are several
    method: str
    probe: str  # linear, knn, ...; empty for a network that classifies by itself
    test_accuracy: float
    low: float
    high: float
    gain: float | None  # over `over` on the same test images
    gain_low: float | None
    gain_high: float | None
    over: str  # untrained, or from scratch
    layer: str
    pooling: str
    setting: str  # "l2 0.001", "k 20" or "step 450 of 600"
    how: str  # how layer, pooling and setting were chosen
    n_test: int
    chance: float  # accuracy of always answering the most frequent class
    note: str


# ---- lines


def probe_lines(results: Sequence[ProbeResult]) -> list[Line]:
    """Every method on every task, from the results of one or more probe runs; a shared baseline appears once."""
    several = len({result.encoder.title for result in results}) > 1
    found: dict[Line, None] = {}
    for task, result in zip(task_names(results), results, strict=True):
        for key, subject in result.subjects.items():
            name = subject_name(key, result.encoder.title)
            if several and key not in ("encoder", "pixels"):
                name = f"{name} ({result.encoder.title})"
            note = "saw gray only" if result.needs_color and subject.view == "gray" else ""
            for probe, outcome in subject.probes.items():
                found[_line(task, name, probe, outcome, "random_init", note)] = None
    return list(found)


def finetune_lines(result: FinetuneResult) -> list[Line]:
    """The fine-tuned network and its baselines."""
    outcomes: dict[str, Outcome[Choice] | None] = {
        "trained from scratch" if result.start == "scratch" else "fine-tuned": result.tuned,
        "linear probe of the frozen encoder": result.linear_probe,
        "same network from scratch": result.from_scratch,
    }
    return [
        _line(result.task, method, "", outcome, "from_scratch")
        for method, outcome in outcomes.items()
        if outcome is not None
    ]


def _line(task: str, method: str, probe: str, outcome: Outcome[Choice], baseline: str, note: str = "") -> Line:
    score, choice, gain = outcome.test, outcome.choice, outcome.compared.get(baseline)
    layer, pooling, setting = choice.cells
    low, high = score.ci95
    return Line(
        task=task,
        method=method,
        probe=probe,
        test_accuracy=score.accuracy,
        low=low,
        high=high,
        gain=None if gain is None else gain.difference,
        gain_low=None if gain is None else gain.ci95[0],
        gain_high=None if gain is None else gain.ci95[1],
        over=SUBJECTS.get(baseline, baseline.replace("_", " ")),
        layer=layer,
        pooling=pooling,
        setting=setting,
        how=choice.how,
        n_test=score.n,
        chance=max(map(sum, score.confusion)) / score.n,
        note=note,
    )


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
    """Test accuracy in percent, a block of methods for each task; readable at 100 columns."""
    chosen = _in_order(line.how for line in lines if line.how)
    title = f"{TITLE}; chosen by {' or '.join(chosen)}" if chosen else TITLE
    table = Table(title=title, title_justify="left", show_lines=False)
    header, blocks = _blocks(lines)
    for column in ("method", *header):
        table.add_column(column)
    for first, rows in blocks:
        table.add_section()
        table.add_row(
            f"[bold]{escape(first.task)}[/bold], chance {_number(first.chance)}, {first.n_test:,} test images"
        )
        for method, cells in rows:
            table.add_row(f"  {escape(method)}", *map(escape, cells))
    return table


def results_markdown(lines: Sequence[Line]) -> str:
    """The results table for a document."""
    header, blocks = _blocks(lines)
    rows = [[first.task, method, *cells] for first, found in blocks for method, cells in found]
    return markdown(["task", "method", *header], rows)


class _Block(NamedTuple):
    """The rows of one task."""

    first: Line
    rows: list[tuple[str, list[str]]]  # method, and its cells


def _blocks(lines: Sequence[Line]) -> tuple[list[str], list[_Block]]:
    """The columns after the method, and the rows of each task."""
    more = _in_order(line.probe for line in lines if line.probe not in MAIN)
    over = _in_order(line.over for line in lines if line.gain is not None)
    header = [
        "accuracy",
        *(f"gain over {name}" for name in over),
        *(PROBES.get(name, name.replace("_", " ")) for name in more),
    ]
    cells: dict[tuple[str, str], dict[str, Line]] = {}
    for line in lines:
        cells.setdefault((line.task, line.method), {})["" if line.probe in MAIN else line.probe] = line
    blocks: list[_Block] = []
    for task in _in_order(line.task for line in lines):
        rows = []
        for (of, method), found in cells.items():
            if of == task:
                some = next(iter(found.values()))
                main = found.get("")
                shown = ["" if main is None else _percent(main.test_accuracy, main.low, main.high)]
                shown += ["" if main is None or main.over != name else _gain(main) for name in over]
                shown += ["" if name not in found else _number(found[name].test_accuracy) for name in more]
                rows.append((f"{method} ({some.note})" if some.note else method, shown))
        blocks.append(_Block(next(line for line in lines if line.task == task), rows))
    return header, blocks


def labels_table(result: LabelResult) -> Table:
    """Mean average precision and F1 of each subject, in percent; those of each label are in the results."""
    encoder = result.subjects["encoder"]
    table = Table(title=f"{LABEL_TITLE}; chosen by {encoder.choice.how}", title_justify="left")
    over = [SUBJECTS.get(name, name) for name in encoder.compared]
    for column in ("method", "mean", *(f"gain over {name}" for name in over), "macro F1", "micro F1"):
        table.add_column(column)
    about = f"{len(result.labels)} labels, chance {_number(encoder.test.chance)}, {encoder.test.n:,} test images"
    table.add_row(f"[bold]{escape(result.task)}[/bold], {about}")
    for key, one in result.subjects.items():
        gains = [gain_text(found.difference, *found.ci95) for found in one.compared.values()] or [""] * len(over)
        mean = _percent(one.test.mean_average_precision, *one.test.ci95)
        shown = (mean, *gains, _number(one.test.macro_f1), _number(one.test.micro_f1))
        table.add_row(f"  {escape(subject_name(key, result.encoder.title))}", *map(escape, shown))
    return table


def subject_name(key: str, encoder: str) -> str:
    """Its display name."""
    return encoder if key == "encoder" else SUBJECTS.get(key, key.replace("_", " "))


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


def efficiency_table(results: Sequence[ProbeResult]) -> Table:
    """Accuracy of each subject by number of labels, and how many labels each baseline needs to be as accurate."""
    title = r"Linear probe with fewer labels: test accuracy, % \[least, most of the draws]"
    table = Table(title=title, title_justify="left")
    tasks = zip(task_names(results), results, strict=True)
    found = [(task, one) for task, result in tasks if (one := result.label_efficiency) is not None]
    subjects = _in_order(name for _, one in found for name in one.curves)
    baselines = _in_order(name for _, one in found for name in one.worth)
    for column in ("labels", *subjects, *(f"labels {name} needs" for name in baselines)):
        table.add_column(" ".join(SUBJECTS.get(word, word) for word in column.split()))
    for task, one in found:
        table.add_section()
        table.add_row(f"[bold]{escape(task)}[/bold]")
        for place, point in enumerate(one.curves["encoder"]):
            shown = [draws_text(one.curves[name][place], "\n") if name in one.curves else "" for name in subjects]
            shown += [labels_text(one, one.worth[name][place], "\n") if name in one.worth else "" for name in baselines]
            table.add_row(f"  {point.labels:,}", *map(escape, shown))
    return table


def worth_lines(task: str, encoder: str, found: LabelEfficiency) -> list[str]:
    """For each baseline: ``shape: denoise with 500 labels equals the untrained network with about 2,100``.

    It is said of the most labels whose worth is known, and if there are none, of the fewest.
    """
    lines = []
    for name, worth in found.worth.items():
        one = next((one for one in reversed(worth) if one.equals), worth[0])
        needed = f"{'about ' if one.equals else ''}{labels_text(found, one)}"
        lines.append(f"{task}: {encoder} with {one.labels:,} labels equals {NETWORKS.get(name, name)} with {needed}")
    return lines


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: bool = False) -> str:
    """A Markdown table; ``right`` aligns all columns but the first to the right."""
    rule = ["---", *(["---:" if right else "---"] * (len(header) - 1))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *rows))


# ---- cells


def percent(score: Score, apart: str = " ") -> str:
    """``71.2 [70.2, 72.2]``: an accuracy and its interval, in percent."""
    return _percent(score.accuracy, *score.ci95, apart)


def draws_text(point: LabelPoint, apart: str = " ") -> str:
    """``71.2 [70.2, 72.2]``: the mean accuracy of the draws, the least and the most, in percent."""
    least, most = min(point.draws), max(point.draws)
    return _percent(point.accuracy, least, most, apart) if len(point.draws) > 1 else _number(point.accuracy)


def labels_text(found: LabelEfficiency, one: Worth, apart: str = " ") -> str:
    """``2,100 [1,600, 2,900]``, to two digits; ``more than all 5,000`` where the curve ends."""
    fewest, all_ = (found.curves["encoder"][place].labels for place in (0, -1))

    def text(labels: int | None) -> str:
        if labels is None:
            return f"more than all {all_:,}"
        return f"{_two_digits(labels):,}" if labels else f"fewer than {fewest:,}"

    low, high = map(text, one.ci95)
    return text(one.equals) if low == high else f"{text(one.equals)}{apart}[{low}, {high}]"


def _two_digits(value: int) -> int:
    return round(value, 2 - len(str(value)))


def two_decimals(value: float | None) -> str:
    """``0.91``; empty if undefined. Adding zero turns -0.00 into 0.00."""
    return "" if value is None else f"{round(value, 2) + 0.0:.2f}"


def _percent(accuracy: float, low: float, high: float, apart: str = " ") -> str:
    return f"{_number(accuracy)}{apart}[{_number(low)}, {_number(high)}]"


def _gain(line: Line) -> str:
    """``+2.4 [+0.5, +4.3]``, in points; empty if it was not compared."""
    if line.gain is None or line.gain_low is None or line.gain_high is None:
        return ""
    return gain_text(line.gain, line.gain_low, line.gain_high)


def gain_text(gain: float, low: float, high: float) -> str:
    """``+2.4 [+0.5, +4.3]``, in points. Adding zero turns -0.0 into 0.0."""
    shown, least, most = (f"{round(100 * value, 1) + 0.0:+.1f}" for value in (gain, low, high))
    return f"{shown} [{least}, {most}]"


def _number(share: float) -> str:
    return f"{100 * share:.1f}"


def _in_order(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))

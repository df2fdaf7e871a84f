"""Results as tables for the console and documents: blocks of methods by task, properties, damage, fewer labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table

from common.runs.spread import Spread
from common.words import counted, first_upper, true_minus
from finetune.lines import SUBJECTS, Line, subject_name, task_names
from finetune.results import ProbeResult, Score
from finetune.spreads import MEASURES, Seeds
from finetune.structured_results import Several
from finetune.worth import LabelEfficiency, LabelPoint, Worth

TITLE = "Test accuracy, % [95% interval]"
SEVERAL = {
    "mean_average_precision": "Several labels per image, linear probe: mean average precision",
    "mean_iou": "Masks, linear probe of each cell: mean IoU over all test pixels",
}
NETWORKS = {"random_init": "the untrained network", "pixels": "raw pixels", "from_scratch": "training it from scratch"}
PROBES = {"knn": "k-NN"}
PROPERTIES = (
    "The code is the encoder's last map. Compact: few numbers are not 0. Invariant: it stays as it is if the image is "
    "changed so. Abstract: it tells classes apart. More is in the page of retouch report."
)
MAIN = ("linear", "")  # the probe that has intervals in the tables, and a network that needs none


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
    rows = [
        [f"{first.task} (chance {_number(first.chance)})" if place == 0 else "", method, *cells]
        for first, found in blocks
        for place, (method, cells) in enumerate(found)
    ]
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
                main = found.get("")
                shown = ["" if main is None else _percent(main.test_accuracy, main.low, main.high)]
                shown += ["" if main is None or main.over != name else _gain(main) for name in over]
                shown += ["" if name not in found else _number(found[name].test_accuracy) for name in more]
                rows.append((method, shown))
        blocks.append(_Block(next(line for line in lines if line.task == task), rows))
    return header, blocks


def several_table(result: Several) -> Table:
    """The mean and other numbers of each subject, in percent; those of each label or class are in the results."""
    encoder = result.linear
    title = f"{SEVERAL[result.measure]}, % [95% interval]; chosen by {encoder.choice.how}"
    table = Table(title=title, title_justify="left")
    over = [SUBJECTS.get(name, name) for name in encoder.compared]
    # names, and intervals of gains, take two lines, so that all fits in 100 columns
    shorter = (name.replace(" ", "\n") for name in encoder.test.others)
    for column in ("method", "mean", *(f"gain over\n{name}" for name in over), *shorter):
        table.add_column(column)
    names = "labels" if result.measure == "mean_average_precision" else "classes"
    about = f"{len(result.names)} {names}, chance {_number(encoder.test.chance)}\n{encoder.test.n:,} test images"
    table.add_row(f"[bold]{escape(result.task)}[/bold]\n{about}")
    for key, one in result.subjects.items():
        gains = [gain_text(found.difference, *found.ci95, "\n") for found in one.compared.values()] or [""] * len(over)
        shown = (_percent(one.test.mean, *one.test.ci95), *gains, *map(_number, one.test.others.values()))
        table.add_row(f"  {escape(subject_name(key, result.encoder.title))}", *map(escape, shown))
    return table


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
        table.add_row(escape(result.encoder.title), escape(task), *shown)
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
        shared = [escape(result.encoder.title), entries, f"{code.bytes:,.0f}", *shown]
        table.add_row(
            *([""] * len(shared) if shared == above else shared),
            f"{escape(task)} {100 * result.linear.test.accuracy:.1f}",
        )
        above = shared
    table.caption, table.caption_justify = PROPERTIES, "left"
    return table


def efficiency_table(results: Sequence[ProbeResult]) -> Table:
    """Accuracy of each subject by number of labels, and how many labels each baseline needs to be as accurate."""
    title = r"Linear probe with fewer labels: test accuracy, % \[95% interval]"
    table = Table(title=title, title_justify="left")
    tasks = zip(task_names(results), results, strict=True)
    found = [(task, one) for task, result in tasks if (one := result.label_efficiency) is not None]
    subjects = _in_order(name for _, one in found for name in one.curves)
    baselines = _in_order(name for _, one in found for name in one.worth)
    for column in ("labels", *subjects, *(f"labels {name} needs" for name in baselines)):
        table.add_column(" ".join(SUBJECTS.get(word, word.replace("_", " ")) for word in column.split()))
    for task, one in found:
        table.add_section()
        table.add_row(f"[bold]{escape(task)}[/bold]")
        points = {(name, point.labels): point for name, curve in one.curves.items() for point in curve}
        for place, point in enumerate(one.curves["encoder"]):
            at = [points.get((name, point.labels)) for name in subjects]
            shown = ["" if each is None else point_text(each, "\n") for each in at]
            shown += [
                labels_text(one, name, one.worth[name][place], "\n") if name in one.worth else "" for name in baselines
            ]
            table.add_row(f"  {point.labels:,}", *map(escape, shown))
    return table


def seeds_table(seeds: Seeds, encoder: str) -> Table:
    """Accuracy in percent over several seeds, a block of methods for each task, and its interval for linear probes."""
    what = "pretraining seeds" if seeds.over == "pretraining" else "seeds of the probe; the encoder is the same"
    measured = " or ".join(_in_order(MEASURES[one.measure] for one in seeds.spreads))
    title = f"{first_upper(measured)}, %: mean ± standard deviation over {what}"
    table = Table(title=title, title_justify="left")
    probes = _in_order(one.probe for one in seeds.spreads)
    header = [PROBES.get(name, name.replace("_", " ")) for name in probes]
    for column in ("method", *header, "linear, 95% interval of the mean"):
        table.add_column(column)
    found = {(*one.of, one.subject, one.probe): one for one in seeds.spreads}
    several = len({one.measure for one in seeds.spreads}) > 1
    for task, measure in dict.fromkeys(one.of for one in seeds.spreads):
        table.add_section()
        table.add_row(f"[bold]{escape(task)}[/bold]{f', {MEASURES[measure]}' if several else ''}")
        for subject in _in_order(one.subject for one in seeds.spreads if one.of == (task, measure)):
            shown = [
                spread_text(found[key].spread) if (key := (task, measure, subject, name)) in found else ""
                for name in probes
            ]
            low, high = found[task, measure, subject, "linear"].spread.ci95
            shown.append(f"[{_number(low)}, {_number(high)}]")
            table.add_row(f"  {escape(subject_name(subject, encoder))}", *map(escape, shown))
    return table


def worth_lines(task: str, encoder: str, found: LabelEfficiency) -> list[str]:
    """For each baseline: ``shape: denoise with 500 labels equals the untrained network with about 2,100``.

    The line is about the most labels whose worth is known, or if there are none, about the fewest.
    """
    lines = []
    for name, worth in found.worth.items():
        one = next((one for one in reversed(worth) if one.equals), worth[0])
        with_labels = f"{task}: {encoder} with {one.labels:,} labels"
        if one.ci95 == (0, None):  # the interval has them all
            lines.append(
                f"{with_labels} may equal {NETWORKS.get(name, name)} with any number: too few test images to tell"
            )
            continue
        needed = f"{'about ' if one.equals else ''}{labels_text(found, name, one)}"
        lines.append(f"{with_labels} equals {NETWORKS.get(name, name)} with {needed}")
    return lines


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: bool = False) -> str:
    """A Markdown table; ``right`` aligns all columns but the first to the right."""
    rule = ["---", *(["---:" if right else "---"] * (len(header) - 1))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *rows))


# ---- cells


def percent(score: Score, apart: str = " ") -> str:
    """``71.2 [70.2, 72.2]``: an accuracy and its interval, in percent."""
    return _percent(score.accuracy, *score.ci95, apart)


def spread_text(spread: Spread) -> str:
    """``71.2 ± 0.4 (5 seeds)``: mean and standard deviation, in percent."""
    return f"{_number(spread.mean)} ± {_number(spread.deviation)} ({counted(len(spread.values), 'seed')})"


def point_text(point: LabelPoint, apart: str = " ") -> str:
    """``71.2 [70.2, 72.2]``: the mean accuracy of the draws and its interval, in percent."""
    return _number(point.accuracy) if point.ci95 is None else _percent(point.accuracy, *point.ci95, apart)


def labels_text(found: LabelEfficiency, baseline: str, one: Worth, apart: str = " ") -> str:
    """``2,100 [1,600, 2,900]``, to two digits; ``more than all 5,000`` where the curve ends."""
    fewest, all_ = (found.curves[baseline][place].labels for place in (0, -1))

    def text(labels: int | None) -> str:
        if labels is None:
            return f"more than all {all_:,}"
        return f"{two_digits(labels):,}" if labels else f"fewer than {fewest:,}"

    low, high = map(text, one.ci95)
    return text(one.equals) if low == high else f"{text(one.equals)}{apart}[{low}, {high}]"


def two_digits(value: int) -> int:
    return round(value, 2 - len(str(value)))


def two_decimals(value: float | None) -> str:
    """``0.91``; empty if undefined. Adding zero turns -0.00 into 0.00."""
    return "" if value is None else true_minus(f"{round(value, 2) + 0.0:.2f}")


def _percent(accuracy: float, low: float, high: float, apart: str = " ") -> str:
    return f"{_number(accuracy)}{apart}[{_number(low)}, {_number(high)}]"


def _gain(line: Line) -> str:
    """``+2.4 [+0.5, +4.3]``, in points; empty if it was not compared."""
    if line.gain is None or line.gain_low is None or line.gain_high is None:
        return ""
    return gain_text(line.gain, line.gain_low, line.gain_high)


def gain_text(gain: float, low: float, high: float, apart: str = " ") -> str:
    """``+2.4 [+0.5, +4.3]``, in points. Adding zero turns -0.0 into 0.0."""
    shown, least, most = (f"{round(100 * value, 1) + 0.0:+.1f}" for value in (gain, low, high))
    return true_minus(f"{shown}{apart}[{least}, {most}]")


def _number(share: float) -> str:
    return f"{100 * share:.1f}"


def _in_order(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))

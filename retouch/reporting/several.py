"""Several labels per image, and masks, as tables: means with their gains, and the value of each label or class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from common.words import counted, headed
from finetune.lines import baseline_name, titles_by_view
from finetune.spreads import MEASURES, Measure
from finetune.structured_results import Several, SeveralProbed, SeveralScore
from retouch.reporting.blocks import Block, Cell, Column, Prose, Table
from retouch.reporting.compare import several_gains
from retouch.reporting.facts import Facts, SeveralEntry
from retouch.reporting.sentences import distinct, interval, layer_text, listed, number, signed
from retouch.reporting.tables import over_name, twin_name

OPEN_ROWS = 12  # of a table of labels or classes: more are folded
BOLD = (
    "Brackets: 95% intervals. Bold: the difference is shown, which means that its interval excludes zero and that "
    "p < 0.05 (normal approximation to the paired difference) after Holm's correction for all differences in this part "
    "of the page from the same baseline."
)


class Words(NamedTuple):
    """The words for one kind."""

    one: str
    many: str
    rarest: str  # a label or class with few images
    each: str  # the measure of one
    shows: str  # the verb: an image has a label, or shows a class
    share: str  # of all images or pixels
    chance: str
    pooling: str
    about: str


WORDS: dict[Measure, Words] = {
    "mean_average_precision": Words(
        "label",
        "labels",
        "label",
        "average precision",
        "has",
        "chance",
        "chance",
        "pooling",
        "Average precision: images are ranked by their score for a label, and precision is averaged over those that "
        "have it. A random order reaches the label's share of the images. F1: labels with a probability above 0.5 are "
        "predicted.",
    ),
    "mean_iou": Words(
        "class",
        "classes",
        "class of pixels",
        "IoU",
        "shows",
        "of all pixels",
        "the most frequent class alone",
        "map",
        "IoU (intersection over union) of a class: the pixels that belong to it and are predicted as it, divided by "
        "those for which at least one of these is true, over all test images together. The probe predicts the cells of "
        "a map, so coarse maps miss fine outlines.",
    ),
}


def several_blocks(entries: Sequence[SeveralEntry[Several]]) -> tuple[Block, ...]:
    """For each task of one kind, a table of all encoders and their baselines, and a table of all labels or classes."""
    blocks: list[Block] = []
    shown = {
        (one.task, one.one, one.other)
        for baseline in distinct(name for entry in entries for name in entry.result.linear.compared)
        for one in several_gains(entries, baseline)
        if one.shown != "open"
    }
    for task in distinct(entry.task for entry in entries):
        of_task = [entry for entry in entries if entry.task == task]
        first, subjects = of_task[0].result, _subjects(of_task)
        strong = {(encoder, other) for where, encoder, other in shown if where == task}
        blocks += [_means(of_task, subjects, strong), _each(task, first, subjects)]
    return (*blocks, Prose((WORDS[entries[0].result.measure].about, BOLD), small=True)) if blocks else ()


def several_limits(facts: Facts) -> list[str]:
    """Labels and classes with few test images, or none."""
    found = []
    for entry in facts.several:
        words, test = WORDS[entry.result.measure], entry.result.linear.test
        counts = {name: count for name, count in zip(entry.result.names, test.shown_by, strict=True) if count}
        rarest = min(counts, key=counts.__getitem__)
        found.append(
            headed(
                facts.about(entry.task),
                f"the rarest {words.rarest}, {rarest}, is in only "
                f"{counted(counts[rarest], 'test image')}, which limits how well its {words.each} is known.",
            )
        )
        missing = [name for name in entry.result.names if name not in counts]
        if missing:
            found.append(
                headed(
                    facts.about(entry.task),
                    f"no test image {words.shows} {listed(missing, 'or')}, so the {words.each} is not known.",
                )
            )
    return distinct(found)


def _subjects(entries: Sequence[SeveralEntry[Several]]) -> dict[str, SeveralProbed[SeveralScore]]:
    """Every encoder and baseline by its name; raw pixels, which are the same for all encoders, only once."""
    found: dict[str, SeveralProbed[SeveralScore]] = {}
    views = titles_by_view((entry.result.encoder.view, entry.encoder) for entry in entries)
    for entry in entries:
        for key, one in entry.result.subjects.items():
            name = entry.encoder if key == "encoder" else baseline_name(key, one.view, entry.encoder, views)
            name = twin_name(entry, key, name)
            found.setdefault(name, one)
    return found


def _means(
    entries: Sequence[SeveralEntry[Several]],
    subjects: Mapping[str, SeveralProbed[SeveralScore]],
    shown: set[tuple[str, str]],
) -> Table:
    """``shown``: pairs of encoder and baseline whose difference is shown."""
    task, first = entries[0].task, entries[0].result
    words, test = WORDS[first.measure], first.linear.test
    over = distinct(name for one in subjects.values() for name in one.compared)
    columns = (
        Column("network", numeric=False),
        Column(MEASURES[first.measure], "%"),
        *(Column("gain over", over_name(entries, name)) for name in over),
        *(Column(name, "%") for name in test.others),
        Column("layer", numeric=False),
        Column(words.pooling, numeric=False),
    )
    rows = tuple((Cell(name), *_cells(name, one, over, shown)) for name, one in subjects.items())
    names = counted(len(first.names), words.one, words.many)
    note = f"{names}, {test.n:,} test images, {words.chance} {number(test.chance)}%"
    return Table(columns, rows, title=task, note=note)


def _cells(
    encoder: str, one: SeveralProbed[SeveralScore], over: Sequence[str], shown: set[tuple[str, str]]
) -> tuple[Cell, ...]:
    gains = {name: one.compared.get(name) for name in over}
    return (
        Cell(number(one.test.mean), interval(*one.test.ci95)),
        *(
            Cell("")
            if found is None
            else Cell(signed(found.difference), interval(*found.ci95), strong=(encoder, name) in shown)
            for name, found in gains.items()
        ),
        *(Cell(number(value)) for value in one.test.others.values()),
        Cell(layer_text(one.choice.layer)),
        Cell(one.choice.pooling),
    )


def _each(task: str, first: Several, subjects: Mapping[str, SeveralProbed[SeveralScore]]) -> Table:
    """The value of each label or class, most frequent first."""
    words, test = WORDS[first.measure], first.linear.test
    rows = tuple(
        (
            Cell(first.names[place]),
            Cell(f"{test.shown_by[place]:,}"),
            Cell(number(test.shares[place])),
            *(Cell("" if (found := one.test.each[place]) is None else number(found)) for one in subjects.values()),
        )
        for place in sorted(range(len(first.names)), key=lambda place: -test.shares[place])
    )
    columns = (
        Column(words.one, numeric=False),
        Column("test images"),
        Column(words.share, "%"),
        *(Column(name, "%") for name in subjects),
    )
    title = f"{words.each[0].upper()}{words.each[1:]} of {counted(len(rows), words.one, words.many)}"
    folded = title if len(rows) > OPEN_ROWS else ""
    return Table(columns, rows, title=f"{task}: {words.each} of each {words.one}", folded=folded)

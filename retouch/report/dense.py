"""Images with masks, as tables: mean IoU with its gains, and the IoU of each class."""

from __future__ import annotations

from finetune.several import DenseProbed
from retouch.report.blocks import Block, Cell, Column, Prose, Table
from retouch.report.facts import DenseEntry, Facts
from retouch.report.multilabel import OPEN_LABELS, OVER, titled
from retouch.report.sentences import counted, distinct, interval, listed, number, signed

ABOUT = (
    "IoU of a class: the pixels that are of it and are said to be, divided by those that are one or the other, over "
    "all test images together. The probe answers for cells of a map, so fine outlines are beyond coarse maps.",
    "Bold: the paired interval excludes zero; it is not corrected for the number of comparisons.",
)


def mask_blocks(facts: Facts) -> tuple[Block, ...]:
    """For each task a table of all encoders and their baselines, and one of all classes."""
    blocks: list[Block] = []
    for task in distinct(entry.task for entry in facts.dense_entries):
        entries = [entry for entry in facts.dense_entries if entry.task == task]
        blocks += [_means(task, entries), _classes(entries)]
    return (*blocks, Prose(ABOUT, small=True)) if blocks else ()


def mask_limits(facts: Facts) -> list[str]:
    """Classes of which few test images say much."""
    found = []
    for entry in facts.dense_entries:
        test = entry.result.subjects["encoder"].test
        counts = {name: count for name, count in zip(entry.result.classes, test.images, strict=True) if count}
        rarest = min(counts, key=counts.__getitem__)
        found.append(
            f"{entry.task}: the rarest class of pixels, {rarest}, is in {counted(counts[rarest], 'test image')}: its "
            "IoU depends on them alone."
        )
        missing = [name for name in entry.result.classes if name not in counts]
        if missing:
            found.append(f"{entry.task}: no test image shows {listed(missing)}, so nothing is measured there.")
    return distinct(found)


def _means(task: str, entries: list[DenseEntry]) -> Table:
    over = distinct(name for entry in entries for name in entry.result.subjects["encoder"].compared)
    rows: dict[str, tuple[Cell, ...]] = {}
    for entry in entries:
        for key, one in entry.result.subjects.items():
            rows.setdefault(titled(key, entry.encoder), (Cell(titled(key, entry.encoder)), *_cells(one, over)))
    columns = (
        Column("network", numeric=False),
        Column("mean IoU", "%"),
        *(Column("gain over", OVER.get(name, name)) for name in over),
        Column("pixel accuracy", "%"),
        Column("layer", numeric=False),
        Column("map", numeric=False),
    )
    test = entries[0].result.subjects["encoder"].test
    classes = counted(len(entries[0].result.classes), "class", "classes")
    note = f"{classes}, {test.n:,} test images, the most frequent class alone {number(test.chance)}%"
    return Table(columns, tuple(rows.values()), title=task, note=note)


def _cells(one: DenseProbed, over: list[str]) -> tuple[Cell, ...]:
    gains = [one.compared.get(name) for name in over]
    return (
        Cell(number(one.test.mean_iou), interval(*one.test.ci95)),
        *(
            Cell("") if found is None else Cell(signed(found.difference), interval(*found.ci95), strong=found.shown)
            for found in gains
        ),
        Cell(number(one.test.pixel_accuracy)),
        Cell(one.choice.layer),
        Cell(one.choice.pooling),
    )


def _classes(entries: list[DenseEntry]) -> Table:
    """The IoU of each class, that with the most pixels first."""
    classes, test = entries[0].result.classes, entries[0].result.subjects["encoder"].test
    named = {titled(key, entry.encoder): one.test for entry in entries for key, one in entry.result.subjects.items()}
    rows = [
        (
            Cell(classes[place]),
            Cell(f"{test.images[place]:,}"),
            Cell(number(test.pixels[place] / sum(test.pixels))),
            *(Cell("" if (iou := found.per_class[place]) is None else number(iou)) for found in named.values()),
        )
        for place in sorted(range(len(classes)), key=lambda place: -test.pixels[place])
    ]
    columns = (
        Column("class", numeric=False),
        Column("test images"),
        Column("of all pixels", "%"),
        *(Column(name, "%") for name in named),
    )
    folded = f"IoU of {counted(len(classes), 'class', 'classes')}" if len(classes) > OPEN_LABELS else ""
    return Table(columns, tuple(rows), title=f"{entries[0].task}: IoU of each class", folded=folded)

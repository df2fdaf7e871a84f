"""Images with several labels each, as tables: mean average precision with its gains, and that of each label."""

from __future__ import annotations

from finetune.lines import subject_name
from finetune.several import LabelProbed, LabelScore
from retouch.report.blocks import Block, Cell, Column, Prose, Table
from retouch.report.compare import PIXELS, UNTRAINED
from retouch.report.facts import Facts, LabelEntry
from retouch.report.sentences import counted, distinct, interval, layer_text, listed, number, signed

OPEN_LABELS = 12  # rows of a table of labels: more are folded
OVER = {UNTRAINED: "untrained", PIXELS: "raw pixels"}
ABOUT = (
    "Average precision: precision, averaged over the images that have a label, where all are ranked by how much speaks "
    "for it; a random order reaches the label's share of the images. F1: of the labels that are more likely than not.",
    "Bold: the paired interval excludes zero; it is not corrected for the number of comparisons.",
)


def label_blocks(facts: Facts) -> tuple[Block, ...]:
    """For each task a table of all encoders and their baselines, and one of all labels."""
    blocks: list[Block] = []
    for task in distinct(entry.task for entry in facts.label_entries):
        entries = [entry for entry in facts.label_entries if entry.task == task]
        blocks += [_means(task, entries), _labels(entries)]
    return (*blocks, Prose(ABOUT, small=True)) if blocks else ()


def label_limits(facts: Facts) -> list[str]:
    """Labels of which few test images say much."""
    found = []
    for entry in facts.label_entries:
        test = entry.result.subjects["encoder"].test
        counts = {name: count for name, count in zip(entry.result.labels, test.positives, strict=True) if count}
        rarest = min(counts, key=counts.__getitem__)
        found.append(
            f"{entry.task}: the rarest label, {rarest}, is in {counted(counts[rarest], 'test image')}: its average "
            "precision depends on them alone."
        )
        missing = [name for name in entry.result.labels if name not in counts]
        if missing:
            found.append(f"{entry.task}: no test image has {listed(missing)}, so nothing is measured there.")
    return distinct(found)


def _mean(score: LabelScore) -> Cell:
    return Cell(number(score.mean_average_precision), interval(*score.ci95))


def _means(task: str, entries: list[LabelEntry]) -> Table:
    over = distinct(name for entry in entries for name in entry.result.subjects["encoder"].compared)
    rows: dict[str, tuple[Cell, ...]] = {}
    for entry in entries:
        for key, one in entry.result.subjects.items():
            rows.setdefault(titled(key, entry.encoder), (Cell(titled(key, entry.encoder)), *_cells(one, over)))
    columns = (
        Column("network", numeric=False),
        Column("mean average precision", "%"),
        *(Column("gain over", OVER.get(name, name)) for name in over),
        Column("macro F1", "%"),
        Column("micro F1", "%"),
        Column("layer", numeric=False),
        Column("pooling", numeric=False),
    )
    test = entries[0].result.subjects["encoder"].test
    note = f"{counted(len(entries[0].result.labels), 'label')}, {test.n:,} test images, chance {number(test.chance)}%"
    return Table(columns, tuple(rows.values()), title=task, note=note)


def _cells(one: LabelProbed, over: list[str]) -> tuple[Cell, ...]:
    gains = [one.compared.get(name) for name in over]
    return (
        _mean(one.test),
        *(
            Cell("") if found is None else Cell(signed(found.difference), interval(*found.ci95), strong=found.shown)
            for found in gains
        ),
        Cell(number(one.test.macro_f1)),
        Cell(number(one.test.micro_f1)),
        Cell(layer_text(one.choice.layer)),
        Cell(one.choice.pooling),
    )


def _labels(entries: list[LabelEntry]) -> Table:
    """The average precision of each label, the commonest first."""
    labels, test = entries[0].result.labels, entries[0].result.subjects["encoder"].test
    named = {titled(key, entry.encoder): one.test for entry in entries for key, one in entry.result.subjects.items()}
    order = sorted(range(len(labels)), key=lambda place: -test.positives[place])
    rows = [
        (
            Cell(labels[place]),
            Cell(f"{test.positives[place]:,}"),
            Cell(number(test.positives[place] / test.n)),
            *(Cell("" if (ap := found.per_label[place]) is None else number(ap)) for found in named.values()),
        )
        for place in order
    ]
    columns = (
        Column("label", numeric=False),
        Column("test images"),
        Column("chance", "%"),
        *(Column(name, "%") for name in named),
    )
    folded = f"Average precision of {counted(len(labels), 'label')}" if len(labels) > OPEN_LABELS else ""
    return Table(columns, tuple(rows), title=f"{entries[0].task}: average precision of each label", folded=folded)


def titled(key: str, encoder: str) -> str:
    """The name of a subject: that of the encoder, or of one of its baselines."""
    name = subject_name(key, encoder)
    return name if key in ("encoder", PIXELS) else f"{name} ({encoder})"

"""Facts as tables: data and codes."""

from __future__ import annotations

from collections.abc import Mapping

from common.data.originals import Originals
from finetune.properties import IMAGES
from finetune.records import GENERATED, NONE_LEFT, Choice, DataFacts, NearDuplicates
from finetune.results import FinetuneResult, Outcome, ProbeResult
from finetune.structured_results import Several
from finetune.table import two_decimals
from retouch.reporting.blocks import Cell, Column, Table
from retouch.reporting.facts import Facts
from retouch.reporting.runs import Winner
from retouch.reporting.sentences import distinct, listed, number
from retouch.reporting.tables import condensed, parted, upright

UNLABELED = "Unlabeled, for pretraining"
ORIGINAL_SIZE = Column("original size", "width × height, px", numeric=False)
NONE = {  # why no test image was seen in pretraining
    GENERATED: "images of pretraining are drawn by a program",
    NONE_LEFT: "images that repeat them were left out",
}
MEASURED_ON = f"Means over at most {IMAGES:,} evenly spaced test images; an entry counts as zero if it is very small."
FIRST = 5  # repeated test images that are listed, of each kind

# ---- data


def labeled_tables(facts: Facts) -> list[Table]:
    """The labeled images of each task; a table of its own has what is the same for all tasks."""
    found: dict[str, tuple[Cell, ...]] = {}
    for entry in facts.entries:
        found.setdefault(entry.task, _labeled(entry.task, entry.result, entry.result.linear))
    for run in facts.finetuning:
        found.setdefault(run.result.task, _labeled(run.result.task, run.result, run.result.tuned))
    for one in facts.several:
        found.setdefault(one.task, _several(one.task, one.result))
    for winner in facts.winners:
        found.setdefault(f"{winner.task} of {winner.data.test}", _studied(winner))
    if not found:
        return []
    columns = (
        Column("task", numeric=False),
        Column("training data", numeric=False),
        Column("test data", numeric=False),
        Column("image size", "px", fact="image size, px"),
        Column("training images"),
        Column("test images"),
        Column("classes"),
        Column("smallest class", "test images", fact="test images of the smallest class"),
        Column("largest class", "test images", fact="test images of the largest class"),
        Column("test images also in training", "exactly", fact="test images with an exact copy in training"),
        Column(
            "test images also in training",
            "exactly or nearly",
            fact="test images with an exact or near copy in training",
        ),
        Column("seen in pretraining", "test images", fact="test images seen in pretraining, exactly or nearly"),
        Column("left out", "of training", fact="training images left out, since they repeat test images"),
        Column("unreadable", "in training", fact="unreadable training images"),
        Column("unreadable", "in test", fact="unreadable test images"),
        ORIGINAL_SIZE,
    )
    table = Table(columns, tuple(found.values()), title="Labeled")
    return parted(table, "Labeled: the same for all tasks") if len(found) > 1 else [upright(table)]


def repeats_table(facts: Facts) -> Table | None:
    """The first test images that repeat images of training or pretraining, most similar first."""
    training: dict[NearDuplicates, None] = {}  # once, if it is the same for many encoders
    pretraining: dict[NearDuplicates, list[str]] = {}
    for name, data in _all_data(facts):
        if data.near_duplicates is not None:
            training[data.near_duplicates] = None
        if data.in_pretraining is not None:
            pretraining.setdefault(data.in_pretraining, []).append(name)
    found = [("training", "", near) for near in training]
    found += [("pretraining", listed(distinct(names)), near) for near, names in pretraining.items()]
    rows = list(
        dict.fromkeys(
            (Cell(where, of), Cell(one.test), Cell(one.other), Cell(f"{one.alike:.3f}"))
            for where, of, near in found
            for one in near.most_alike[:FIRST]
        )
    )
    if not rows:
        return None
    pairs = sum(near.pairs for *_, near in found)
    texts = (Column(text, numeric=False) for text in ("seen in", "test image", "repeated by"))
    most = "" if pairs == len(rows) else f"The {len(rows)} most similar of {pairs:,} pairs; duplicates.csv has all. "
    return Table(
        (*texts, Column("similarity")),
        tuple(rows),
        title="Test images that repeat other images",
        foot=f"{most}Similarity: correlation of gray thumbnails; at 1.000, the pixels may be identical.",
    )


def _all_data(facts: Facts) -> list[tuple[str, DataFacts]]:
    """The data of every result, with the name of the encoder, network or study that was tested on them."""
    found = [(entry.encoder, entry.result.data) for entry in facts.entries]
    found += [(one.encoder, one.result.data) for one in facts.several]
    found += [(run.origin.name, run.result.data) for run in facts.finetuning]
    return [*found, *((run.origin.name, data) for run in facts.studies for data in run.report.data.values())]


def _several(task: str, result: Several) -> tuple[Cell, ...]:
    probed = result.linear
    sizes = dict(zip(result.names, probed.test.shown_by, strict=True))
    return _data_row(task, result.data, probed.n_train, probed.test.n, sizes)


def _labeled(task: str, result: ProbeResult | FinetuneResult, outcome: Outcome[Choice]) -> tuple[Cell, ...]:
    sizes = {name: sum(row) for name, row in zip(result.classes, outcome.test.confusion, strict=True)}
    scratch = isinstance(result, FinetuneResult) and result.start == "scratch"
    return _data_row(task, result.data, outcome.n_train, outcome.test.n, sizes, pretrained=not scratch)


def _studied(one: Winner) -> tuple[Cell, ...]:
    sizes = {name: sum(row) for name, row in zip(one.classes, one.score.confusion, strict=True)}
    train = "" if one.counts is None else f"{one.counts.labeled:,}"
    return _data_row(one.task, one.data, train, one.score.n, sizes)


def _data_row(
    task: str, data: DataFacts, train: int | str, test: int, sizes: Mapping[str, int], *, pretrained: bool = True
) -> tuple[Cell, ...]:
    """``sizes``: test images of each class or label."""
    fewest, most = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    differ = sizes[fewest] < sizes[most]
    return (
        Cell(task),
        Cell(data.train),
        Cell(data.test),
        Cell(f"{data.image_size}"),
        Cell(train if isinstance(train, str) else f"{train:,}"),
        Cell(f"{test:,}"),
        Cell(f"{len(sizes):,}"),
        Cell(f"{sizes[fewest]:,}", fewest if differ else ""),
        Cell(f"{sizes[most]:,}", most if differ else ""),
        Cell(f"{data.duplicates:,}"),
        _repeated(data),
        _seen(data) if pretrained else Cell(),
        Cell(f"{data.left_out:,}" if data.left_out else ""),
        _unreadable(data.originals),
        _unreadable(data.test_originals),
        _original_size(data.originals),
    )


def _unreadable(originals: Originals | None) -> Cell:
    """Number of unreadable files; empty if not known."""
    return Cell("" if originals is None else f"{originals.unreadable:,}")


def _original_size(originals: Originals | None) -> Cell:
    """Width and height in px; empty if not known."""
    sizes = None if originals is None else originals.sizes
    if sizes is None:
        return Cell("")
    three = [f"{width:,} × {height:,}" for width, height in (sizes.smallest, sizes.median, sizes.largest)]
    if len(set(three)) == 1:
        return Cell(three[0], f"all of {sizes.images:,} sampled images")
    smallest, median, largest = three
    return Cell(f"smallest {smallest}, median {median}, largest {largest}", f"of {sizes.images:,} sampled images")


def _repeated(data: DataFacts) -> Cell:
    """Number of test images that repeat training images exactly or nearly, or why that is not known."""
    near = data.near_duplicates
    if near is None:
        return Cell("not known", data.not_compared.get("near_duplicates", ""))
    return Cell(f"{near.test_images:,}")


def _seen(data: DataFacts) -> Cell:
    """Number of test images that repeat pretraining images exactly or nearly, or why that is not known."""
    near, why = data.in_pretraining, data.not_compared.get("in_pretraining", "")
    if near is None:
        return Cell("0", NONE[why]) if why in NONE else Cell("not known", why)
    return Cell(f"{near.test_images:,}", f"{near.compared:,} of {near.of:,} images compared" if near.partial else "")


def unlabeled_tables(facts: Facts) -> list[Table]:
    """The images that encoders were trained on, and the passes over them; what all runs share has its own table."""
    if not facts.pretraining:
        return []
    rows = []
    for run in facts.pretraining:
        settings, images = run.origin.settings, run.origin.log.unlabeled
        rows.append(
            (
                Cell(run.origin.name),
                Cell(settings.data.source or ""),
                Cell("" if settings.data.image_size is None else f"{settings.data.image_size}"),
                Cell("" if images is None else f"{images:,}"),
                Cell("" if run.passes is None else f"{run.passes:.1f}"),
                _unreadable(run.results.originals),
                _original_size(run.results.originals),
            )
        )
    columns = (
        Column("run", numeric=False),
        Column("data", numeric=False),
        Column("image size", "px", fact="image size, px"),
        Column("images"),
        Column("passes", "over the images", fact="passes over the images"),
        Column("unreadable", "left out", fact="unreadable images, left out"),
        ORIGINAL_SIZE,
    )
    table = Table(columns, tuple(rows), title=UNLABELED)
    return parted(table, f"{UNLABELED}: the same for all runs")


# ---- code


def code_table(facts: Facts) -> Table | None:
    """How compact, invariant and abstract each code is."""
    codes = {entry.encoder: entry.result.code for entry in facts.entries if entry.result.code is not None}
    changes = distinct(change for code in codes.values() for change in code.invariance)
    abstract = {(entry.encoder, entry.task): entry.result.linear.test.accuracy for entry in facts.entries}
    rows = []
    for name, code in codes.items():
        invariant = [Cell(two_decimals(code.invariance.get(change))) for change in changes]
        tasks = [Cell(number(abstract[name, task]) if (name, task) in abstract else "") for task in facts.tasks]
        compact = (Cell(f"{code.size:,}"), Cell(f"{code.nonzeros:,.0f}"), Cell(f"{code.bytes:,.0f}"))
        rows.append((Cell(name), *compact, *invariant, *tasks))
    columns = (
        Column("code", numeric=False),
        Column("numbers", "compact"),
        Column("non-zero", "compact"),
        Column("bytes", "compact"),
        *(Column(change, "invariant") for change in changes),
        *(Column(task, "abstract, %") for task in facts.tasks),
    )
    return Table(columns, tuple(rows), title="On test images, by the probe", foot=MEASURED_ON) if rows else None


def storage_table(facts: Facts) -> Table | None:
    """The size of the codes, as measured by pretraining."""
    if not facts.pretraining:
        return None
    rows = []
    for run in facts.pretraining:
        found, code = run.results, run.results.code
        error = found.relative_reconstruction_error
        atoms = "" if found.atoms is None else f"{found.atoms:,}"
        rows.append(
            (
                Cell(run.origin.name),
                Cell(f"{code.code_size:,}"),
                Cell(f"{code.nonzeros:,.0f}"),
                Cell(f"{min(code.bytes_sparse, code.bytes_dense):,.0f}"),
                Cell("" if error is None else f"{error:.3g}"),
                Cell(atoms, f"{found.unused_atoms:,} unused" if found.unused_atoms else ""),
            )
        )
    columns = (
        Column("run", numeric=False),
        Column("numbers", "per image"),
        Column("non-zero", "per image"),
        Column("bytes", "per image"),
        Column("error", "relative"),
        Column("atoms"),
    )
    return condensed(Table(columns, tuple(rows), title="On images of pretraining"))

"""Facts as tables: results and choices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from common.words import counted
from finetune.lines import baseline_name, titles_by_view
from finetune.metrics import SeedComparison
from finetune.records import Choice, ProbeChoice
from finetune.results import Comparison, Outcome, Score
from finetune.structured_results import LabelComparison, Several, SeveralProbed, SeveralScore
from finetune.table import PROBES
from retouch.reporting.blocks import Cell, Column, Table
from retouch.reporting.charts import interval_mark, span_of
from retouch.reporting.compare import PIXELS, UNTRAINED, Contrast, gains, tuned_gains
from retouch.reporting.damage import damage_named
from retouch.reporting.facts import RANDOM_ATOMS, Entry, Facts, SeveralEntry
from retouch.reporting.runs import DICTIONARY, FineTuning
from retouch.reporting.sentences import chance, distinct, interval, layer_text, listed, number, signed, uneven

EMPTY = Cell("")
OVER = {UNTRAINED: "untrained", PIXELS: "raw pixels", "from_scratch": "from scratch", "linear_probe": "linear probe"}
POOLING = (
    "Pooling reduces a map to a few numbers per channel: avg is the mean over all positions, avg2 the mean over each "
    "quarter, and max the maximum."
)
SETTINGS = {
    "l2": "l2 is the regularization strength: the weight of the penalty on a classifier's weights.",
    "prior": "prior is how much predictions favor frequent classes: 0 not at all, 1 by their share of all pixels.",
    "k": "k-NN answers by the vote of the k most similar training images.",
}
END = "Smallest or largest tried: the values to choose from ended there, so one beyond it may be better."


def probe_name(key: str) -> str:
    """``linear``, ``k-NN``, ..."""
    return PROBES.get(key, key.replace("_", " "))


def accuracy(score: Score | None) -> Cell:
    """An accuracy in percent above its interval."""
    return EMPTY if score is None else Cell(number(score.accuracy), interval(*score.ci95))


def gain(found: Comparison | LabelComparison | SeedComparison | None, shown: bool) -> Cell:
    """A paired difference in points above its interval, bold where it is shown."""
    return EMPTY if found is None else Cell(signed(found.difference), interval(*found.ci95), strong=shown)


def over_name(entries: Sequence[Entry | SeveralEntry[Several]], baseline: str) -> str:
    """What a baseline is called at the head of a column about these encoders."""
    dictionaries = all(entry.result.encoder.name == DICTIONARY for entry in entries)
    return RANDOM_ATOMS if baseline == UNTRAINED and dictionaries else OVER.get(baseline, baseline)


def twin_name(entry: Entry | SeveralEntry[Several], key: str, name: str) -> str:
    """The name of an encoder's baseline; the untrained twin of a dictionary has random atoms."""
    dictionary = key == UNTRAINED and entry.result.encoder.name == DICTIONARY
    return name.replace(OVER[UNTRAINED], RANDOM_ATOMS, 1) if dictionary else name


def merged(rows: Sequence[tuple[Cell, ...]]) -> tuple[tuple[Cell, ...], ...]:
    """The same rows, with an empty first cell where it would repeat the one above."""
    above = ["", *(row[0].text for row in rows)]
    return tuple((EMPTY, *row[1:]) if row[0].text == last else row for row, last in zip(rows, above, strict=False))


def condensed(table: Table) -> Table:
    """The table without empty columns; columns with the same value in every row become a line below it.

    A table with one row, or whose rows differ only in their names, keeps all other columns.
    """
    columns = list(zip(table.columns, zip(*table.rows, strict=True), strict=True))
    filled = [(column, cells) for column, cells in columns if any(cell != EMPTY for cell in cells)]
    same = [one for one in filled[1:] if len(table.rows) > 1 and len(set(one[1])) == 1]
    same = same if len(same) < len(filled) - 1 else []
    kept = [one for one in filled if one not in same]
    said = [
        " ".join(filter(None, [f"{column.text}:", one.text, column.below, one.below and f"({one.below})"]))
        for column, (one, *_) in same
    ]
    return replace(
        table,
        columns=tuple(column for column, _ in kept),
        rows=tuple(zip(*(cells for _, cells in kept), strict=True)),
        foot=f"In every row, {'; '.join(said)}." if said else table.foot,
    )


def upright(table: Table) -> Table:
    """A table with one row, which may be wider than a page, turned into two columns: fact and value."""
    [row] = table.rows
    found = ((column, cell) for column, cell in zip(table.columns, row, strict=True) if cell != EMPTY)
    facts = tuple((Cell(column.named), cell) for column, cell in found)
    return replace(table, columns=(Column("fact", numeric=False), Column("value", numeric=False)), rows=facts)


def parted(table: Table, shared: str) -> list[Table]:
    """The table without empty columns; those with the same value in every row become a table of facts after it.

    Args:
        shared: the title of the table of facts.
    """
    short = condensed(table)
    columns = zip(table.columns, zip(*table.rows, strict=True), strict=True)
    same = [(column, cells[0]) for column, cells in columns if column not in short.columns and cells[0] != EMPTY]
    if not same:
        return [short]
    row = tuple(cell for _, cell in same)
    facts = upright(Table(tuple(column for column, _ in same), (row,), title=shared))
    return [replace(short, foot=table.foot), facts]


# ---- results


def probe_tables(facts: Facts) -> list[Table]:
    """For each task, every encoder with its probes and its gains over the baselines."""
    named = probes(facts)
    contrasts = {
        (probe, baseline): _by_place(gains(facts, baseline, probe))
        for probe in named
        for baseline in (UNTRAINED, PIXELS)
    }
    return [_probe_table(task, facts.of_task(task), named, contrasts) for task in facts.tasks]


def _by_place(found: Iterable[Contrast]) -> dict[tuple[str, str], Contrast]:
    return {(one.task, one.one): one for one in found}


def _probe_table(
    task: str,
    entries: Sequence[Entry],
    probes: Sequence[str],
    contrasts: dict[tuple[str, str], dict[tuple[str, str], Contrast]],
) -> Table:
    tests = [entry.result.linear.test for entry in entries]
    twins = [
        twin.probes["linear"].test
        for entry in entries
        if (twin := entry.result.subjects.get(UNTRAINED)) is not None and "linear" in twin.probes
    ]
    guess = chance(tests[0])
    span = span_of([guess, *(end for score in (*tests, *twins) for end in score.ci95)])
    asked = [key for key, found in contrasts.items() if any((task, entry.encoder) in found for entry in entries)]
    axis = f"axis from {100 * span[0]:.0f} to {100 * span[1]:.0f}%"
    columns = [Column("encoder", numeric=False), Column("linear, chart", axis, chart=True)]
    balanced = uneven(tests[0]) and any(score.balanced_accuracy is not None for score in tests)
    if balanced:
        columns += [Column("balanced", "linear, mean over classes, %"), Column("macro F1", "linear, %")]
    for probe in probes:
        columns.append(Column(probe_name(probe), "%"))
        columns += [Column("gain over", over_name(entries, baseline)) for key, baseline in asked if key == probe]
    rows = []
    for entry in entries:
        subjects = entry.result.subjects
        twin = subjects.get(UNTRAINED)
        baseline = twin.probes["linear"].test if twin is not None and "linear" in twin.probes else None
        test = entry.result.linear.test
        row = [encoder_cell(entry), Cell(chart=interval_mark(test, span, baseline, chance(test)))]
        if balanced:
            row += [Cell("" if one is None else number(one)) for one in (test.balanced_accuracy, test.macro_f1)]
        for probe in probes:
            outcome = subjects["encoder"].probes.get(probe)
            row.append(accuracy(None if outcome is None else outcome.test))
            for key, over in asked:
                if key == probe:
                    one = contrasts[key, over].get((task, entry.encoder))
                    row.append(gain(one and one.found, one is not None and one.shown != "open"))
        rows.append(tuple(row))
    result = entries[0].result
    classes = counted(len(result.classes), "class", "classes")
    about = f"{classes}, {tests[0].n:,} test images; always answering the most frequent class: {number(guess)}%"
    return Table(tuple(columns), tuple(rows), title=task, note=about)


def encoder_cell(entry: Entry) -> Cell:
    """The encoder's name, with a note if it saw only gray images in a task about color."""
    return Cell(entry.encoder, "saw gray only" if entry.blind else "")


def baseline_table(facts: Facts) -> Table | None:
    """What the encoders are compared with: the untrained network of each, and raw pixels, by task and probe."""
    scores: dict[str, dict[tuple[str, str], Score]] = {}
    shared: dict[str, dict[tuple[str, str], Score]] = {}  # raw pixels come last, since they belong to no encoder
    views = titles_by_view((entry.result.encoder.view, entry.encoder) for entry in facts.entries)
    for entry in facts.entries:
        for key, subject in entry.result.baselines.items():
            found = shared if key == PIXELS else scores
            row = found.setdefault(twin_name(entry, key, baseline_name(key, subject.view, entry.encoder, views)), {})
            row |= {(entry.task, probe): outcome.test for probe, outcome in subject.probes.items()}
    scores |= shared
    asked = [(task, probe) for task in facts.tasks for probe in probes(facts)]
    asked = [one for one in asked if any(one in row for row in scores.values())]
    columns = (Column("baseline", numeric=False), *(Column(task, f"{probe_name(probe)}, %") for task, probe in asked))
    rows = [(Cell(name), *(accuracy(row.get(one)) for one in asked)) for name, row in scores.items()]
    return Table(columns, tuple(rows)) if rows else None


def probes(facts: Facts) -> list[str]:
    """The names of all probes of the encoders, the linear one first."""
    return distinct(key for entry in facts.entries for key in entry.result.subjects["encoder"].probes)


def finetune_table(facts: Facts) -> Table | None:
    """Every fine-tuned network with its baselines."""
    if not facts.finetuning:
        return None
    overs = ("from_scratch", "linear_probe")
    found = {over: _by_place(tuned_gains(facts, over)) for over in overs}
    asked = [over for over in overs if found[over]]
    rows = []
    for run in facts.finetuning:
        for name, outcome in _methods(run):
            row = [Cell(run.origin.name), Cell(run.result.task), Cell(name), accuracy(outcome.test)]
            for over in asked:
                one = found[over].get((run.result.task, run.origin.name)) if outcome is run.result.tuned else None
                row.append(gain(one and one.found, one is not None and one.shown != "open"))
            rows.append(tuple(row))
    texts = [Column(text, numeric=False) for text in ("run", "task", "network")]
    columns = (*texts, Column("accuracy", "%"), *(Column("gain over", OVER[over]) for over in asked))
    return Table(columns, merged(rows))


def _methods(run: FineTuning) -> list[tuple[str, Outcome[Choice]]]:
    result = run.result
    named: list[tuple[str, Outcome[Choice] | None]] = [
        ("trained from scratch" if result.start == "scratch" else "fine-tuned", result.tuned),
        ("linear probe of the frozen encoder", result.linear_probe),
        ("same network from scratch", result.from_scratch),
    ]
    return [(name, outcome) for name, outcome in named if outcome is not None]


# ---- choices


def choice_table(facts: Facts) -> Table | None:
    """What each probe and each fine-tuned network chose, and on how many images."""
    rows = [
        (Cell(entry.task), Cell(entry.encoder), Cell(probe_name(key)), *_choice(outcome))
        for task in facts.tasks
        for entry in facts.of_task(task)
        for key, outcome in entry.result.subjects["encoder"].probes.items()
    ]
    rows += [
        (Cell(run.result.task), Cell(run.origin.name), Cell(name), *_choice(outcome))
        for run in facts.finetuning
        for name, outcome in _methods(run)
    ]
    rows += [
        (Cell(entry.task), Cell(entry.encoder), Cell(f"linear, per {per}"), *_choice(entry.result.linear))
        for entry in facts.several
        for per in ["label" if entry.result.measure == "mean_average_precision" else "cell"]
    ]
    if not rows:
        return None
    texts = ("task", "encoder", "probe", "layer", "pooling", "setting")
    columns = (
        *(Column(text, numeric=False) for text in texts),
        Column("features"),
        Column("validation", "%"),
        Column("chosen on", "images"),
        Column("fitted on", "images"),
    )
    folded = f"What each classifier chose: {counted(len(rows), 'choice')}, one row each"
    short = condensed(Table(columns, tuple(rows), folded=folded))
    foot = " ".join(filter(None, [short.foot, *choice_terms(facts)]))
    return replace(short, rows=merged(short.rows), foot=foot)


def choice_terms(facts: Facts) -> list[str]:
    """Explanations of layer, pooling and setting, for the probes in the table."""
    choices = [one.choice for entry in facts.entries for one in entry.result.subjects["encoder"].probes.values()]
    choices += [entry.result.linear.choice for entry in facts.several]
    choices += [run.result.linear_probe.choice for run in facts.finetuning if run.result.linear_probe is not None]
    settings = {name for choice in choices for name in choice.setting}
    if not choices:
        return []
    return [
        "Layers are the encoder's feature maps, counted from 0, the first after the image; features of several layers "
        "are concatenated.",
        *([POOLING] if any("avg" in choice.pooling for choice in choices) else []),
        *(text for name, text in SETTINGS.items() if name in settings),
        *([END] if any(choice.at_end_of_grid for choice in choices) else []),
    ]


def _choice(outcome: Outcome[Choice] | SeveralProbed[SeveralScore]) -> tuple[Cell, ...]:
    layer, pooling, setting = outcome.choice.cells
    probed = outcome.choice if isinstance(outcome.choice, ProbeChoice) else None
    return (
        Cell(layer_text(layer)),
        Cell(pooling),
        Cell(setting, "smallest or largest tried" if probed is not None and probed.at_end_of_grid else ""),
        Cell("" if probed is None else f"{probed.features:,}"),
        Cell(number(outcome.choice.val_accuracy)),
        Cell(f"{outcome.n_val:,}"),
        Cell(f"{outcome.n_train:,}"),
    )


# ---- robustness


def damage_table(facts: Facts) -> Table | None:
    """The same classifiers on damaged test images: linear probes, and the winners of studies."""
    found = [
        (task, encoder_cell(entry), entry.result.linear.test, entry.result.linear.damaged)
        for task in facts.tasks
        for entry in facts.of_task(task)
    ]
    found += [
        (
            one.task,
            Cell(one.name, f"winner of {one.origin.name}"),
            one.damage.clean,
            one.damage.damaged,
        )
        for one in facts.winners
        if one.damage is not None
    ]
    found = [one for one in found if one[-1]]
    if not found:
        return None
    damages = distinct(damage for *_, scores in found for damage in scores)
    texts = [damage_named(damage) for damage in damages]
    heads = [text.partition(" (")[0] for text in texts]
    heads = heads if len(set(heads)) == len(heads) else damages
    columns = (
        *(Column(text, numeric=False) for text in ("task", "encoder")),
        Column("undamaged", "%"),
        *(Column(head, "%") for head in heads),
    )
    rows = [
        (Cell(task), who, accuracy(clean), *(accuracy(scores.get(damage)) for damage in damages))
        for task, who, clean, scores in found
    ]
    foot = f"Damage: {listed(texts)}."
    if not any(facts.about(task) for task, *_ in found):
        return Table(columns[1:], tuple(row[1:] for row in rows), foot=foot)
    return Table(columns, merged(rows), foot=foot)

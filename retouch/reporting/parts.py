"""The parts of the page, in its order. A part appears only if there are facts for it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from common.files import as_utf8
from common.words import counted
from finetune.calibration import UNFITTED
from finetune.metrics import Bin, reliability
from finetune.predictions import Predictions
from finetune.records import Calibration, DataFacts
from finetune.results import Score
from finetune.table import worth_lines
from pretrain.sample import SAMPLE_IMAGES
from retouch.reporting.blocks import (
    Block,
    Commands,
    Confusion,
    Figure,
    Figures,
    Frame,
    Panel,
    Part,
    Points,
    Prose,
    Table,
    Thumbnails,
)
from retouch.reporting.charts import OF_LABELS, labels_chart, reliability_chart
from retouch.reporting.choices import chosen
from retouch.reporting.confidence import (
    LABELS_RELIABILITY,
    RELIABILITY,
    label_bins,
    label_sureness,
    sureness,
)
from retouch.reporting.facts import Facts, Group, Origin
from retouch.reporting.labeling import labeling_blocks
from retouch.reporting.layers import depth_sentences, layer_map, on_few
from retouch.reporting.limits import limits
from retouch.reporting.maps import FEW, MOST_CLASSES, confusion_chart, layer_chart
from retouch.reporting.pictures import (
    Confused,
    ImageSet,
    ImageSets,
    confused_rows,
    most_confused,
    picture,
    read_picture,
)
from retouch.reporting.places_part import places_part
from retouch.reporting.run_tables import (
    code_table,
    cost_table,
    labeled_tables,
    origin_table,
    repeats_table,
    storage_table,
    unlabeled_tables,
)
from retouch.reporting.seeds import seeds_blocks
from retouch.reporting.sentences import (
    LEGEND,
    RULE,
    chains,
    distinct,
    labels_rules,
    listed,
    number,
)
from retouch.reporting.several import several_blocks
from retouch.reporting.study import raced, study_blocks, study_tables
from retouch.reporting.tables import (
    baseline_table,
    choice_table,
    damage_table,
    finetune_table,
    probe_tables,
)
from retouch.reporting.training import remarks, restored_blocks, training_blocks
from retouch.studies.results import CONTESTANTS

OPEN_MAPS = 6  # of layers and poolings: more are folded
CODE = "The code of an image is the encoder's last map, flattened."
PROPERTIES = (
    "Compact: how few numbers it has, and how many of them are non-zero.",
    "Invariant: 1 if a change to the image leaves the code as it is, 0 if the code differs as much as another image's.",
    "Abstract: the linear probe's accuracy.",
)
STORAGE = (
    f"Means over at most {SAMPLE_IMAGES:,} evenly spaced images that pretraining has seen.",
    "Bytes: in the smaller of two formats, all numbers or only the non-zero ones with their indices.",
)
ERROR = (
    "Error: the relative error of undamaged images that are restored from their codes alone; 0 is exact, and 1 is no "
    "better than the mean image. It is empty if the code alone does not give an image."
)

LABEL = (
    "Name two classes and click images, in the grid or on the map: a classifier learns from each click, guesses the "
    "rest, and shows the most uncertain ones. Save gives labels.csv, which probe, finetune and study read."
)
BASELINES = (
    "Test accuracy of the same probes where no encoder was trained: on the features of the untrained network, which "
    "has the random weights that training began with, and on raw pixels."
)
PROBES_DAMAGED = "The same linear probes on damaged test images, without refitting."


def page_parts(facts: Facts, label: Frame | None = None) -> list[Part]:
    """All parts of the page: the only place that decides their order.

    Args:
        label: the page for labeling images, if that was asked for.
    """
    sets = ImageSets()
    found = [
        Part("study", "The race" if raced(facts) else "The contestants", study_blocks(facts)),
        Part("choices", "What was chosen", _choices(facts)),
        Part("results", "Results", _results(facts)),
        Part("seeds", "Over several seeds", seeds_blocks(facts)),
        Part("baselines", "Baselines", _baselines(facts)),
        Part("multilabel", "Several labels per image", _multilabel(facts)),
        Part("masks", "Masks", several_blocks(facts.dense_entries)),
        Part("labels", "With fewer labels", _labels(facts)),
        Part("layers", "Layers and poolings", _layers(facts)),
        Part("errors", "Errors", _errors(facts, sets)),
        Part("places", "Map and neighbors", places_part(facts, sets)),
        Part("label", "Label images", () if label is None else (Prose((LABEL,)), label)),
        Part("training", "Training", training_blocks(facts)),
        Part("restored", "Original, damaged, restored", restored_blocks(facts)),
        Part("atoms", "Atoms", _atoms(facts)),
        Part("data", "Data", (*_data(facts), *(() if label is not None else labeling_blocks(facts)))),
        Part("damage", "Robustness to damage", _damage(facts)),
        _code(facts),
        Part("cost", "Cost", _only(cost_table(facts))),
        Part("repeat", "How to repeat", _repeat(facts)),
        Part("limits", "Limits", _limits(facts)),
    ]
    return [part for part in found if part.blocks]


def card_parts(facts: Facts) -> list[Part]:
    """The parts of a model card."""
    found = [
        Part("study", "The race", study_tables(facts)),
        Part("results", "Results", _results(facts)),
        Part("seeds", "Over several seeds", seeds_blocks(facts)),
        Part("baselines", "Baselines", _baselines(facts)),
        Part("multilabel", "Several labels per image", several_blocks(facts.label_entries)),
        Part("masks", "Masks", several_blocks(facts.dense_entries)),
        Part("data", "Data", (*_data(facts), *labeling_blocks(facts))),
        Part("choices", "How it was measured", (Prose(tuple(chosen(facts))),) if chosen(facts) else ()),
        Part("limits", "Limits", _limits(facts, remarks(facts))),  # a card has no part about training
        Part("repeat", "How to repeat", _repeat(facts)),
    ]
    return [part for part in found if part.blocks]


def _only(table: Table | None) -> tuple[Block, ...]:
    return () if table is None else (table,)


def _choices(facts: Facts) -> tuple[Block, ...]:
    said = chosen(facts)
    return (*((Prose(tuple(said)),) if said else ()), *_only(choice_table(facts)))


def _results(facts: Facts) -> tuple[Block, ...]:
    blocks: list[Block] = [*probe_tables(facts)]
    if blocks:
        blocks.insert(0, Prose((LEGEND,), small=True, wide=True))
    blocks += _only(finetune_table(facts))
    return (*blocks, Prose((RULE,), small=True)) if blocks else ()


def _baselines(facts: Facts) -> tuple[Block, ...]:
    table = baseline_table(facts)
    return () if table is None else (Prose((BASELINES,)), table)


def _labels(facts: Facts) -> tuple[Block, ...]:
    """A chart for each encoder and task that was measured with fewer labels, and what its gain is worth in labels."""
    figures, said, measured = [], [], []
    for entry in facts.entries:
        if (found := entry.result.label_efficiency) is not None:
            caption = f"{entry.task}: {entry.encoder}, test accuracy of the linear probe, %"
            figures.append(Figure(labels_chart(caption, found), caption))
            said += worth_lines(entry.task, entry.encoder, found)
            measured.append(found)
    if not figures:
        return ()
    lines = tuple(f"{line}." for line in said)
    return (Figures(tuple(figures)), Points(lines), Prose(tuple(labels_rules(measured)), small=True))


def _multilabel(facts: Facts) -> tuple[Block, ...]:
    """The tables, and on each task, the calibration of the encoder with the best validation score."""
    figures = []
    for task in distinct(entry.task for entry in facts.label_entries):
        of_task = (entry for entry in facts.label_entries if entry.task == task)
        best = max(of_task, key=lambda entry: entry.result.linear.choice.val_accuracy)
        if best.scores is not None and best.result.calibration is not None:
            divisors = (best.result.calibration.temperature, UNFITTED)
            bins, before = (label_bins(best.scores.scores["encoder"], best.scores.truth, one) for one in divisors)
            chart = reliability_chart(bins, OF_LABELS)
            figures.append(Figure(chart, f"{task}: linear probe of {best.encoder}: {label_sureness(bins, before)}"))
    shown = (Prose((LABELS_RELIABILITY,)), Figures(tuple(figures))) if figures else ()
    return (*several_blocks(facts.label_entries), *shown)


def _limits(facts: Facts, more: Sequence[str] = ()) -> tuple[Block, ...]:
    found = [*limits(facts), *more]
    return (Points(tuple(found)),) if found else ()


def _layers(facts: Facts) -> tuple[Block, ...]:
    """The layers and poolings that were compared before the choice."""
    found = [(entry, one) for entry in facts.entries if (one := layer_map(entry)) is not None]
    if not found:
        return ()
    figures = [Figure(layer_chart(one), f"{entry.encoder} on {entry.task}") for entry, one in found]
    about = [
        "Validation accuracy of the linear probe in percent, each with its best regularization strength.",
        "The frame marks the choice. The one with the most features is preferred; another is chosen only if it is "
        "better by more than one standard error.",
        "If an early layer is best by far, the last layers have specialized in their training task, such as "
        "restoring images.",
    ]
    few = max((images for _, one in found if (images := on_few(one)) is not None), default=None)
    if few is not None:
        about.append(f"{FEW} fitted on {few:,} images, for a first comparison; all others are fitted on all images.")
    said, more = depth_sentences(facts), figures[OPEN_MAPS:]
    return (
        Prose(tuple(about), small=True),
        *((Points(tuple(said)),) if said else ()),
        Figures(tuple(figures[:OPEN_MAPS])),
        *((Figures(tuple(more), folded=counted(len(more), "more map")),) if more else ()),
    )


# ---- errors


class _Answers(NamedTuple):
    """The answers of one classifier to a task, and what is needed to show its errors."""

    title: str
    score: Score
    classes: tuple[str, ...]
    data: DataFacts
    origin: Origin
    predictions: Predictions | None
    column: str  # of the predictions
    calibration: Calibration | None = None

    @property
    def confidence(self) -> Tensor | None:
        """The probability of each answer, float ``[n]``."""
        return None if self.predictions is None else self.predictions.sure(self.column)

    @property
    def calibrated(self) -> bool:
        """Whether these are calibrated."""
        return self.predictions is not None and self.column in self.predictions.calibrated

    @property
    def bins(self) -> list[Bin]:
        """How often answers are correct, in bins of confidence."""
        if self.predictions is None or self.confidence is None:
            return []
        return reliability(self.confidence, self.predictions.answers[self.column] == self.predictions.labels)


def _errors(facts: Facts, sets: ImageSets) -> tuple[Block, ...]:
    """On each task, the errors of the encoder with the best validation accuracy."""
    best = [one for one in _best(facts) if len(one.classes) > 1]
    found = [_confusion(one, sets) for one in best]
    if not found:
        return ()
    one_of_several = len(facts.entries) > len(facts.tasks)
    which = ("Shown for each task: the encoder with the best validation accuracy.",) if one_of_several else ()
    about = (
        "In each matrix, rows are true classes, columns are answers, and numbers are percent of the row. The pairs of "
        "classes that were confused most often are listed with it."
    )
    sure = [one for one in best if one.confidence is not None]
    order = ("The images of each pair are its most confident errors, the most confident first.",)
    return (Prose((*which, about, *(order if sure else ()))), *found, *_reliability(sure))


def _best(facts: Facts) -> list[_Answers]:
    found = []
    for task in facts.tasks:
        entry = max(facts.of_task(task), key=lambda one: one.result.linear.choice.val_accuracy)
        result = entry.result
        title = f"{task}: linear probe of {entry.encoder}"
        answers = (result.linear.test, result.classes, result.data, entry.origin, entry.predictions)
        found.append(_Answers(title, *answers, "encoder.linear", result.calibration))
    for run in facts.finetuning:
        title = f"{run.result.task}: {run.origin.name}"
        predictions = run.predictions[0] if run.predictions else None
        answers = (run.result.tuned.test, run.result.classes, run.result.data, run.origin, predictions)
        found.append(_Answers(title, *answers, "tuned", run.result.calibration))
    for one in facts.winners:
        title = f"{one.task}: {one.name}, the winner of {one.origin.name}"
        found.append(_Answers(title, one.score, one.classes, one.data, one.origin, one.predictions, one.name))
    return found


def _confusion(one: _Answers, sets: ImageSets) -> Confusion:
    """The matrix, and the pairs confused most often, with some of their images or the reason why there are none."""
    images: ImageSet | str = "" if one.predictions is None else sets.of(one.origin, one.data)
    shown = [_pair(one, pair, images) for pair in most_confused(one.score, one.classes)]
    if isinstance(images, ImageSet) and not any(pair.pictures for pair in shown):
        images = "they are no longer where the run found them"
    return Confusion(
        title=one.title,
        chart=confusion_chart(one.score, one.classes) if len(one.classes) <= MOST_CLASSES else None,
        errors=tuple(shown),
        note=f"The images themselves are not shown: {images}." if isinstance(images, str) and images else "",
    )


def _reliability(answered: Sequence[_Answers]) -> tuple[Block, ...]:
    """How well the confidence of answers matches their accuracy."""
    if not answered:
        return ()
    figures = [
        Figure(
            reliability_chart(one.bins),
            f"{one.title}: {sureness(one.bins, one.calibration, calibrated=one.calibrated)}",
        )
        for one in answered
    ]
    return Prose((RELIABILITY,)), Figures(tuple(figures))


def _pair(one: _Answers, pair: Confused, images: ImageSet | str) -> Thumbnails:
    found = []
    if isinstance(images, ImageSet) and one.predictions is not None:
        said = f"{pair.true}, classified as {pair.answer}"
        for place in confused_rows(one.predictions, one.column, pair):
            sure = "" if one.confidence is None else f" with {100 * float(one.confidence[place]):.0f}% confidence"
            found.append(images.show(int(one.predictions.rows[place]), one.predictions.paths[place], said + sure))
    return Thumbnails(
        title=f"{pair.true} → {pair.answer}",
        note=f"{pair.count:,} of {pair.of:,}, {number(pair.count / pair.of)}%",
        pictures=tuple(one for one in found if one is not None),
    )


# ---- pictures


def _atoms(facts: Facts) -> tuple[Block, ...]:
    found: list[Block] = []
    for run in facts.pretraining:
        for path in run.atoms:
            drawn = read_picture(path)
            if drawn is not None:
                what = {"atoms": "most used first", "exciting": "with the patches that excite them most"}
                caption = f"{run.origin.name}: atoms, {what[path.stem]}"
                found.append(Panel(picture(drawn, caption), caption))
    return tuple(found)


# ---- data, damage, code


def _data(facts: Facts) -> tuple[Block, ...]:
    warned = distinct(as_utf8(warning) for origin in facts.origins for warning in origin.log.warnings)
    tables = [*unlabeled_tables(facts), *labeled_tables(facts), *_only(repeats_table(facts))]
    said = (Prose(("Warnings from the runs:",)), Points(tuple(warned))) if warned else ()
    came = (Prose(tuple(chains(facts))),) if chains(facts) else ()
    return (*tables, *came, *said)


def _damage(facts: Facts) -> tuple[Block, ...]:
    table = damage_table(facts)
    if table is None:
        return ()
    about = [PROBES_DAMAGED] if any(entry.result.linear.damaged for entry in facts.entries) else []
    studied = [one.damage.clean.n for one in facts.winners if one.damage is not None]
    if studied:
        images = listed(distinct(f"{count:,}" for count in studied))
        about.append(
            f"The classifier of a study's winner, as in the race's table, on {images} of its test images when they are "
            "damaged, without refitting; undamaged are the same images. No choice was based on them."
        )
    return (Prose(tuple(about)), table)


def _code(facts: Facts) -> Part:
    """The code: all its properties from a probe with ``properties``, or only its size from pretraining."""
    table, storage = code_table(facts), storage_table(facts)
    found: list[Block] = [Prose((CODE, *(PROPERTIES if table is not None else ())))]
    found += _only(table)
    if storage is not None:
        restored = any(run.results.relative_reconstruction_error is not None for run in facts.pretraining)
        found += [storage, Prose((*STORAGE, *((ERROR,) if restored else ())), small=True)]
    title = "The size of the code" if table is None else "Compact, invariant, abstract"
    return Part("code", title, tuple(found) if len(found) > 1 else ())


# ---- how to repeat


def _repeat(facts: Facts) -> tuple[Block, ...]:
    missing = [origin.name for origin in facts.origins if not origin.log.versions]
    about = [
        "Each run keeps its settings in config.yaml; the same seed, versions and machine give the same result.",
        *([f"Versions were not recorded by {counted(len(missing), 'run')}."] if missing else []),
    ]
    of_studies = {run.origin.folder / CONTESTANTS for run in facts.studies}  # a study repeats its runs
    made = [origin for origin in facts.origins if origin.folder.parent not in of_studies]
    lines = tuple(distinct(repeat_command(origin, facts.group_of(origin)) for origin in made))
    protocols = [entry.result.protocol for entry in facts.entries]
    protocols += [entry.result.protocol for entry in facts.several]
    protocols += [run.result.protocol for run in facts.finetuning]
    said = (Prose((f"Protocol: {one}.",), small=True) for one in distinct(protocols))
    return (Prose(tuple(about)), Commands(lines), origin_table(facts), *said)


def repeat_command(origin: Origin, group: Group | None = None) -> str:
    """The command that repeats a run, or all runs of its group, in another folder."""
    folder = as_utf8(str(origin.folder if group is None else group.folder))
    return shlex.join(["retouch", "repeat", folder])

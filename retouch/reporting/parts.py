"""The parts of the page, in its order. A part appears only if there are facts for it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import chain

from common.files import as_utf8
from common.words import counted
from finetune.calibration import UNFITTED
from finetune.table import worth_lines
from pretrain.sample import SAMPLE_IMAGES
from retouch.reporting.atoms_part import atoms_part
from retouch.reporting.blocks import Block, Commands, Figure, Figures, Frame, Part, Points, Prose, Table
from retouch.reporting.charts import OF_LABELS, labels_chart, reliability_chart
from retouch.reporting.choices import chosen
from retouch.reporting.compare import FROZEN, PIXELS, SCRATCH, UNTRAINED, excludes_zero, gains, tuned_gains
from retouch.reporting.confidence import LABELS_RELIABILITY, label_bins, label_sureness
from retouch.reporting.cost_tables import cost_table, machine_text, origin_table
from retouch.reporting.errors_part import errors
from retouch.reporting.facts import Facts
from retouch.reporting.falls import falls
from retouch.reporting.labeling import labeling_blocks
from retouch.reporting.layers import chance_sentences, depth_sentences, layer_map, on_few
from retouch.reporting.limits import limits
from retouch.reporting.maps import FEW, layer_chart
from retouch.reporting.pictures import ImageSets
from retouch.reporting.places_part import places_part
from retouch.reporting.question import chains
from retouch.reporting.run_tables import code_table, labeled_tables, repeats_table, storage_table, unlabeled_tables
from retouch.reporting.runs import Group, Origin
from retouch.reporting.seeds import seeds_blocks
from retouch.reporting.sentences import LEGEND, NOT_BOLD, RULE, distinct, labels_rules, listed
from retouch.reporting.several import several_blocks
from retouch.reporting.study import raced, study_blocks, study_tables
from retouch.reporting.tables import baseline_table, choice_table, damage_table, finetune_table, probe_tables, probes
from retouch.reporting.training import remarks, restored_blocks, training_blocks
from retouch.studies.next_steps import next_steps
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
OF_ATOMS = (
    "Test accuracy of the same probes, for comparison: on the features of the same dictionary with random atoms, and "
    "on raw pixels."
)
TWINS = (
    "A dictionary of patches is no network: it is compared with the same dictionary whose atoms are random numbers, "
    "with the same whitening."
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
        Part("errors", "Errors", errors(facts, sets)),
        Part("training", "Training", training_blocks(facts)),
        Part("restored", "Original, damaged, restored", restored_blocks(facts)),
        Part("atoms", "Atoms", atoms_part(facts)),
        Part("places", "Map and neighbors", places_part(facts, sets)),
        Part("label", "Label images", () if label is None else (Prose((LABEL,)), label)),
        Part("data", "Data", (*_data(facts), *(() if label is not None else labeling_blocks(facts)))),
        Part("damage", "Robustness to damage", _damage(facts)),
        _code(facts),
        Part("cost", "Cost", (cost_table(facts), *_machines(facts))),
        Part("use", "How to classify new pictures", _use(facts)),
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
        twin = "the same dictionary with random atoms" if facts.only_dictionaries else "its untrained network"
        blocks.insert(0, Prose((LEGEND.format(twin),), small=True, wide=True))
        if facts.dictionaries:
            blocks.insert(1, Prose((TWINS,)))
    blocks += _only(finetune_table(facts))
    return (*blocks, Prose((RULE, *_why_not_bold(facts)), small=True)) if blocks else ()


def _why_not_bold(facts: Facts) -> list[str]:
    """Why some differences are not shown although their intervals exclude zero, if there are such."""
    found = [gains(facts, baseline, probe) for probe in probes(facts) for baseline in (UNTRAINED, PIXELS)]
    found += [tuned_gains(facts, baseline) for baseline in (SCRATCH, FROZEN)]
    return [NOT_BOLD] if any(one.shown == "open" and excludes_zero(one.found) for one in chain(*found)) else []


def _baselines(facts: Facts) -> tuple[Block, ...]:
    table = baseline_table(facts)
    if table is None:
        return ()
    return (Prose((OF_ATOMS if facts.only_dictionaries else BASELINES,)), table)


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
    said, more = [*depth_sentences(facts), *chance_sentences(facts)], figures[OPEN_MAPS:]
    return (
        Prose(tuple(about), small=True),
        *((Points(tuple(said)),) if said else ()),
        Figures(tuple(figures[:OPEN_MAPS])),
        *((Figures(tuple(more), folded=counted(len(more), "more map")),) if more else ()),
    )


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
    lost = tuple(one.sentence for one in falls(facts))
    said = (Prose(lost),) if len(lost) == 1 else (Points(lost),) if lost else ()
    return (*said, Prose(tuple(about)), table)


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


def _machines(facts: Facts) -> tuple[Block, ...]:
    """What the runs computed with, as far as they say."""
    found = distinct(map(machine_text, facts.made))
    return (Prose((f"Machine: {'; '.join(found)}.",), small=True),) if found else ()


# ---- how to use, and to repeat


def _use(facts: Facts) -> tuple[Block, ...]:
    """How to classify new pictures with what each study has found."""
    found: list[Block] = []
    for run in facts.studies:
        steps = next_steps(run.origin.folder, run.origin.labeled[0], run.report) if run.origin.labeled else None
        if steps is not None:
            of = f" of {run.origin.name}" if len(facts.studies) > 1 else ""
            found += [Prose((f"With {steps.name}{of}, since {steps.why}:",)), Commands(steps.commands)]
    return tuple(found)


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

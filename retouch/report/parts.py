"""The parts of the page, in its order. A part is there only where its facts are."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from common.files import as_utf8
from finetune.metrics import Bin, reliability
from finetune.predictions import Predictions
from finetune.records import DataFacts
from finetune.results import Score
from finetune.table import worth_lines
from pretrain.report.panels import panel_images
from retouch.report.blocks import (
    Block,
    Commands,
    Confusion,
    Figure,
    Figures,
    Grid,
    Panel,
    Part,
    Points,
    Prose,
    Table,
    Thumbnails,
)
from retouch.report.charts import Strip, curves_chart, labels_chart, reliability_chart
from retouch.report.choices import chosen
from retouch.report.confidence import RELIABILITY, sureness
from retouch.report.facts import Curves, Facts, FineTuning, Group, Origin, Pretraining
from retouch.report.labeling import labeling_blocks
from retouch.report.layers import depth_sentences, layer_map, on_few
from retouch.report.limits import limits
from retouch.report.maps import FEW, MOST_CLASSES, confusion_chart, layer_chart
from retouch.report.pictures import (
    TILE,
    Confused,
    ImageSet,
    ImageSets,
    confused_rows,
    most_confused,
    picture,
    read_picture,
)
from retouch.report.places_part import places_part
from retouch.report.run_tables import (
    code_table,
    cost_table,
    labeled_table,
    origin_table,
    repeats_table,
    storage_table,
    unlabeled_table,
)
from retouch.report.seeds import seeds_blocks
from retouch.report.sentences import (
    LEGEND,
    RULE,
    RULER,
    chains,
    counted,
    distinct,
    number,
    training_sentences,
)
from retouch.report.several import several_blocks
from retouch.report.study import study_blocks, study_tables
from retouch.report.tables import baseline_table, choice_table, damage_table, finetune_table, probe_tables
from retouch.studies.results import CONTESTANTS

OPEN_MAPS = 6  # of layers and poolings: more are folded


def page_parts(facts: Facts) -> list[Part]:
    """All parts. What is added later has its place here, and nowhere else."""
    sets = ImageSets()
    found = [
        Part("study", "The race", study_blocks(facts)),
        Part("choices", "What was chosen", _choices(facts)),
        Part("results", "Results", _results(facts)),
        Part("seeds", "Over several seeds", seeds_blocks(facts)),
        Part("baselines", "Baselines", _only(baseline_table(facts))),
        Part("multilabel", "Several labels per image", several_blocks(facts.label_entries)),
        Part("masks", "Masks", several_blocks(facts.dense_entries)),
        Part("labels", "With fewer labels", _labels(facts)),
        Part("layers", "Layers and poolings", _layers(facts)),
        Part("errors", "Errors", _errors(facts, sets)),
        Part("places", "Map and neighbors", places_part(facts, sets)),
        Part("training", "Training", _training(facts)),
        Part("restored", "Original, damaged, restored", _restored(facts)),
        Part("atoms", "Atoms", _atoms(facts)),
        Part("data", "Data", _data(facts)),
        Part("damage", "Robustness to damage", _damage(facts)),
        Part("code", "Compact, invariant, abstract", _code(facts)),
        Part("cost", "Cost", _only(cost_table(facts))),
        Part("repeat", "How to repeat", _repeat(facts)),
        Part("limits", "Limits", _limits(facts)),
    ]
    return [part for part in found if part.blocks]


def card_parts(facts: Facts) -> list[Part]:
    """Those that a model card has."""
    found = [
        Part("study", "The race", study_tables(facts)),
        Part("results", "Results", _results(facts)),
        Part("seeds", "Over several seeds", seeds_blocks(facts)),
        Part("baselines", "Baselines", _only(baseline_table(facts))),
        Part("multilabel", "Several labels per image", several_blocks(facts.label_entries)),
        Part("masks", "Masks", several_blocks(facts.dense_entries)),
        Part("data", "Data", _data(facts)),
        Part("choices", "How it was measured", (Prose(tuple(chosen(facts))),) if chosen(facts) else ()),
        Part("limits", "Limits", _limits(facts)),
        Part("repeat", "How to repeat", _repeat(facts)),
    ]
    return [part for part in found if part.blocks]


def _only(table: Table | None) -> tuple[Block, ...]:
    return () if table is None else (table,)


def _choices(facts: Facts) -> tuple[Block, ...]:
    table = choice_table(facts)
    return () if table is None else (Prose(tuple(chosen(facts))), table)


def _results(facts: Facts) -> tuple[Block, ...]:
    blocks: list[Block] = [*probe_tables(facts)]
    if blocks:
        blocks.append(Prose((LEGEND,), small=True, wide=True))
    blocks += _only(finetune_table(facts))
    return (*blocks, Prose((RULE,), small=True)) if blocks else ()


def _labels(facts: Facts) -> tuple[Block, ...]:
    """A chart for each encoder and task that was measured so, and what its labels are worth."""
    figures, said = [], []
    for entry in facts.entries:
        if (found := entry.result.label_efficiency) is not None:
            caption = f"{entry.task}: {entry.encoder}, test accuracy of the linear probe, %"
            figures.append(Figure(labels_chart(caption, found), caption))
            said += worth_lines(entry.task, entry.encoder, found)
    if not figures:
        return ()
    about = "Bars and intervals: 95%, by the bootstrap over draws and test images."
    return (Figures(tuple(figures)), Points(tuple(f"{line}." for line in said)), Prose((about,), small=True))


def _limits(facts: Facts) -> tuple[Block, ...]:
    found = limits(facts)
    return (Points(tuple(found)),) if found else ()


def _layers(facts: Facts) -> tuple[Block, ...]:
    """What was tried before a layer and a pooling were chosen."""
    found = [(entry, one) for entry in facts.entries if (one := layer_map(entry)) is not None]
    if not found:
        return ()
    figures = [Figure(layer_chart(one), f"{entry.encoder} on {entry.task}") for entry, one in found]
    about = [
        "Validation accuracy of the linear probe in percent, each with its best strength.",
        "Framed: chosen, which is the widest unless another is better by a standard error.",
    ]
    few = max((images for _, one in found if (images := on_few(one)) is not None), default=None)
    if few is not None:
        about.append(f"{FEW} of fits on {few:,} images, which are compared first; the others are of fits on all.")
    said, more = depth_sentences(facts), figures[OPEN_MAPS:]
    return (
        *((Points(tuple(said)),) if said else ()),
        Figures(tuple(figures[:OPEN_MAPS])),
        *((Figures(tuple(more), folded=counted(len(more), "more map")),) if more else ()),
        Prose(tuple(about), small=True),
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

    @property
    def confidence(self) -> Tensor | None:
        """The probability of each answer, float ``[n]``."""
        return None if self.predictions is None else self.predictions.confidences.get(self.column)

    @property
    def bins(self) -> list[Bin]:
        """How often answers of each confidence are right."""
        if self.predictions is None or self.confidence is None:
            return []
        return reliability(self.confidence, self.predictions.answers[self.column] == self.predictions.labels)


def _errors(facts: Facts, sets: ImageSets) -> tuple[Block, ...]:
    """On each task, the errors of the encoder that was best on validation images."""
    best = [one for one in _best(facts) if len(one.classes) > 1]
    found = [_confusion(one, sets) for one in best]
    if not found:
        return ()
    one_of_several = len(facts.entries) > len(facts.tasks)
    which = ("On each task, those of the encoder with the best validation accuracy.",) if one_of_several else ()
    about = "Rows are true classes, columns answers, numbers percent of the row; then the pairs confused most often."
    sure = [one for one in best if one.confidence is not None]
    order = ("The images of each pair are its worst errors: those with the highest confidence come first.",)
    return (Prose((*which, about, *(order if sure else ()))), *found, *_reliability(sure))


def _best(facts: Facts) -> list[_Answers]:
    found = []
    for task in facts.tasks:
        entry = max(facts.of_task(task), key=lambda one: one.result.linear.choice.val_accuracy)
        result = entry.result
        title = f"{task}: linear probe of {entry.encoder}"
        answers = (result.linear.test, result.classes, result.data, entry.origin, entry.predictions)
        found.append(_Answers(title, *answers, "encoder.linear"))
    for run in facts.finetuning:
        title = f"{run.result.task}: {run.origin.name}"
        predictions = run.predictions[0] if run.predictions else None
        answers = (run.result.tuned.test, run.result.classes, run.result.data, run.origin, predictions)
        found.append(_Answers(title, *answers, "tuned"))
    return found


def _confusion(one: _Answers, sets: ImageSets) -> Confusion:
    """The matrix, and the pairs that are confused most often with some of their images, or why there are none."""
    images: ImageSet | str = "" if one.predictions is None else sets.of(one.origin, one.data)
    shown = [_pair(one, pair, images) for pair in most_confused(one.score, one.classes)]
    if isinstance(images, ImageSet) and not any(pair.pictures for pair in shown):
        images = "they are no longer where the run saw them"
    return Confusion(
        title=one.title,
        chart=confusion_chart(one.score, one.classes) if len(one.classes) <= MOST_CLASSES else None,
        errors=tuple(shown),
        note=f"The images themselves are not shown: {images}." if isinstance(images, str) and images else "",
    )


def _reliability(answered: Sequence[_Answers]) -> tuple[Block, ...]:
    """How far the probabilities of answers can be trusted."""
    if not answered:
        return ()
    figures = [Figure(reliability_chart(one.bins), f"{one.title}: {sureness(one.bins)}") for one in answered]
    return Prose((RELIABILITY,)), Figures(tuple(figures))


def _pair(one: _Answers, pair: Confused, images: ImageSet | str) -> Thumbnails:
    found = []
    if isinstance(images, ImageSet) and one.predictions is not None:
        said = f"{pair.true}, taken for {pair.answer}"
        for place in confused_rows(one.predictions, one.column, pair):
            sure = "" if one.confidence is None else f", {100 * float(one.confidence[place]):.0f}% sure"
            found.append(images.show(int(one.predictions.rows[place]), one.predictions.paths[place], said + sure))
    return Thumbnails(
        title=f"{pair.true} → {pair.answer}",
        note=f"{pair.count:,} of {pair.of:,}, {number(pair.count / pair.of)}%",
        pictures=tuple(one for one in found if one is not None),
    )


# ---- pictures


def _training(facts: Facts) -> tuple[Block, ...]:
    """The curves of each run, with what they mean."""
    found = [_trained(run) for run in facts.pretraining]
    found += [_tuned(run) for run in facts.finetuning]
    figures = tuple(figure for figure in found if figure is not None)
    said = training_sentences(facts)
    return (
        *((Figures(figures),) if figures else ()),
        *((Points(tuple(said)),) if said else ()),
        *((Prose(RULER, small=True),) if any(run.results.ruler for run in facts.pretraining) else ()),
    )


def _trained(run: Pretraining) -> Figure | None:
    ruler = run.results.ruler
    best = max(ruler.restorers, key=ruler.restorers.__getitem__) if ruler is not None and ruler.restorers else None
    level = None if ruler is None or best is None else ruler.restorers[best]
    name = "PSNR of restored images, dB" + ("" if best is None else f"; dashed: {best}")
    return _curves(run.origin.name, run.curves, Strip(name, run.curves.psnr, 110, beside=level))


def _tuned(run: FineTuning) -> Figure | None:
    return _curves(run.origin.name, run.curves, Strip("accuracy on held-out images", run.curves.accuracy, 90))


def _curves(name: str, curves: Curves, goal: Strip) -> Figure | None:
    if len(curves.loss.steps) < 2:
        return None
    strips = (
        Strip("loss", curves.loss, 150, wide=True),
        Strip("loss on held-out images", curves.held_out, 110, wide=True),
        goal,
        Strip("learning rate", curves.rate, 80),
    )
    first, last = curves.loss.values[0], curves.loss.values[-1]
    caption = f"{name}: loss {first:.3g} → {last:.3g} in {curves.loss.steps[-1]:,} steps"
    return Figure(curves_chart(f"Training of {name}", strips), caption)


def _restored(facts: Facts) -> tuple[Block, ...]:
    return tuple(block for run in facts.pretraining if (block := _panel(run)) is not None)


def _panel(run: Pretraining) -> Block | None:
    """The images of the last panel, row by row; the picture as it is, if it cannot be taken apart."""
    drawn = None if run.panel is None else read_picture(run.panel)
    if drawn is None:
        return None
    method = "" if run.results.method == run.origin.name else f"{run.results.method}, "
    caption = f"{run.origin.name}: {method}images of the training set"
    images = None if run.card is None else panel_images(drawn, run.card.image_size)
    if images is None:
        return Panel(picture(drawn, f"Original, damaged and restored images of {run.origin.name}"), caption)
    rows = ((label, tuple(picture(image, label, most=TILE) for image in some)) for label, some in images.items())
    return Grid(tuple(rows), caption)


def _atoms(facts: Facts) -> tuple[Block, ...]:
    found: list[Block] = []
    for run in facts.pretraining:
        for path in run.atoms:
            drawn = read_picture(path)
            if drawn is not None:
                what = {"atoms": "the most used first", "exciting": "and the patches that excite them"}[path.stem]
                caption = f"{run.origin.name}: atoms, {what}"
                found.append(Panel(picture(drawn, caption), caption))
    return tuple(found)


# ---- data, damage, code


def _data(facts: Facts) -> tuple[Block, ...]:
    warned = distinct(as_utf8(warning) for origin in facts.origins for warning in origin.log.warnings)
    tables = [*_only(unlabeled_table(facts)), *_only(labeled_table(facts)), *_only(repeats_table(facts))]
    said = (Prose(("The runs warned of this:",)), Points(tuple(warned))) if warned else ()
    came = (Prose(tuple(chains(facts))),) if chains(facts) else ()
    return (*tables, *came, *said, *labeling_blocks(facts))


def _damage(facts: Facts) -> tuple[Block, ...]:
    table = damage_table(facts)
    return (
        () if table is None else (Prose(("The same linear probes, not fitted again, on damaged test images.",)), table)
    )


def _code(facts: Facts) -> tuple[Block, ...]:
    table = code_table(facts)
    if table is None:
        return _only(storage_table(facts))
    about = Prose(
        (
            "Compact: the size of an image's code, the encoder's last map.",
            "Invariant: 1 if a change does not move the code, 0 if it moves it as far as to another image.",
            "Abstract: the linear probe's accuracy.",
        )
    )
    return (about, table, *_only(storage_table(facts)))


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
    """The command that makes a run again, or all runs of its group, in another folder."""
    folder = as_utf8(str(origin.folder if group is None else group.folder))
    return shlex.join(["retouch", "repeat", folder])

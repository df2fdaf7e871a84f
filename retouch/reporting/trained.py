"""Networks trained on labels, compared with linear probes and with each other across runs, in plain English."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from common.words import first_upper
from finetune.predictions import Predictions
from finetune.records import DataFacts
from finetune.results import Comparison
from retouch.reporting.compare import FROZEN, LINEAR, SCRATCH, Contrast, contrasts, paired
from retouch.reporting.facts import Entry, Facts
from retouch.reporting.names import in_text
from retouch.reporting.runs import FineTuning
from retouch.reporting.sentences import ahead, distinct, interval, listed, p_text, points, signed, test_images

TUNED = "tuned"  # the column of a trained network's answers
OTHERS = {FROZEN: "the probes", SCRATCH: "training from scratch"}


class Crossed(NamedTuple):
    """A trained network against a classifier of another run, on the same test images."""

    run: str  # of the network
    kind: Literal["linear_probe", "from_scratch"]  # of the other
    contrast: Contrast
    labels: tuple[int, int]  # labeled images that the two learned from


class _Other(NamedTuple):
    """What a network may be compared with."""

    kind: Literal["linear_probe", "from_scratch"]
    name: str
    task: str  # as the report names it
    own: str  # as its run names it
    predictions: Predictions | None
    column: str
    labels: int
    data: DataFacts
    images: int
    validation: float


def crossed(facts: Facts) -> list[Crossed]:
    """Each trained network against the linear probe, and if it was fine-tuned, against training from scratch.

    Only for what its run did not compare itself; of several on the same images, with the one that is best on
    validation. All are corrected together.
    """
    found: list[tuple[FineTuning, _Other, Comparison]] = []
    for run in facts.finetuning:
        for others in _asked(facts, run).values():
            same = [(one, against) for one in others if (against := _against(run, one)) is not None]
            if same:
                best, against = max(same, key=lambda pair: pair[0].validation)
                name = f"{best.name}, the best of {len(same)} on validation," if len(same) > 1 else best.name
                found.append((run, best._replace(name=name), against))
    corrected = contrasts([(one.task, _title(run), one.name, against) for run, one, against in found])
    return [
        Crossed(run.origin.name, other.kind, contrast, (_labels(run), other.labels))
        for (run, other, _), contrast in zip(found, corrected, strict=True)
    ]


def crossed_sentences(facts: Facts) -> list[str]:
    """What these comparisons show, one sentence each."""
    return [_said(one.contrast, one.labels) for one in crossed(facts)]


def not_crossed(facts: Facts) -> list[str]:
    """Why a trained network is not compared with probes, or with training from scratch, that the report has."""
    done = {(one.run, one.kind) for one in crossed(facts)}
    said = []
    for run in facts.finetuning:
        for kind, others in _asked(facts, run).items():
            if others and (run.origin.name, kind) not in done:
                said.append(f"{run.origin.name} is not compared with {OTHERS[kind]}: {_why_not(run, others)}.")
        if facts.several and not facts.entries and FROZEN not in run.result.tuned.compared:
            said.append(f"{run.origin.name} is not compared with the probes, whose tasks are of another kind.")
    return distinct(said)


def _asked(facts: Facts, run: FineTuning) -> dict[str, list[_Other]]:
    """The classifiers of other runs, by kind, if the run did not compare itself with this kind."""
    compared, scratch = run.result.tuned.compared, run.result.start == "scratch"
    return {
        FROZEN: [] if FROZEN in compared else list(map(_of_probe, facts.entries)),
        SCRATCH: []
        if scratch or SCRATCH in compared
        else [_of_scratch(one) for one in facts.finetuning if one.result.start == "scratch"],
    }


def _of_probe(entry: Entry) -> _Other:
    linear = entry.result.linear
    return _Other(
        kind="linear_probe",
        name=f"the linear probe of {entry.encoder}",
        task=entry.task,
        own=entry.result.task,
        predictions=entry.predictions,
        column=LINEAR,
        labels=linear.n_train,
        data=entry.result.data,
        images=linear.test.n,
        validation=linear.choice.val_accuracy,
    )


def _of_scratch(run: FineTuning) -> _Other:
    tuned = run.result.tuned
    return _Other(
        kind="from_scratch",
        name=_title(run),
        task=run.result.task,
        own=run.result.task,
        predictions=_answers(run),
        column=TUNED,
        labels=_labels(run),
        data=run.result.data,
        images=tuned.test.n,
        validation=tuned.choice.val_accuracy,
    )


def _against(run: FineTuning, other: _Other) -> Comparison | None:
    """The two on the same task and test images; ``None`` if these differ, or predictions are missing."""
    same = run.result.task == other.own
    return paired(_answers(run), TUNED, other.predictions, other.column) if same else None


def _title(run: FineTuning) -> str:
    """``training from scratch (scratch-1)``."""
    return f"{'training from scratch' if run.result.start == 'scratch' else 'fine-tuning'} ({run.origin.name})"


def _answers(run: FineTuning) -> Predictions | None:
    return run.predictions[0] if run.predictions else None


def _labels(run: FineTuning) -> int:
    """Labeled images that it learned from, with those on which its best step was chosen."""
    return run.result.tuned.n_train + run.result.tuned.n_val


def _said(one: Contrast, labels: tuple[int, int]) -> str:
    mine, theirs = labels
    unlike = "" if mine == theirs else f"; they learned from {mine:,} and {theirs:,} labeled images"
    p = p_text(one.adjusted_p)
    match one.shown:
        case "better":
            said = f"{one.one} beats {one.other} on {one.task} by {points(one.found)} ({p})"
        case "worse":
            said = f"{one.one} is worse than {one.other} on {one.task} by {points(one.found)} ({p})"
        case _:
            by = f"{signed(one.found.difference)} points {interval(*one.found.ci95)}"
            favored = ahead(one.found, one.one, one.other)
            said = f"no difference is shown between {one.one} and {one.other} on {one.task} ({by}, {p}{favored})"
    return f"{first_upper(said)}{unlike}."


def _why_not(run: FineTuning, others: Sequence[_Other]) -> str:
    of_task = [one for one in others if one.own == run.result.task]
    if not of_task:
        return f"its task is {run.result.task}, theirs {listed(distinct(one.own for one in others))}"
    if _answers(run) is None or all(one.predictions is None for one in of_task):
        return "their answers to the test images were not kept (predictions.parquet)"
    mine = test_images(run.result.tuned.test.n, in_text(run.result.data.test))
    theirs = distinct(test_images(one.images, in_text(one.data.test)) for one in of_task)
    if theirs == [mine]:
        return f"the {mine} are other ones, or classes have other names"
    return f"it was tested on {mine}, and they on {' and on '.join(theirs)}"

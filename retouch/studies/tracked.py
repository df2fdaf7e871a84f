"""What a study sends to W&B besides numbers: contestants, comparisons, damage, the race, labels saved, confusion."""

from __future__ import annotations

from collections.abc import Iterator

from finetune.tracked import Curves, Sheet, Shown, confusion_shown, data_shown, label_curves
from retouch.studies.results import Contender, StudyReport


def study_shown(report: StudyReport) -> Iterator[Shown]:
    """The tables and curves of the report."""
    yield Sheet(
        "contestants",
        ("task", "contestant", "kind", "seconds", "val_accuracy", "test_accuracy", "low", "high"),
        [
            (
                *(task, one.name, one.kind, one.seconds, _validated(one, task)),
                *(score.accuracy, *score.ci95),
            )
            for one in report.contenders
            for task, score in one.test.items()
        ],
    )
    yield Sheet(
        "comparisons",
        ("task", "winner", "other", "difference", "low", "high", "adjusted_p"),
        [
            (one.task, one.one, one.other, one.found.difference, *one.found.ci95, one.adjusted_p)
            for one in report.comparisons
        ],
    )
    yield Sheet(
        "damage",
        ("task", "damage", "test_accuracy", "low", "high"),
        [
            (task, damage, one.accuracy, *one.ci95)
            for task, found in report.damage.items()
            for damage, one in {"none": found.clean, **found.damaged}.items()
        ],
    )
    racers = [one for one in report.contenders if one.kind == "restoring" and one.validations]
    if racers:
        yield Curves(
            "race",
            "seconds of training",
            {one.name: [(found.seconds, found.mean) for found in one.validations] for one in racers},
        )
    for task, worth in report.worth.items():
        yield label_curves(task, report.winner, worth)
    for task, classes in report.classes.items():
        yield from confusion_shown(task, classes, report.named(report.winner).test[task])
    yield from data_shown(report.data)


def _validated(one: Contender, task: str) -> float | None:
    """Final validation accuracy; None for the network from scratch, which is validated differently."""
    return one.validations[-1].accuracy[task] if one.validations else None

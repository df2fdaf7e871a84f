"""The part of a page about wrong answers: what is confused with what, the surest errors, and how far to trust."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from common.words import headed
from finetune.metrics import Bin, reliability
from finetune.predictions import Predictions
from finetune.records import Calibration, DataFacts
from finetune.results import Score
from retouch.reporting.blocks import Block, Confusion, Figure, Figures, Prose, Thumbnails
from retouch.reporting.charts import reliability_chart
from retouch.reporting.confidence import RELIABILITY, sureness
from retouch.reporting.facts import Facts
from retouch.reporting.maps import LEAST, MOST_CLASSES, NUMBERED, confusion_chart
from retouch.reporting.pictures import Confused, ImageSet, ImageSets, confused_rows, most_confused
from retouch.reporting.runs import Origin
from retouch.reporting.sentences import number

SHADED = "darker cells are larger shares of the row"


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


def errors(facts: Facts, sets: ImageSets) -> tuple[Block, ...]:
    """On each task, the errors of the encoder with the best validation accuracy."""
    best = [one for one in _best(facts) if len(one.classes) > 1]
    found = [_confusion(one, sets) for one in best]
    if not found:
        return ()
    one_of_several = len(facts.entries) > len(facts.tasks)
    which = ("Shown for each task: the encoder with the best validation accuracy.",) if one_of_several else ()
    about = (
        f"In each matrix, rows are true classes, columns are answers, and {_read(best)}. The pairs of classes that "
        "were confused most often are listed with it."
    )
    sure = [one for one in best if one.confidence is not None]
    order = ("The images of each pair are its most confident errors, the most confident first.",)
    return (Prose((*which, about, *(order if sure else ()))), *found, *_reliability(sure))


def _read(best: Sequence[_Answers]) -> str:
    """How the cells of the matrices are to be read."""
    numbered = any(len(one.classes) <= NUMBERED for one in best)
    return f"numbers are percent of the row; cells below {LEAST:.0%} have none" if numbered else SHADED


def _best(facts: Facts) -> list[_Answers]:
    found = []
    for task in facts.tasks:
        entry = max(facts.of_task(task), key=lambda one: one.result.linear.choice.val_accuracy)
        result = entry.result
        title = headed(facts.about(task), f"linear probe of {entry.encoder}")
        answers = (result.linear.test, result.classes, result.data, entry.origin, entry.predictions)
        found.append(_Answers(title, *answers, "encoder.linear", result.calibration))
    for run in facts.finetuning:
        title = f"{facts.about(run.result.task)}{run.origin.name}"
        predictions = run.predictions[0] if run.predictions else None
        answers = (run.result.tuned.test, run.result.classes, run.result.data, run.origin, predictions)
        found.append(_Answers(title, *answers, "tuned", run.result.calibration))
    for one in facts.winners:
        title = f"{facts.about(one.task)}{one.name}, the winner of {one.origin.name}"
        found.append(_Answers(title, one.score, one.classes, one.data, one.origin, one.predictions, one.name))
    return found


def _confusion(one: _Answers, sets: ImageSets) -> Confusion:
    """The matrix, and the pairs confused most often, with some of their images or the reason why there are none."""
    images: ImageSet | str = "" if one.predictions is None else sets.of(one.origin, one.data)
    shown = [_pair(one, pair, images) for pair in most_confused(one.score, one.classes)]
    if isinstance(images, ImageSet) and shown and not any(pair.pictures for pair in shown):
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

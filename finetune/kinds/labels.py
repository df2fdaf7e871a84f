"""Several labels per image: the linear probe, from its choice to its result."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from common.encoders.provenance import Provenance
from finetune.classifier import Saved
from finetune.config import ProbeConfig
from finetune.data import Pair, Sources
from finetune.features import Features
from finetune.heads import Answered, make_head
from finetune.kinds.base import Ready, Shared
from finetune.kinds.features import ImageLabels, MeasuredImages
from finetune.multilabel.data import MultiLabelImages, ProbeData, load_multilabel, open_multilabel
from finetune.multilabel.null import check_null_labels
from finetune.multilabel.scores import LabelScores, write_scores
from finetune.multilabel.task import MultiLabelTask, build_multilabel_task
from finetune.probes import Candidates
from finetune.ranking import compare_labels, halves, score_labels
from finetune.structured_results import LabelProbed, LabelResult
from finetune.subjects import ITSELF, Subject

log = logging.getLogger("retouch")


@dataclass(frozen=True, kw_only=True)
class MeasuredLabels(MeasuredImages):
    """One subject: its outcome, what it gave for each test image, and the mean average precision of halves."""

    outcome: LabelProbed
    task: MultiLabelTask
    rows: Tensor  # int64 [n], test images that have features
    scores: Tensor  # float32 [n L]
    of_halves: NDArray[np.float64]

    @property
    def score(self) -> str:
        return f"mean average precision {self.outcome.test.mean_average_precision:.1%}"

    def compared(self, others: Mapping[str, MeasuredLabels]) -> MeasuredLabels:
        found = {
            name: compare_labels(self.outcome.test, other.outcome.test, self.of_halves, other.of_halves)
            for name, other in others.items()
        }
        return replace(self, outcome=self.outcome.model_copy(update={"compared": found}))


@dataclass(frozen=True)
class SeveralLabels(ImageLabels[MeasuredLabels, LabelScores]):
    """A data set whose images have any number of labels each: one task."""

    part: ClassVar = "multilabel"

    images: MultiLabelImages

    # ---- before anything is written

    @classmethod
    def open(cls, config: ProbeConfig, data: ProbeData) -> Sources:
        return open_multilabel(data, config.seed)

    @classmethod
    def load(cls, config: ProbeConfig, ready: Ready[Sources], size: int, trained_on: Provenance) -> SeveralLabels:
        images = load_multilabel(ready.sources, ready.data, size, config.seed, trained_on)
        build_multilabel_task(images.labels[0], config.probe, config.seed)  # refuses too few images
        return cls(config, ready.data, ready.spaces, images)

    # ---- what is measured

    @property
    def pair(self) -> Pair:
        return self.images.pair

    @property
    def tasks(self) -> tuple[str, ...]:
        return (self.images.labels[0].task,)

    def measured(self, subject: Subject, candidates: Candidates, test: Features) -> dict[str, MeasuredLabels]:
        config, (labels, test_labels), started = self.config, self.images.labels, time.monotonic()
        # the labels of the rows that have features
        labels = labels._replace(values=labels.values[candidates.features.index])
        truth = test_labels.values[test.index]
        task = build_multilabel_task(labels, config.probe, config.seed)
        chosen = config.probe.choose(candidates, task)
        fitted = config.probe.refit(candidates, task, chosen)
        scores = fitted.predict(test)
        of_halves = halves(scores, truth)
        outcome = LabelProbed(
            view=subject.encoder.view,
            choice=chosen.facts,
            n_train=len(task.labels),
            n_val=task.held,
            test=score_labels(scores, truth, of_halves),
            seconds=round(time.monotonic() - started, 2),
            converged=fitted.converged,
        )
        log.debug("%s, %s: %s, chosen by %s", subject.name, task.name, outcome.choice.text, outcome.choice.how)
        head = null = None
        if subject.is_encoder:
            tested = Answered(test, truth, task.decide(scores))
            head = make_head(config.probe, candidates, task, chosen, fitted, tested)
        if self.checked(subject):
            null = check_null_labels(
                config.probe, config.probe, config.seed, candidates, chosen.space, labels, test, truth
            )
        found = MeasuredLabels(
            head=head, null=null, outcome=outcome, task=task, rows=test.index, scores=scores, of_halves=of_halves
        )
        return {labels.task: found}

    # ---- what is written

    def result(self, task: str, measured: Mapping[str, MeasuredLabels], shared: Shared) -> LabelResult:
        itself = measured[ITSELF]
        return LabelResult(
            task=task,
            labels=itself.task.classes,
            data=shared.data,
            protocol=_protocol(self.config, itself.task),
            encoder=shared.encoder,
            subjects={name: one.outcome for name, one in measured.items()},
            code=shared.code,
            checks=shared.checks,
            calibration=None if itself.head is None else itself.head.calibration,
        )

    def saved(self, task: str) -> Saved:
        return Saved(task, "labels", self.config.probe.kind, self.images.labels[0].names)

    def answered(self, task: str, measured: Mapping[str, MeasuredLabels]) -> LabelScores:
        rows, labels = measured[ITSELF].rows, self.images.labels[1]
        shown = labels._replace(values=labels.values[rows])
        return LabelScores(self.images.test, rows, shown, {name: one.scores for name, one in measured.items()})

    @classmethod
    def save(cls, folder: Path, found: Sequence[Sequence[LabelScores]]) -> None:
        write_scores(folder, [one for tasks in found for one in tasks])


def _protocol(config: ProbeConfig, task: MultiLabelTask) -> str:
    compared = f"; {config.probe.rounds}" if task.subsampled else ""
    return (
        f"frozen encoder; features standardized by training statistics; {config.probe.text} for each label, all of one "
        "strength; layer, pooling and strength chosen by mean average precision in "
        f"{task.how} of the training images (iterative stratification, seed {config.seed}{compared}); refitted on the "
        "whole training set; tested once; mean average precision over the labels that test images have; ci95: "
        "delete-half jackknife over test images, paired for differences, whose p_value is normal, by the deviation of "
        "the halves; F1 of labels more likely than not"
    )

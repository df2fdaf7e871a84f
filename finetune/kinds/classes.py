"""One class per image, in one task or several: all probes of the same features, from their choice to their result."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

from torch import Tensor

from common.corruptions import Corruption
from common.data import Images, Labels
from common.encoders.base import Encoder, View
from common.encoders.provenance import Provenance
from finetune.checks import check_null
from finetune.classifier import Saved
from finetune.config import FROM_SCRATCH, ProbeConfig
from finetune.data import LabeledImages, Pair, Sources, check_enough, load_labeled, open_sources
from finetune.efficiency import Right, label_efficiency, measure_efficiency
from finetune.embedding import Embedding, embedded, write_embeddings
from finetune.features import Extraction, Features, extract
from finetune.heads import Answered, make_head
from finetune.kinds.base import Ready, Shared
from finetune.kinds.features import ImageLabels, MeasuredImages
from finetune.metrics import compare, score
from finetune.multilabel.data import ProbeData
from finetune.predictions import Predictions, write_predictions
from finetune.probes import Answers, Candidates, Chosen, Fitted, Probe, Task, build_task
from finetune.results import Probed, ProbeResult, Score, SubjectResult
from finetune.scratch import scratch_right
from finetune.subjects import ITSELF, Subject
from finetune.tracked import Sheet, image_sheets
from finetune.worth import LabelEfficiency

log = logging.getLogger("retouch")


@dataclass(frozen=True, kw_only=True)
class MeasuredClasses(MeasuredImages):
    """One subject on one task: outcome and answers of each probe, by its name."""

    view: View
    task: Task
    outcomes: dict[str, Probed]
    answers: dict[str, Answers]  # to the test images
    rows: Tensor  # int64 [n], those test images
    truth: Tensor  # int64 [n], their classes
    linear: Fitted
    right: Right | None  # by number of labels, if label efficiency is measured
    embedding: Embedding | None  # of the encoder: where it puts the test images, whatever the task

    @property
    def score(self) -> str:
        return f"{self.outcomes['linear'].test.accuracy:.1%}"

    def compared(self, others: Mapping[str, MeasuredClasses]) -> MeasuredClasses:
        """A copy in which each probe is compared with the same probe of the others."""
        outcomes = {
            key: outcome.model_copy(
                update={
                    "compared": {
                        name: compare(self.answers[key].classes, other.answers[key].classes, self.truth)
                        for name, other in others.items()
                    }
                }
            )
            for key, outcome in self.outcomes.items()
        }
        return replace(self, outcomes=outcomes)

    def with_damage(self, scores: dict[str, Score]) -> MeasuredClasses:
        """A copy with the linear classifier's scores on damaged images."""
        linear = self.outcomes["linear"].model_copy(update={"damaged": scores})
        return replace(self, outcomes={**self.outcomes, "linear": linear})


class ClassAnswers(NamedTuple):
    """What all classifiers answered in one task, and where the encoder puts the test images."""

    predictions: Predictions
    embedding: Embedding


@dataclass(frozen=True)
class ClassLabels(ImageLabels[MeasuredClasses, ClassAnswers]):
    """A data set whose images have one class each, in every task."""

    part: ClassVar = "results"

    images: LabeledImages

    # ---- before anything is written

    @classmethod
    def open(cls, config: ProbeConfig, data: ProbeData) -> Sources:
        return open_sources(data, config.seed, config.probe.validation)

    @classmethod
    def load(cls, config: ProbeConfig, ready: Ready[Sources], size: int, trained_on: Provenance) -> ClassLabels:
        images = load_labeled(ready.sources, ready.data, size, config.seed, trained_on)
        check_enough(images, config.probe.validation, config.seed)
        return cls(config, ready.data, ready.spaces, images)

    # ---- what is measured

    @property
    def pair(self) -> Pair:
        return self.images.pair

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.images.tasks)

    def measure(self, subject: Subject, how: Extraction) -> dict[str, MeasuredClasses]:
        found = super().measure(subject, how)
        return self._damaged(found, subject.encoder, how) if subject.is_encoder else found

    def measured(self, subject: Subject, candidates: Candidates, test: Features) -> dict[str, MeasuredClasses]:
        embedding = embedded(test, self.images.test, subject.spaces) if subject.is_encoder else None
        return {task: self._measured(task, subject, candidates, test, embedding) for task in self.tasks}

    def _measured(
        self, name: str, subject: Subject, candidates: Candidates, test: Features, embedding: Embedding | None
    ) -> MeasuredClasses:
        """All probes on one task."""
        config, (train_labels, test_labels) = self.config, self.images.tasks[name]
        # the labels of the rows that have features
        train_labels = train_labels._replace(values=train_labels.values[candidates.features.index])
        truth = test_labels.values[test.index]
        task = build_task(train_labels, config.probe, config.seed)
        outcomes: dict[str, Probed] = {}
        answers: dict[str, Answers] = {}
        for key, one in config.probes.items():
            spaces = candidates.among(subject.own[key]) if key in subject.own else candidates
            ran = run_probe(one, spaces, task, test, test_labels)
            outcomes[key], answers[key] = ran.outcome, ran.answers
            if key == "linear":
                linear = ran
            choice = ran.outcome.choice
            log.debug("%s, %s, %s: %s, chosen by %s", subject.name, name, key, choice.text, choice.how)
        head = null = None
        if subject.is_encoder:
            tested = Answered(test, truth, linear.answers.classes)
            head = make_head(config.probe, candidates, task, linear.chosen, linear.fitted, tested)
        if self.checked(subject):
            space = linear.fitted.space
            null = check_null(config.probe, config.probe, config.seed, candidates, space, train_labels, test, truth)
        return MeasuredClasses(
            head=head,
            null=null,
            view=subject.encoder.view,
            task=task,
            outcomes=outcomes,
            answers=answers,
            rows=test.index,
            truth=truth,
            linear=linear.fitted,
            right=measure_efficiency(config, candidates, train_labels, test, truth, linear.answers.classes),
            embedding=embedding,
        )

    def _damaged(
        self, measured: dict[str, MeasuredClasses], encoder: Encoder, how: Extraction
    ) -> dict[str, MeasuredClasses]:
        """Add the scores of the chosen linear classifiers on damaged test images, without refitting."""
        fitted = {name: one.linear for name, one in measured.items()}
        labels = {name: self.images.tasks[name][1] for name in measured}
        scores = under_damage(encoder, self.images.test, fitted, labels, self.config.damage, how, self.config.seed)
        return {name: one.with_damage(scores[name]) for name, one in measured.items()}

    # ---- what is written

    def result(self, task: str, measured: Mapping[str, MeasuredClasses], shared: Shared) -> ProbeResult:
        itself = measured[ITSELF]
        return ProbeResult(
            task=task,
            classes=itself.task.classes,
            needs_color=task in self.images.train.source.color_tasks,
            data=shared.data,
            protocol=_protocol(self.config, itself.task),
            encoder=shared.encoder,
            subjects={name: SubjectResult(view=one.view, probes=one.outcomes) for name, one in measured.items()},
            code=shared.code,
            label_efficiency=self._label_efficiency(task, measured),
            checks=shared.checks,
            calibration=None if itself.head is None else itself.head.calibration,
        )

    def _label_efficiency(self, task: str, measured: Mapping[str, MeasuredClasses]) -> LabelEfficiency | None:
        """The curves of all subjects on one task, and of the network from scratch if it was measured."""
        config = self.config
        right = {name: one.right for name, one in measured.items() if one.right is not None}
        if not right or config.label_efficiency is None:
            return None
        if config.label_efficiency.from_scratch:
            right[FROM_SCRATCH] = scratch_right(config, config.label_efficiency, self.images, task)
        return label_efficiency(right)

    def saved(self, task: str) -> Saved:
        labels, _ = self.images.tasks[task]
        return Saved(labels.task, "class", self.config.probe.kind, labels.names)

    def answered(self, task: str, measured: Mapping[str, MeasuredClasses]) -> ClassAnswers:
        itself = measured[ITSELF]
        said = {f"{name}.{key}": answers for name, one in measured.items() for key, answers in one.answers.items()}
        classes = {name: answers.classes for name, answers in said.items()}
        sure = {name: answers.confidence for name, answers in said.items() if answers.confidence is not None}
        names = itself.task.classes
        kept = {} if itself.head is None or itself.head.sure is None else {"encoder.linear": itself.head.sure}
        predictions = Predictions.of(self.images.test, itself.rows, task, names, itself.truth, classes, sure, kept)
        assert itself.embedding is not None
        return ClassAnswers(predictions, itself.embedding)

    @classmethod
    def save(cls, folder: Path, found: Sequence[Sequence[ClassAnswers]]) -> None:
        write_predictions(folder, [one.predictions for tasks in found for one in tasks])
        places = [place for place, tasks in enumerate(found) for _ in tasks]
        write_embeddings(folder, [tasks[0].embedding for tasks in found], places)

    def sheets(self, found: Sequence[ClassAnswers]) -> tuple[Sheet, ...]:
        return image_sheets(self.images.test, found[0].embedding, [one.predictions for one in found])


class Ran(NamedTuple):
    """One probe on one task."""

    outcome: Probed
    chosen: Chosen
    fitted: Fitted
    answers: Answers  # to the test images


def run_probe(one: Probe, candidates: Candidates, task: Task, test: Features, test_labels: Labels) -> Ran:
    """Run one probe on one task: choose, refit, test once."""
    started = time.monotonic()
    chosen = one.choose(candidates, task)
    fitted = one.refit(candidates, task, chosen)
    answers = fitted.answers(test)
    outcome = Probed(
        choice=chosen.facts,
        n_train=len(task.labels),
        n_val=task.held,
        test=score(answers.classes, test_labels.values[test.index], len(task.classes)),
        seconds=round(time.monotonic() - started, 2),
        converged=fitted.converged,
    )
    return Ran(outcome, chosen, fitted, answers)


def under_damage(
    encoder: Encoder,
    images: Images,
    fitted: Mapping[str, Fitted],
    labels: Mapping[str, Labels],
    damages: Sequence[Corruption],
    how: Extraction,
    seed: int,
) -> dict[str, dict[str, Score]]:
    """The scores of fitted classifiers on damaged copies of images: by task, and by damage.

    Args:
        labels: of the images, by task.
    """
    parts = sorted({part for one in fitted.values() for part in one.space.parts})
    scores: dict[str, dict[str, Score]] = {task: {} for task in fitted}
    for corruption in damages:
        features = extract(encoder, images, parts, how, damage=corruption, seed=seed)
        for task, one in fitted.items():
            true = labels[task]
            found = score(one.predict(features), true.values[features.index], len(true.names))
            scores[task][damage_name(corruption)] = found
    return scores


def damage_name(corruption: Corruption) -> str:
    """``gaussian sigma=0.1``: the kind and its non-default settings."""
    settings = corruption.model_dump(exclude_defaults=True, exclude={"kind"})
    return " ".join([corruption.kind, *(f"{key}={value}" for key, value in settings.items())])


def _protocol(config: ProbeConfig, task: Task) -> str:
    compared = f"; {config.probe.rounds}" if task.subsampled else ""
    preferred = [one.text for one in config.probes.values() if one.prefers_widest]
    widest = f"; {', '.join(preferred)}: all features unless fewer are better by a standard error" if preferred else ""
    return (
        f"frozen encoder; features standardized by training statistics; "
        f"{', '.join(one.text for one in config.probes.values())}; layer, pooling and hyperparameters chosen by "
        f"{task.how} of the training images (stratified, seed {config.seed}{compared}{widest}); "
        "refitted on the whole training set; tested once; ci95: Wilson, and of differences the paired bootstrap; "
        "p_value: McNemar's exact test"
    )

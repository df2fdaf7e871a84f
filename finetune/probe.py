"""The probe stage: a fair evaluation of a frozen encoder's features.

All choices are made on training images: by cross-validation of few, on a validation split of many. The test set is used
once per reported number, and its predictions are kept, so that any two classifiers can be compared image by image.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from common.corruptions import Corruption
from common.data import Labels
from common.encoders.base import Encoder
from common.encoders.card import EncoderCard
from common.encoders.load import read_encoder_card
from common.errors import check_all
from common.machine.distributed import world
from common.machine.precision import resolve_precision
from common.runs.folder import numbered, open_run, with_group
from common.runs.logs import early_log
from common.runs.made import ENCODER, made
from finetune.checks import before_and_after, check_null, state_digests, why_no_null
from finetune.classifier import Kept, keep, write_classifiers
from finetune.config import FROM_SCRATCH, ProbeConfig
from finetune.data import (
    LabeledData,
    LabeledImages,
    Sources,
    data_facts,
)
from finetune.dense.data import MaskedImages
from finetune.dense.probing import probe_masks
from finetune.efficiency import Right, label_efficiency, measure_efficiency
from finetune.embedding import Embedding, embedded, write_embeddings
from finetune.features import Extraction, Features, extract
from finetune.heads import Head, make_head
from finetune.leaks import write_leaks
from finetune.metrics import compare, score
from finetune.multilabel.data import MultiLabelImages
from finetune.multilabel.probing import probe_labels
from finetune.multilabel.scores import LabelScores, write_scores
from finetune.opening import Ready, ReadyMasks, inputs, load, prepare
from finetune.predictions import Predictions, write_predictions
from finetune.probes import Answers, Candidates, Chosen, Fitted, Probe, Task, build_task
from finetune.properties import measure_properties
from finetune.records import Checks, NullCheck
from finetune.results import Probed, ProbeReport, ProbeResult, Score, SubjectResult, write_results
from finetune.scratch import scratch_right
from finetune.several import DenseResult, LabelResult
from finetune.subjects import Spaces, Subject, baselines_of, encoder_facts, features_of
from finetune.summary import log_report, notes, print_report
from finetune.tracked import Sheet, image_sheets, send
from finetune.worth import LabelEfficiency

log = logging.getLogger("retouch")


@dataclass(frozen=True)
class Measured:
    """One subject on one task: outcome and test predictions of each probe, and its fitted linear classifier."""

    task: Task
    outcomes: dict[str, Probed]
    predictions: dict[str, Tensor]  # int64 [n]
    confidences: dict[str, Tensor]  # float32 [n], of the probes that have probabilities
    linear: Fitted
    head: Head | None  # of the encoder: its linear classifier, to be kept
    null: NullCheck | None  # of the encoder, if it is checked
    right: Right | None  # by number of labels, if label efficiency is measured

    def compared(self, others: Mapping[str, Measured], labels: Tensor) -> Measured:
        """A copy in which each probe is compared with the same probe of other subjects."""
        outcomes = {
            key: outcome.model_copy(
                update={
                    "compared": {
                        name: compare(self.predictions[key], other.predictions[key], labels)
                        for name, other in others.items()
                    }
                }
            )
            for key, outcome in self.outcomes.items()
        }
        return replace(self, outcomes=outcomes)

    def with_damage(self, scores: dict[str, Score]) -> Measured:
        """A copy with the linear classifier's scores on damaged images."""
        linear = self.outcomes["linear"].model_copy(update={"damaged": scores})
        return replace(self, outcomes={**self.outcomes, "linear": linear})


def probe(config: ProbeConfig, *, show: bool = True) -> ProbeReport:
    """Evaluate a frozen encoder and its baselines with all probes; write what ``ProbeConfig.writes`` names.

    Args:
        show: print the tables; a caller that combines several probes prints its own.

    Returns:
        The content of ``results.json``: one result per task and data set, and notes.

    Raises:
        UserError: the encoder, data or run folder cannot be used; nothing has been written.
    """
    with world() as here, numbered(config, here) as config, early_log() as early:
        # everything the user can get wrong is checked before anything is written
        encoder, ready = prepare(config, here)
        card = read_encoder_card(config.encoder)
        loaded = check_all(*(lambda one=one: load(config, one, encoder, card) for one in ready))
        config = with_group(config, card.provenance.group)
        precision = resolve_precision(config.precision, here.device)

        with open_run(config, here, early) as run:
            run.tracker.use_encoder(config.encoder, card.sha256, card.provenance.artifact)
            found = Found()
            for one, images in zip(ready, loaded, strict=True):
                how = Extraction(here.device, precision, config.batch_size, one.data.workers)
                found.add(config, one, images, encoder, card, how, pictures=run.tracker.active)
            kept = [*found.classifiers, *found.label_classifiers, *found.mask_classifiers]
            folders = iter(write_classifiers(run.folder, kept))
            report = ProbeReport(
                results=tuple(one.model_copy(update={"classifier": next(folders)}) for one in found.results),
                multilabel=tuple(one.model_copy(update={"classifier": next(folders)}) for one in found.multilabel),
                dense=tuple(one.model_copy(update={"classifier": next(folders)}) for one in found.dense),
                notes=notes(config, found.results, found.multilabel, found.dense),
                made=made({ENCODER: card.sha256, **inputs([one.sources for one in ready])}),
            )
            if found.results:
                write_predictions(run.folder, found.predictions)
                write_embeddings(run.folder, found.embeddings, found.places)
            write_scores(run.folder, found.label_scores)
            write_leaks(run.folder, [(images.train.source.spec, images.leaks) for images in loaded])
            write_results(run.folder, report)
            if show:
                print_report(run, report)
            log_report(run, report)
            send(run.tracker, found.shown)
            return report


@dataclass
class Found:
    """What was measured so far, of all data sets."""

    results: list[ProbeResult] = field(default_factory=list)
    multilabel: list[LabelResult] = field(default_factory=list)
    dense: list[DenseResult] = field(default_factory=list)
    label_scores: list[LabelScores] = field(default_factory=list)
    predictions: list[Predictions] = field(default_factory=list)
    classifiers: list[Kept] = field(default_factory=list)  # of each of the results
    label_classifiers: list[Kept] = field(default_factory=list)  # of each with several labels
    mask_classifiers: list[Kept] = field(default_factory=list)  # of each with masks
    embeddings: list[Embedding] = field(default_factory=list)
    places: list[int] = field(default_factory=list)  # of each result's test set among the embeddings
    shown: list[Sheet] = field(default_factory=list)  # images for W&B

    def add(
        self,
        config: ProbeConfig,
        ready: Ready,
        images: LabeledImages | MultiLabelImages | MaskedImages,
        encoder: Encoder,
        card: EncoderCard,
        how: Extraction,
        *,
        pictures: bool,
    ) -> None:
        """Probe one more data set; ``pictures`` asks for images for W&B."""
        if isinstance(ready, ReadyMasks):
            assert isinstance(images, MaskedImages)
            masked, kept = probe_masks(config, ready.data, ready.sources, images, ready.layers, encoder, card, how)
            self.dense.append(masked)
            self.mask_classifiers.append(kept)
            return
        assert not isinstance(images, MaskedImages)
        data, sources, spaces = ready
        if isinstance(images, MultiLabelImages):
            one, scores, kept = probe_labels(config, data, sources, images, spaces, encoder, card, how)
            self.multilabel.append(one)
            self.label_classifiers.append(kept)
            self.label_scores.append(scores)
            return
        found, embedding = _probe_data(config, data, sources, images, spaces, encoder, card, how)
        for result, answers, classifier in found:
            self.results.append(result)
            self.predictions.append(answers)
            self.classifiers.append(classifier)
            self.places.append(len(self.embeddings))
        self.embeddings.append(embedding)
        if pictures:
            self.shown.extend(image_sheets(images.test, embedding, [one.answers for one in found]))


class Done(NamedTuple):
    """One task: its result, what all classifiers answered, and the encoder's linear one."""

    result: ProbeResult
    answers: Predictions
    classifier: Kept


def _probe_data(
    config: ProbeConfig,
    data: LabeledData,
    sources: Sources,
    images: LabeledImages,
    spaces: Spaces,
    encoder: Encoder,
    card: EncoderCard,
    how: Extraction,
) -> tuple[list[Done], Embedding]:
    """Each task of this data set, and where the encoder puts the test images."""
    itself = Subject("encoder", encoder, card.sha256, *spaces)
    subjects = [itself, *baselines_of(config, itself, images.train, how)]
    before = state_digests(subject.encoder for subject in subjects)

    # the encoder itself
    tasks, embedding = _measure(config, data, itself, images, how)
    assert embedding is not None
    measured = {itself.name: _damaged(config, tasks, encoder, images, how)}
    code = measure_properties(encoder, images.test, how, config.seed) if config.properties else None

    # the baselines
    for subject in subjects[1:]:
        measured[subject.name], _ = _measure(config, data, subject, images, how)
    after = state_digests(subject.encoder for subject in subjects)
    digests = before_and_after((subject.name for subject in subjects), before, after)

    found = []
    for name, (train_labels, test_labels) in images.tasks.items():
        mine = {subject: of_task[name] for subject, of_task in measured.items()}
        baselines = {subject: one for subject, one in mine.items() if subject != itself.name}
        null, head = mine[itself.name].null, mine[itself.name].head
        assert head is not None
        mine[itself.name] = mine[itself.name].compared(baselines, test_labels.values)
        result = ProbeResult(
            task=name,
            classes=train_labels.names,
            needs_color=name in sources.train.color_tasks,
            data=data_facts(sources, images.train, images.test, images.leaks, images.left_out),
            protocol=_protocol(config, mine[itself.name].task),
            encoder=encoder_facts(config, card),
            subjects={
                subject.name: SubjectResult(view=subject.encoder.view, probes=mine[subject.name].outcomes)
                for subject in subjects
            },
            code=code,
            label_efficiency=_label_efficiency(config, images, name, mine),
            checks=Checks(
                frozen=after == before, null=null, missing=why_no_null(null, config.null_check), sha256=digests
            ),
            calibration=head.calibration,
        )
        answers = {f"{subject}.{key}": said for subject, one in mine.items() for key, said in one.predictions.items()}
        sure = {f"{subject}.{key}": share for subject, one in mine.items() for key, share in one.confidences.items()}
        rows, classes = torch.arange(len(images.test)), train_labels.names
        predictions = Predictions.of(images.test, rows, name, classes, test_labels.values, answers, sure)
        kept = keep(
            head,
            config.probe.kind,
            train_labels.task,
            "class",
            classes,
            images.train,
            config.encoder,
            card,
            config.out,
        )
        found.append(Done(result, predictions, kept))
    return found, embedding


def _measure(
    config: ProbeConfig, data: LabeledData, subject: Subject, images: LabeledImages, how: Extraction
) -> tuple[dict[str, Measured], Embedding | None]:
    """Extract features once. For every task and probe, choose on training images, refit on all of them, test once.

    Also returns where the encoder, and no baseline, puts the test images.
    """
    started = time.monotonic()
    train = features_of(config, subject, images.train, "train", data.limit, how)
    test = features_of(config, subject, images.test, "test", data.test_limit, how)
    extracted = time.monotonic()
    candidates = Candidates(train, subject.spaces, how.device, config.probe.finalists)
    found: dict[str, Measured] = {}
    for name, (train_labels, test_labels) in images.tasks.items():
        # the labels of the rows that have features
        train_labels = train_labels._replace(values=train_labels.values[train.index])
        task = build_task(train_labels, config.probe, config.seed)
        outcomes: dict[str, Probed] = {}
        predictions: dict[str, Tensor] = {}
        confidences: dict[str, Tensor] = {}
        for key, one in config.probes.items():
            spaces = candidates.among(subject.own[key]) if key in subject.own else candidates
            ran = run_probe(one, spaces, task, test, test_labels)
            outcomes[key], (predictions[key], confidence) = ran.outcome, ran.answers
            if confidence is not None:
                confidences[key] = confidence
            if key == "linear":
                linear = ran
            choice = ran.outcome.choice
            log.debug("%s, %s, %s: %s, chosen by %s", subject.name, name, key, choice.text, choice.how)
        head = None
        if subject.name == "encoder":
            head = make_head(
                config.probe, candidates, task, linear.chosen, linear.fitted, test, test_labels, linear.answers
            )
        answers = test_labels.values[test.index]
        null = None
        if config.null_check and subject.name == "encoder":
            space = linear.fitted.space
            null = check_null(config.probe, config.probe, config.seed, candidates, space, train_labels, test, answers)
        right = measure_efficiency(config, candidates, train_labels, test, answers, predictions["linear"])
        found[name] = Measured(task, outcomes, predictions, confidences, linear.fitted, head, null, right)
    log.info(
        "%s: features of %s images in %.1f s, probed in %.1f s: %s",
        *(subject.name, f"{len(train) + len(test):,}", extracted - started, time.monotonic() - extracted),
        ", ".join(f"{name} {one.outcomes['linear'].test.accuracy:.1%}" for name, one in found.items()),
    )
    return found, embedded(test, images.test, subject.spaces) if subject.name == "encoder" else None


def _label_efficiency(
    config: ProbeConfig, images: LabeledImages, task: str, measured: Mapping[str, Measured]
) -> LabelEfficiency | None:
    """Of all subjects on one task, and of the network from scratch, if it was measured."""
    right = {name: one.right for name, one in measured.items() if one.right is not None}
    if not right or config.label_efficiency is None:
        return None
    if config.label_efficiency.from_scratch:
        right[FROM_SCRATCH] = scratch_right(config, config.label_efficiency, images, task)
    return label_efficiency(right)


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


def _damaged(
    config: ProbeConfig, measured: dict[str, Measured], encoder: Encoder, images: LabeledImages, how: Extraction
) -> dict[str, Measured]:
    """Add the scores of the chosen linear classifiers on damaged test images, without refitting."""
    parts = sorted({part for one in measured.values() for part in one.linear.space.parts})
    scores: dict[str, dict[str, Score]] = {name: {} for name in measured}
    for corruption in config.damage:
        features = extract(encoder, images.test, parts, how, damage=corruption, seed=config.seed)
        for name, one in measured.items():
            labels = images.tasks[name][1]
            predictions = one.linear.predict(features)
            scores[name][damage_name(corruption)] = score(predictions, labels.values[features.index], len(labels.names))
    return {name: one.with_damage(scores[name]) for name, one in measured.items()}


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

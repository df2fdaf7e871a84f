"""The linear probe of images with several labels each: chosen on training images, tested once, and compared."""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from common.encoders.base import Encoder
from common.encoders.card import EncoderCard
from finetune.checks import before_and_after, state_digests, why_no_null
from finetune.classifier import Kept, keep
from finetune.config import ProbeConfig
from finetune.data import Sources, data_facts
from finetune.features import Extraction
from finetune.heads import Head, make_label_head
from finetune.multilabel.data import MultiLabelImages, ProbeData
from finetune.multilabel.null import check_null_labels
from finetune.multilabel.scores import LabelScores
from finetune.multilabel.task import MultiLabelTask, build_multilabel_task
from finetune.probes import Candidates
from finetune.properties import measure_properties
from finetune.ranking import compare_labels, halves, score_labels
from finetune.records import NullCheck
from finetune.several import LabelComparison, LabelProbed, LabelResult, compared_with
from finetune.subjects import Spaces, Subject, baselines_of, encoder_facts, features_of

log = logging.getLogger("retouch")


class Measured(NamedTuple):
    """One subject: its outcome, what it gave for each test image, and the mean average precision of halves."""

    outcome: LabelProbed
    task: MultiLabelTask
    rows: Tensor  # int64 [n], test images that have features
    scores: Tensor  # float32 [n L]
    of_halves: NDArray[np.float64]
    head: Head | None  # of the encoder: its linear classifier, to be kept
    null: NullCheck | None  # of the encoder, if it is checked


def probe_labels(
    config: ProbeConfig,
    data: ProbeData,
    sources: Sources,
    images: MultiLabelImages,
    spaces: Spaces,
    encoder: Encoder,
    card: EncoderCard,
    how: Extraction,
) -> tuple[LabelResult, LabelScores, Kept]:
    """The result of this data set, what each subject gave for each test image, and the encoder's classifier."""
    itself = Subject("encoder", encoder, card.sha256, *spaces)
    subjects = [itself, *baselines_of(config, itself, images.train, how)]
    before = state_digests(subject.encoder for subject in subjects)
    measured = {subject.name: _measure(config, data, subject, images, how) for subject in subjects}
    code = measure_properties(encoder, images.test, how, config.seed) if config.properties else None
    after = state_digests(subject.encoder for subject in subjects)
    digests = before_and_after((subject.name for subject in subjects), before, after)

    mine = measured[itself.name]
    assert mine.head is not None

    def against(name: str) -> LabelComparison:
        other = measured[name]
        return compare_labels(mine.outcome.test, other.outcome.test, mine.of_halves, other.of_halves)

    train, test = images.labels
    result = LabelResult(
        task=train.task,
        labels=train.names,
        data=data_facts(sources, images.train, images.test, images.leaks, images.left_out),
        protocol=_protocol(config, mine.task),
        encoder=encoder_facts(config, card),
        subjects=compared_with({name: one.outcome for name, one in measured.items()}, against),
        code=code,
        frozen=after == before,
        sha256=digests,
        null=mine.null,
        missing=why_no_null(mine.null, config.null_check),
        calibration=mine.head.calibration,
    )
    shown = test._replace(values=test.values[mine.rows])
    scores = LabelScores(images.test, mine.rows, shown, {name: one.scores for name, one in measured.items()})
    kept = keep(
        mine.head,
        config.probe.kind,
        train.task,
        "labels",
        train.names,
        images.train,
        config.encoder,
        card,
        config.out,
    )
    return result, scores, kept


def _measure(
    config: ProbeConfig, data: ProbeData, subject: Subject, images: MultiLabelImages, how: Extraction
) -> Measured:
    """Extract features, choose on training images, refit on all of them, test once."""
    started = time.monotonic()
    train = features_of(config, subject, images.train, "train", data.limit, how)
    test = features_of(config, subject, images.test, "test", data.test_limit, how)
    extracted = time.monotonic()
    candidates = Candidates(train, subject.spaces, how.device, config.probe.finalists)
    labels, test_labels = images.labels
    task = build_multilabel_task(labels._replace(values=labels.values[train.index]), config.probe, config.seed)
    chosen = config.probe.choose(candidates, task)
    fitted = config.probe.refit(candidates, task, chosen)
    scores, truth = fitted.predict(test), test_labels.values[test.index]
    of_halves = halves(scores, truth)
    head = None
    if subject.name == "encoder":
        head = make_label_head(config.probe, candidates, task, chosen, fitted, test, truth, scores)
    null = None
    if config.null_check and subject.name == "encoder":
        fitted_on = labels._replace(values=task.labels)
        null = check_null_labels(
            config.probe, config.probe, config.seed, candidates, chosen.space, fitted_on, test, truth
        )
    outcome = LabelProbed(
        view=subject.encoder.view,
        choice=chosen.facts,
        n_train=len(task.labels),
        n_val=task.held,
        test=score_labels(scores, truth, of_halves),
        seconds=round(time.monotonic() - extracted, 2),
        converged=fitted.converged,
    )
    log.info(
        "%s: features of %s images in %.1f s, probed in %.1f s: %s, mean average precision %.1f%%",
        *(subject.name, f"{len(train) + len(test):,}", extracted - started, outcome.seconds, task.name),
        100 * outcome.test.mean_average_precision,
    )
    log.debug("%s, %s: %s, chosen by %s", subject.name, task.name, outcome.choice.text, outcome.choice.how)
    return Measured(outcome, task, test.index, scores, of_halves, head, null)


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

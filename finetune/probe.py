"""The probe stage: a fair evaluation of a frozen encoder's features.

All choices are made on training images: by cross-validation of few, on a validation split of many. The test set is used
once per reported number, and its predictions are kept, so that any two classifiers can be compared image by image.

This file is the driver of all kinds of labels. What depends on the kind is in ``finetune/kinds/``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple

from common.encoders.base import Encoder
from common.encoders.card import EncoderCard
from common.encoders.load import read_encoder_card
from common.errors import check_all
from common.machine.distributed import world
from common.machine.precision import resolve_precision
from common.machine.room import check_pass_batch
from common.runs.folder import Run, numbered, open_run, with_group
from common.runs.logs import early_log
from common.runs.made import ENCODER_INPUT, Made, made
from finetune.checks import before_and_after, state_digests, why_no_null
from finetune.classifier import Kept, keep, write_classifiers
from finetune.config import ProbeConfig
from finetune.features import Extraction
from finetune.kinds import KINDS, AnyKind, LabelKind, Shared
from finetune.kinds.base import A, M, X
from finetune.leaks import write_leaks
from finetune.opening import inputs, load, prepare
from finetune.properties import measure_properties
from finetune.records import Checks
from finetune.results import ProbeReport, ProbeResult, write_results
from finetune.structured_results import DenseResult, LabelResult
from finetune.subjects import ITSELF, Subject, encoder_facts, twin_of
from finetune.summary import log_report, notes, print_report
from finetune.tracked import send


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
        config = with_group(config, card.provenance.group)
        loaded = check_all(*(lambda one=one: load(config, one, encoder, card) for one in ready))
        for of in loaded:
            train, test, *_ = of.pair
            check_pass_batch(config.batch_size, max(len(train), len(test)), train.size, here)
        precision = resolve_precision(config.precision, here.device)

        with open_run(config, here, early) as run:
            run.tracker.use_encoder(config.encoder, card.sha256, card.provenance.artifact)
            found = []
            for one in loaded:
                how = Extraction(here.device, precision, config.batch_size, one.data.workers)
                found.append(Found(one, measure(one, encoder, card, how)))
            report = write(
                config, run, found, made({ENCODER_INPUT: card.sha256, **inputs([one.sources for one in ready])})
            )
            if show:
                print_report(run, report)
            log_report(run, report)
            if run.tracker.active:
                for of, tasks in found:
                    send(run.tracker, of.sheets([one.answered for one in tasks]))
            return report


class Done(NamedTuple, Generic[A]):
    """One task of a data set."""

    result: ProbeResult | LabelResult | DenseResult
    classifier: Kept  # the encoder's linear one
    answered: A  # what all subjects answered for each test image


class Found(NamedTuple):
    """A data set, and what was measured on it."""

    of: AnyKind
    tasks: Sequence[Done[Any]]


def measure(one: LabelKind[X, M, A], encoder: Encoder, card: EncoderCard, how: Extraction) -> list[Done[A]]:
    """Measure the encoder and its baselines on a data set, compare them, and check that they stayed frozen.

    Returns:
        One entry per task.
    """
    config, pair = one.config, one.pair
    subjects = subjects_of(one, encoder, card, how)
    before = state_digests(subject.encoder for subject in subjects)
    measured = {subject.name: one.measure(subject, how) for subject in subjects}
    code = measure_properties(encoder, pair.test, how, config.seed) if config.properties else None
    after = state_digests(subject.encoder for subject in subjects)
    digests = before_and_after((subject.name for subject in subjects), before, after)

    data, about, found = pair.facts, encoder_facts(config, card), []
    for task in one.tasks:
        of_task = {name: tasks[task] for name, tasks in measured.items()}
        baselines = {name: other for name, other in of_task.items() if name != ITSELF}
        of_task[ITSELF] = itself = of_task[ITSELF].compared(baselines)
        missing = why_no_null(itself.null, config.null_check)
        checks = Checks(frozen=after == before, null=itself.null, missing=missing, sha256=digests)
        assert itself.head is not None
        kept = keep(itself.head, one.saved(task), pair.train, config.encoder, card, config.out)
        result = one.result(task, of_task, Shared(data, about, code, checks))
        found.append(Done(result, kept, one.answered(task, of_task)))
    return found


def subjects_of(one: LabelKind[X, M, A], encoder: Encoder, card: EncoderCard, how: Extraction) -> list[Subject]:
    """The encoder, its untrained twin and raw pixels, as configured."""
    config, itself = one.config, Subject(ITSELF, encoder, card.sha256, *one.spaces)
    subjects = [itself]
    if config.baselines.random_init:
        subjects.append(twin_of(config, itself, one.pair.train, how))
    if config.baselines.pixels:
        subjects.append(one.pixels())
    return subjects


def write(config: ProbeConfig, run: Run, found: Sequence[Found], made_with: Made) -> ProbeReport:
    """Write all results of a run, kind by kind, and in the end ``results.json``, which marks it as finished."""
    sets = {kind: [one for one in found if one.of.part == kind.part] for kind in KINDS}
    done = [one for of_kind in sets.values() for _, tasks in of_kind for one in tasks]
    folders = iter(write_classifiers(run.folder, [one.classifier for one in done]))
    results = {
        kind.part: tuple(
            one.result.model_copy(update={"classifier": next(folders)}) for _, tasks in of_kind for one in tasks
        )
        for kind, of_kind in sets.items()
    }
    for kind, of_kind in sets.items():
        if of_kind:
            kind.save(run.folder, [[one.answered for one in tasks] for _, tasks in of_kind])
    write_leaks(run.folder, [(one.of.pair.train.source.spec, one.of.pair.leaks) for one in found])
    report = ProbeReport.model_validate({**results, "made": made_with})
    report = report.model_copy(update={"notes": notes(config, report)})
    write_results(run.folder, report)
    return report

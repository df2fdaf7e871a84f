"""The end of a study: every contestant is tested by one protocol, and the winner is compared with the others.

Each test is saved at once, so a study that is killed here resumes after the last one. The network from scratch is
trained last, since it absorbs the errors of the time estimates.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from common.encoders.export import export_encoder
from common.encoders.load import ENCODER
from common.encoders.provenance import Provenance
from common.files import write_json
from common.runs.results import RESULTS
from common.words import counted
from finetune.config import LabelEfficiencyConfig
from finetune.embedding import read_embeddings, write_embeddings
from finetune.predictions import PREDICTIONS, Predictions, read_predictions, write_predictions
from finetune.tracked import Sheet, embedding_sheet, errors_sheet, send
from finetune.worth import LabelEfficiency
from retouch.studies.budget import NO_TIME_FOR_SCRATCH, scratch_time
from retouch.studies.contestants import Pretrained, Restoring
from retouch.studies.estimates import (
    change,
    damage_seconds,
    damaged_images,
    end_seconds,
    estimated_test,
    probe_fits,
    probe_seconds,
    scratch_overhead,
    worth_seconds,
)
from retouch.studies.fits import PROBES, WORTH_DRAWS, WORTH_SHARES, ProbeKind
from retouch.studies.images import LabelSet, titled_tasks
from retouch.studies.journal import TimedTest
from retouch.studies.judge import Probing
from retouch.studies.outcome import study_report
from retouch.studies.parts import Parts
from retouch.studies.plan import CAREFUL, Plan
from retouch.studies.race import better
from retouch.studies.results import CONTESTANTS, SCRATCH, StudyReport, Versus
from retouch.studies.rivals import Answers, compared, gain_shown, labels_of_tests, rivals_of
from retouch.studies.scratch import run_scratch
from retouch.studies.tracked import study_shown

log = logging.getLogger("retouch")

ENOUGH = 0.7  # of the estimated seconds: estimates are on the high side


class Ended(NamedTuple):
    """All results of the end of a study."""

    plan: Plan  # with the decisions that depended on time
    winner: str
    answers: Answers
    comparisons: tuple[Versus, ...]
    worth: dict[str, LabelEfficiency]


def finish(parts: Parts, plan: Plan) -> StudyReport | None:
    """Test all contestants, compare the winner, and write results and predictions; None if a signal stopped it."""
    ended = _end(parts, plan)
    if ended is None:
        return None
    report = study_report(parts, ended.plan, ended.winner, ended.answers, ended.comparisons, ended.worth)
    _keep_network(parts, ended.winner)
    write_json(parts.config.out / RESULTS, report.model_dump(mode="json"))
    parts.run.tracker.summary({"verdict": " ".join(report.verdict), "winner": report.winner})
    send(parts.run.tracker, [*study_shown(report), *_images_shown(parts, ended)])
    return report


def _keep_network(parts: Parts, winner: str) -> None:
    """Write a pretrained winner to its folder, where those that learned in the study have theirs."""
    one = parts.field.named(winner)
    if isinstance(one, Pretrained):
        trained = Provenance(pretext={"kind": f"pretrained {one.name}"})
        export_encoder(one.encoder(), parts.config.out / CONTESTANTS / one.name / ENCODER, trained)


def _images_shown(parts: Parts, ended: Ended) -> Iterator[Sheet]:
    """The winner's errors, and its map if it had a linear probe, of each set of test images."""
    sets, winner = parts.images.sets, ended.winner
    answered = {one.task: one for one in predictions(sets, {winner: ended.answers[winner]})}
    embeddings = dict(zip(answered, read_embeddings(parts.config.out), strict=False))
    for number, (part, tasks) in enumerate(titled_tasks(sets), start=1):
        test, said = part.images.test, [answered[title] for title in tasks]
        sheets = [errors_sheet(test, said, winner)]
        if (embedding := embeddings.get(said[0].task)) is not None:  # its tasks share one
            sheets.append(embedding_sheet(test, embedding, said, winner))
        yield from (one._replace(name=f"{one.name}_{number}") if len(sets) > 1 else one for one in sheets)


def _end(parts: Parts, plan: Plan) -> Ended | None:
    """Tests, the linear probe of the winner, the network from scratch, and what a gain is worth in labels."""
    journal, sets = parts.journal, parts.images.sets
    winner = _winner(parts, plan)
    answers = _known(parts)
    untested = [name for name in journal.judged if name not in answers]
    doing = f"testing {counted(len(untested), 'contestant')}" if untested else "all contestants are tested"
    log.info("\n%s is best on validation; %s", winner, doing)
    for name in journal.judged:
        if name != winner and name not in answers:
            began = journal.clock.taken
            tested = parts.judge.test(parts.field.named(name))
            journal.tests.append(TimedTest(journal.clock.taken - began, estimated_test(parts, name)))
            _keep(parts, answers, name, {task: one.predictions for task, one in tested.items()})
    plan = _test_winner(parts, plan, winner, answers)

    labels = labels_of_tests(sets)
    ranked = sorted(journal.judged, key=lambda name: -journal.last(name).mean)
    rivals = rivals_of(winner, parts.field, ranked)
    soon = compared(winner, rivals, answers, labels, unknown=len(labels))
    plan = _settle_scratch(parts, plan, valued=_is_valued(parts, plan, winner, soon))
    if plan.scratch:
        ran = run_scratch(parts.config, parts.field, sets, parts.images.size, plan)
        if ran is None:
            return None
        said, plan = ran
        rivals["scratch"] = SCRATCH
        _keep(parts, answers, SCRATCH, said)
    comparisons = compared(winner, rivals, answers, labels)
    worth, unknown = worth_of(parts, plan, winner, comparisons)
    if unknown:
        plan = _skipped(plan.model_copy(update={"worth": False}), unknown)
    journal.save_plan(plan)
    return Ended(plan, winner, answers, comparisons, worth)


def _winner(parts: Parts, plan: Plan) -> str:
    """The best on validation, of the contestants that trained to the end and those that are judged once."""
    last = len(plan.rungs)
    judged = [one for one in parts.journal.memory.judgments if one.rung in (None, last)]
    return better(judged, 1)[0]


def _skipped(plan: Plan, lines: Sequence[str]) -> Plan:
    """The plan with a line about each test of the end that was not done."""
    return plan.model_copy(update={"skipped": tuple(dict.fromkeys((*plan.skipped, *lines)))})


# ---- answers


def predictions(sets: Sequence[LabelSet], answers: Answers) -> list[Predictions]:
    """The predictions of all contestants on each task, for ``predictions.parquet``."""
    return [
        Predictions.of(
            part.images.test,
            torch.arange(len(part.images.test)),
            title,
            part.images.tasks[task][1].names,
            part.images.tasks[task][1].values,
            {name: said[title] for name, said in answers.items()},
            {},  # ridge regression gives no probabilities
        )
        for part, tasks in titled_tasks(sets)
        for title, task in tasks.items()
    ]


def _known(parts: Parts) -> Answers:
    """The predictions that were saved before the study was interrupted."""
    if not (parts.config.out / PREDICTIONS).is_file():
        return {}
    titles = labels_of_tests(parts.images.sets)
    found: Answers = {}
    for title, one in zip(titles, read_predictions(parts.config.out), strict=True):
        for name, said in one.answers.items():
            found.setdefault(name, {})[title] = said
    return found


def _keep(parts: Parts, answers: Answers, name: str, said: Mapping[str, Tensor]) -> None:
    """Add the predictions of a contestant, in memory and on disk."""
    answers[name] = dict(said)
    write_predictions(parts.config.out, predictions(parts.images.sets, answers))
    parts.journal.save()


# ---- the winner


def _test_winner(parts: Parts, plan: Plan, winner: str, answers: Answers) -> Plan:
    """Test the winner, and if there is time, its linear probe on all labeled images, and on damaged test images."""
    if winner in answers and (parts.journal.memory.probed or not plan.probe):
        return plan  # done before the study was interrupted
    kind = _probe_kind(parts, plan, winner)
    damaged = _damaged_images(parts, plan, winner, kind)
    found: Probing = parts.judge.probe(parts.field.named(winner), kind, damaged)
    write_embeddings(parts.config.out, found.embeddings, found.places)
    for task, one in found.probed.items():
        log.info(
            "%s: %s probe on all %s labeled images: %.1f%% on %s",
            *(winner, kind, f"{one.outcome.n_train:,}", 100 * one.outcome.test.accuracy, task),
        )
    parts.journal.keep_probe(found.probed, found.damage)
    given = "not in the plan that is repeated" if parts.config.plan is not None else ""
    lines = []
    if kind is None:
        lines.append(f"the linear probe of {winner} on all labeled images: {given or 'needs too much time or memory'}")
    if not damaged:
        lines.append(f"{winner} on damaged test images: {given or 'needs too much time'}")
    decided = {"probe": kind is not None, "probe_kind": kind or plan.probe_kind, "damaged": damaged}
    plan = plan.model_copy(update=decided)
    plan = _skipped(plan, lines)
    parts.journal.save_plan(plan)
    _keep(parts, answers, winner, {task: one.predictions for task, one in found.tested.items()})
    return plan


def _probe_kind(parts: Parts, plan: Plan, winner: str) -> ProbeKind | None:
    """The probe of a given plan; otherwise the planned one, or a faster one, that fits into the time that is left.

    If none was planned, it may take the time that nothing else needs.
    """
    planned = plan.probe_kind if plan.probe else None
    if parts.config.plan is not None:
        return planned
    left = _left(parts, plan, winner) - change(parts) * damage_seconds(parts, plan.damaged, winner)
    spare = left - (change(parts) * worth_seconds(parts) if plan.worth else 0.0)
    kinds, most = list(PROBES), CAREFUL * spare
    if planned is not None:
        kinds, most = kinds[kinds.index(planned) :], left / ENOUGH
    fitting = (kind for kind in kinds if change(parts) * probe_seconds(parts, kind, winner) < most)
    return next(fitting, None) if probe_fits(parts, winner) else None


def _damaged_images(parts: Parts, plan: Plan, winner: str, kind: ProbeKind | None) -> int:
    """Test images of each label set on which the winner is tested again, damaged: as planned, or fewer."""
    if parts.config.plan is not None:
        return plan.damaged
    probe = 0.0 if kind is None else ENOUGH * probe_seconds(parts, kind, winner)
    return min(plan.damaged, damaged_images(parts, _left(parts, plan, winner) / change(parts) - probe, winner))


def _left(parts: Parts, plan: Plan, winner: str) -> float:
    """Seconds that are left for the winner, next to what is reserved for the network from scratch."""
    return (
        end_seconds(parts, winner) - plan.scratch_seconds - (scratch_overhead(parts) if plan.scratch_seconds else 0.0)
    )


# ---- the network from scratch, and what a gain is worth


def _settle_scratch(parts: Parts, plan: Plan, *, valued: bool) -> Plan:
    """The plan with the final steps of the network from scratch, for which more or less time is left than was planned.

    If no time was reserved for it, it may still fit.
    """
    if plan.scratch_settled:
        return plan
    steps, most = scratch_time(parts, plan, change(parts) * worth_seconds(parts) if valued else 0.0)
    others = tuple(line for line in plan.left_out if line != NO_TIME_FOR_SCRATCH)
    lines = others if steps else (*others, NO_TIME_FOR_SCRATCH)
    if steps and others != plan.left_out:
        log.info("%s: there is time for it after all", SCRATCH)
    plan = plan.model_copy(update={"scratch": steps, "scratch_most": most, "scratch_settled": True, "left_out": lines})
    parts.journal.save_plan(plan)
    return plan


def _is_valued(parts: Parts, plan: Plan, winner: str, comparisons: Sequence[Versus]) -> bool:
    """Whether to measure what the winner's training is worth in labels, if there is time."""
    return plan.worth and isinstance(parts.field.named(winner), Restoring) and gain_shown(comparisons)


def worth_of(
    parts: Parts, plan: Plan, winner: str, comparisons: Sequence[Versus]
) -> tuple[dict[str, LabelEfficiency], list[str]]:
    """What the winner's training is worth in labels, if that was planned and a gain is shown; or why it is unknown."""
    one = parts.field.named(winner)
    if not _is_valued(parts, plan, winner, comparisons) or not isinstance(one, Restoring):
        return {}, []
    needed, left = change(parts) * worth_seconds(parts), parts.journal.clock.left
    if parts.config.plan is None and left < ENOUGH * needed:
        return {}, [
            f"what {winner} is worth in labels: needs up to {needed:.0f} s, but only {max(0, left):.0f} s were left"
        ]
    draws = LabelEfficiencyConfig(shares=WORTH_SHARES, draws=WORTH_DRAWS)
    return parts.judge.worth(one, parts.field.named(one.twin), draws), []

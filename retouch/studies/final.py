"""The end of a study: every contestant is tested once, by one protocol, and the winner is compared with the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from common.files import write_json
from common.runs.results import RESULTS
from finetune.config import LabelEfficiencyConfig
from finetune.metrics import compare, score
from finetune.predictions import Predictions, write_predictions
from finetune.records import Checks, DataFacts
from finetune.results import Score
from finetune.summary import failed, leaks, unconverged
from finetune.tracked import send
from finetune.worth import LabelEfficiency
from retouch.reporting.compare import holm
from retouch.studies.budget import probe_seconds, testing_seconds, worth_seconds
from retouch.studies.contestants import SCRATCH, Field, Restoring
from retouch.studies.images import LabelSet, titled_tasks
from retouch.studies.judge import Tested
from retouch.studies.parts import Parts
from retouch.studies.plan import WORTH_DRAWS, WORTH_SHARES, Plan
from retouch.studies.race import better
from retouch.studies.results import Contender, Role, StudyReport, Validation, Versus
from retouch.studies.scratch import run_scratch
from retouch.studies.tracked import study_shown
from retouch.studies.verdict import is_shown, verdict

log = logging.getLogger("retouch")

ENOUGH = 0.7  # of the seconds that a linear probe may take, which are estimated with care
Answers = dict[str, dict[str, Tensor]]  # predictions, int64 [n] each, by contestant and task


# ---- comparisons


def rivals_of(winner: str, field: Field, ranked: Sequence[str]) -> dict[Role, str]:
    """Whom the winner is compared with, by what they are to it.

    Args:
        ranked: all that were judged, the best on validation first.
    """
    of = {one.name: one for one in field.all}

    def best(kind: str) -> str | None:
        return next((name for name in ranked if of[name].kind == kind and name != winner), None)

    leader = winner if of[winner].kind == "restoring" else best("restoring")
    twin = next((one.twin for one in field.restoring if one.name == leader), None)
    found: dict[Role, str | None] = {
        "untrained": twin or best("untrained"),
        "pixels": "pixels",
        "simple": best("simple"),
        "restoring": best("restoring"),
        "pretrained": best("pretrained"),
    }
    if of[winner].kind == "untrained":
        del found["untrained"]  # of another network
    return {role: name for role, name in found.items() if name is not None and name != winner}


def compared(winner: str, rivals: dict[Role, str], answers: Answers, labels: dict[str, Tensor]) -> tuple[Versus, ...]:
    """The winner against its rivals on every task, corrected together.

    Args:
        labels: of the test images, by task.
    """
    pairs = [
        (role, other, task, compare(said, answers[other][task], labels[task]))
        for role, other in rivals.items()
        for task, said in answers[winner].items()
    ]
    adjusted = holm([found.p_value for *_, found in pairs])
    return tuple(
        Versus(role=role, task=task, one=winner, other=other, images=len(labels[task]), found=found, adjusted_p=p)
        for (role, other, task, found), p in zip(pairs, adjusted, strict=True)
    )


def gain_shown(comparisons: Sequence[Versus]) -> bool:
    """Whether the winner is shown to be better than its untrained network, on one task at least."""
    return any(one.role == "untrained" and one.found.difference > 0 and is_shown(one) for one in comparisons)


def labels_of_tests(sets: Sequence[LabelSet]) -> dict[str, Tensor]:
    """Labels of the test images by task, int64 ``[n]`` each."""
    return {
        title: part.images.tasks[task][1].values for part, tasks in titled_tasks(sets) for title, task in tasks.items()
    }


def predictions(sets: Sequence[LabelSet], answers: Answers) -> list[Predictions]:
    """All answers to each task, for ``predictions.parquet``."""
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


# ---- results


def finish(parts: Parts, plan: Plan) -> StudyReport | None:
    """Test everybody once, compare the winner, and write results and predictions; None if a signal stopped training."""
    config, images, field, journal = parts.config, parts.images, parts.field, parts.journal
    competing = journal.judged
    winner = _winner(parts, plan)
    log.info("\n%s is best on validation; now everybody is tested once", winner)

    answers: Answers = {}
    if plan.scratch:
        said = run_scratch(config, field, images.sets, images.size, plan.scratch)
        if said is None:
            return None
        answers[SCRATCH] = said
    tested = {name: parts.judge.test(field.named(name)) for name in competing if name != winner}
    tested[winner], probed, skipped = _test_winner(parts, plan, winner)
    for name in competing:
        answers[name] = {task: one.predictions for task, one in tested[name].items()}
    labels, classes = labels_of_tests(images.sets), _classes(images.sets)
    scores = {
        name: {task: score(said, labels[task], len(classes[task])) for task, said in of.items()}
        for name, of in answers.items()
    }
    ranked = sorted(competing, key=lambda name: -journal.last(name).mean)
    rivals = rivals_of(winner, field, ranked)
    if plan.scratch:
        rivals["scratch"] = SCRATCH
    comparisons = compared(winner, rivals, answers, labels)
    contenders = tuple(_contender(parts, plan, name, scores[name], answers, labels) for name in answers)
    facts = _facts(images.sets)
    checks = {task: one.checks for task, one in probed.items() if one.checks is not None}
    worth, unknown = worth_of(parts, plan, winner, comparisons)
    if skipped or unknown:  # the clock decided, so that the plan has to know
        plan = plan.model_copy(
            update={
                "probe": plan.probe and not skipped,
                "worth": plan.worth and not unknown,
                "left_out": (*plan.left_out, *skipped, *unknown),
            }
        )
        journal.save_plan(plan)

    [leader] = [one for one in contenders if one.name == winner]
    report = StudyReport(
        verdict=verdict(leader, comparisons, worth),
        winner=winner,
        contenders=tuple(sorted(contenders, key=lambda one: -one.mean)),
        comparisons=comparisons,
        probe={task: one.outcome for task, one in probed.items()},
        probe_kind=plan.probe_kind,
        checks=checks,
        notes=_notes(checks, facts, labels) + _unconverged(plan, probed),
        worth=worth,
        budget=config.seconds,
        seconds=round(journal.clock.taken, 1),
        image_size=images.size,
        unlabeled=images.pool.source.spec,
        unlabeled_images=len(images.pool),
        repeated=images.repeated,
        data=facts,
        classes=classes,
        sizes=plan.sizes,
        protocol=_protocol(parts),
        left_out=plan.left_out,
        made=parts.made,
    )
    write_predictions(config.out, predictions(images.sets, answers))
    write_json(config.out / RESULTS, report.model_dump(mode="json"))
    parts.run.tracker.summary({"verdict": " ".join(report.verdict), "winner": winner})
    send(parts.run.tracker, study_shown(report))
    return report


def _winner(parts: Parts, plan: Plan) -> str:
    """The best on validation of those who trained to the end and those who are judged once."""
    last = len(plan.rungs)
    judged = [one for one in parts.journal.memory.judgments if one.rung in (None, last)]
    return better(judged, 1)[0]


def _test_winner(parts: Parts, plan: Plan, winner: str) -> tuple[dict[str, Tested], dict[str, Tested], list[str]]:
    """The test, and the linear probe on all labeled images if it was planned and there is still time, else why not."""
    one = parts.field.named(winner)
    if not plan.probe:
        return parts.judge.test(one), {}, []
    needed, left = probe_seconds(parts, plan.probe_kind), parts.journal.clock.left
    left -= testing_seconds(parts, parts.journal.last(winner).cost)
    if parts.config.plan is None and left < ENOUGH * needed:
        why = f"the linear probe of {winner}: takes up to {needed:.0f} s, and {max(0, left):.0f} s were left"
        return parts.judge.test(one), {}, [why]
    tested, probed = parts.judge.probe(one, plan.probe_kind)
    for task, (found, *_) in probed.items():
        log.info(
            "%s: %s probe on all %s labeled images: %.1f%% on %s",
            *(winner, plan.probe_kind, f"{found.n_train:,}", 100 * found.test.accuracy, task),
        )
    return tested, probed, []


def worth_of(
    parts: Parts, plan: Plan, winner: str, comparisons: Sequence[Versus]
) -> tuple[dict[str, LabelEfficiency], list[str]]:
    """What the winner's training is worth in labels, if it was planned and a gain is shown, or why it is not known."""
    one = parts.field.named(winner)
    if not plan.worth or not isinstance(one, Restoring) or not gain_shown(comparisons):
        return {}, []
    needed, left = worth_seconds(parts), parts.journal.clock.left
    if parts.config.plan is None and left < ENOUGH * needed:
        return {}, [f"what {winner} is worth in labels: takes up to {needed:.0f} s, and {max(0, left):.0f} s were left"]
    draws = LabelEfficiencyConfig(shares=WORTH_SHARES, draws=WORTH_DRAWS)
    return parts.judge.worth(one, parts.field.named(one.twin), draws), []


def _contender(
    parts: Parts, plan: Plan, name: str, test: dict[str, Score], answers: Answers, labels: dict[str, Tensor]
) -> Contender:
    if name == SCRATCH:
        return Contender(name=name, kind="scratch", view="rgb", planned=plan.scratch, test=test)
    one = parts.field.named(name)
    twin = one.twin if isinstance(one, Restoring) else None
    return Contender(
        name=name,
        kind=one.kind,
        view=one.encoder().view,
        twin=twin,
        planned=plan.steps.get(name, 0),
        features=parts.journal.last(name).cost.width,
        validations=tuple(
            Validation(rung=j.rung, steps=j.steps, seconds=j.seconds, accuracy=j.accuracy)
            for j in parts.journal.memory.judgments
            if j.name == name
        ),
        test=test,
        over_twin={}
        if twin is None
        else {task: compare(said, answers[twin][task], labels[task]) for task, said in answers[name].items()},
    )


def _classes(sets: Sequence[LabelSet]) -> dict[str, tuple[str, ...]]:
    return {
        title: part.images.tasks[task][0].names for part, tasks in titled_tasks(sets) for title, task in tasks.items()
    }


def _facts(sets: Sequence[LabelSet]) -> dict[str, DataFacts]:
    found: dict[str, DataFacts] = {}
    for part, tasks in titled_tasks(sets):
        images = part.images
        repeated = images.leaks.among(images.train.kept[part.fitted], images.test.kept)
        found |= dict.fromkeys(tasks, images.pair._replace(leaks=repeated).facts)
    return found


def _notes(checks: dict[str, Checks], facts: dict[str, DataFacts], labels: dict[str, Tensor]) -> tuple[str, ...]:
    """What a reader of these numbers has to know."""
    found = [f"{task}: {line}" for task, one in checks.items() for line in failed(one)]
    return (*found, *(f"{task}: {line}" for task, one in facts.items() for line in leaks(one, len(labels[task]))))


def _unconverged(plan: Plan, probed: dict[str, Tested]) -> tuple[str, ...]:
    """Which fits of the winner's linear probe did not converge, by task."""
    kind = f"the {plan.probe_kind} probe"
    return tuple(f"{task}: {line}" for task, one in probed.items() for line in unconverged(kind, one.outcome))


def _protocol(parts: Parts) -> str:
    images = parts.images
    return (
        f"frozen encoders, all layers; chosen by cross-validated ridge regression on {images.judged:,} labeled "
        f"training images; tested once, by ridge regression on {images.fitted:,}; the network from scratch is trained "
        f"on the same {images.fitted:,} and keeps its best step on a held-out tenth; differences are paired, with "
        "Holm's correction for all comparisons of the winner"
    )

"""``results.json`` of a study, from its judgments and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from finetune.metrics import compare, score
from finetune.records import NONE_LEFT, Checks, DataFacts
from finetune.results import Score
from finetune.summary import failed, leaks, unconverged
from finetune.worth import LabelEfficiency
from retouch.studies.contestants import Restoring
from retouch.studies.images import LabelSet, titled_tasks
from retouch.studies.journal import ProbedOnce
from retouch.studies.parts import Parts
from retouch.studies.plan import Plan
from retouch.studies.results import SCRATCH, Contender, Counts, StudyReport, Validation, Versus, touched
from retouch.studies.rivals import Answers, labels_of_tests
from retouch.studies.scratch import scratch_seconds
from retouch.studies.verdict import TooShort, verdict


def study_report(
    parts: Parts,
    plan: Plan,
    winner: str,
    answers: Answers,
    comparisons: tuple[Versus, ...],
    worth: dict[str, LabelEfficiency],
) -> StudyReport:
    """All results of a study.

    Args:
        plan: with the decisions that depended on time.
        comparisons: of the winner with its rivals.
        worth: by task, what the winner's training is worth in labels, where that was measured.
    """
    images, journal = parts.images, parts.journal
    labels, classes = labels_of_tests(images.sets), _classes(images.sets)
    contenders = tuple(
        _contender(
            parts,
            plan,
            name,
            {task: score(said, labels[task], len(classes[task])) for task, said in of.items()},
            answers,
            labels,
        )
        for name, of in answers.items()
    )
    probed = journal.memory.probed
    checks = {task: one.checks for task, one in probed.items() if one.checks is not None}
    facts = data_facts(images.sets, everything=bool(probed))
    [leader] = [one for one in contenders if one.name == winner]
    too_short = TooShort(parts.config.seconds, plan.enough, plan.untried) if plan.enough else None
    return StudyReport(
        verdict=verdict(leader, comparisons, worth, contenders, too_short),
        winner=winner,
        contenders=tuple(sorted(contenders, key=lambda one: -one.mean)),
        comparisons=comparisons,
        probe={task: one.outcome for task, one in probed.items()},
        probe_kind=plan.probe_kind,
        checks=checks,
        notes=(*notes(checks, facts, labels), *_unconverged(plan, probed), *unchecked(contenders), *_shortened(plan)),
        worth=worth,
        damage=journal.memory.damage,
        budget=parts.config.seconds,
        seconds=round(journal.clock.taken, 1),
        image_size=images.size,
        unlabeled=images.pool.source.spec,
        unlabeled_images=len(images.pool),
        repeated=images.repeated,
        data=facts,
        classes=classes,
        sizes=plan.sizes,
        counts=_counts(images.sets),
        protocol=_protocol(
            parts, touched(contenders, bool(probed), worth, journal.memory.damage), scratch=plan.scratch > 0
        ),
        left_out=(*plan.left_out, *plan.skipped),
        made=parts.made,
    )


def _contender(
    parts: Parts,
    plan: Plan,
    name: str,
    test: dict[str, Score],
    answers: Answers,
    labels: Mapping[str, Tensor],
) -> Contender:
    if name == SCRATCH:
        seconds = scratch_seconds(parts.config, parts.images.sets)
        taken = sum(plan.scratch_ends.get(task, plan.scratch) for task in test)
        planned = plan.scratch
        return Contender(
            name=name, kind="scratch", view="rgb", planned=planned, taken=taken, trained=seconds, test=test
        )
    one = parts.field.named(name)
    twin = one.twin if isinstance(one, Restoring) else None
    return Contender(
        name=name,
        kind=one.kind,
        view=one.encoder().view,
        twin=twin,
        planned=plan.whole(name, len(plan.rungs)) if name in plan.steps else 0,
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


def _counts(sets: Sequence[LabelSet]) -> dict[str, Counts]:
    return {
        title: Counts(judged=len(part.judged), fitted=len(part.fitted), labeled=len(part.images.train))
        for part, tasks in titled_tasks(sets)
        for title in tasks
    }


def data_facts(sets: Sequence[LabelSet], *, everything: bool) -> dict[str, DataFacts]:
    """Facts about the data of each task, including test images that repeat images that a classifier was fitted on.

    Args:
        everything: whether a classifier (the winner's linear probe) was fitted on all labeled images.
    """
    found: dict[str, DataFacts] = {}
    for part, tasks in titled_tasks(sets):
        images = part.images
        rows = images.train.kept if everything else images.train.kept[part.fitted]
        repeated = images.leaks.among(rows, images.test.kept)
        facts = images.pair._replace(leaks=repeated).facts
        known = facts.not_compared | {"in_pretraining": NONE_LEFT}
        found |= dict.fromkeys(tasks, facts.model_copy(update={"not_compared": known}))
    return found


def notes(checks: dict[str, Checks], facts: dict[str, DataFacts], labels: Mapping[str, Tensor]) -> tuple[str, ...]:
    """What a reader of these numbers must know."""
    found = [f"{task}: {line}" for task, one in checks.items() for line in failed(one)]
    return (*found, *(f"{task}: {line}" for task, one in facts.items() for line in leaks(one, len(labels[task]))))


def _unconverged(plan: Plan, probed: Mapping[str, ProbedOnce]) -> list[str]:
    """Fits of the winner's linear probe that did not converge, by task."""
    kind = f"the {plan.probe_kind} probe"
    return [f"{task}: {line}" for task, one in probed.items() for line in unconverged(kind, one.outcome)]


def unchecked(contenders: Sequence[Contender]) -> list[str]:
    """A warning about each pretrained model, which may have seen the test images."""
    return [
        f"{one.name} may have seen these test images, with their labels: what it was trained on is not checked"
        for one in contenders
        if one.kind == "pretrained"
    ]


def _shortened(plan: Plan) -> list[str]:
    """A warning about each network from scratch that ended early: with more time, it may be better."""
    return [
        f"{task}: training from scratch ended after {taken:,} of {plan.scratch:,} steps, before its schedule did, "
        "since it was slower than planned: in all of them it may reach more"
        for task, taken in plan.scratch_ends.items()
    ]


def _protocol(parts: Parts, tested: str, *, scratch: bool) -> str:
    """Statements, separated by semicolons."""
    images = parts.images
    from_scratch = (
        f"the network from scratch is trained on the same {images.fitted:,}, and its best step is chosen on a held-out "
        "tenth; "
        if scratch
        else ""
    )
    return (
        "encoders are frozen, and all their layers are used; the choice is by cross-validated ridge regression on "
        f"{images.judged:,} labeled training images; the test is by ridge regression fitted on {images.fitted:,}; "
        f"{from_scratch}{tested}; "
        "differences are paired, with Holm's correction for all comparisons of the winner"
    )

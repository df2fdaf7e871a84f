"""The race: successive halving (Jamieson and Talwalkar 2016) of all networks.

Each has an ordinary run folder. It trains to the end of a rung, is judged, and goes on if it is in the better half.
Contestants that leave stay as they are. The time left decides how long the next rungs are, and the learning rate
schedule ends with the last rung.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from common.runs.folder import Run
from retouch.studies.contestants import Contestant, Restoring
from retouch.studies.journal import Journal, Judgment
from retouch.studies.judge import Judge
from retouch.studies.plan import Plan, Timing
from retouch.studies.rungs import Again, adapted, survivors

log = logging.getLogger("retouch")


def better(judged: Sequence[Judgment], count: int) -> list[str]:
    """The ``count`` best by mean validation accuracy, best first; ties go to the one that comes first."""
    return [one.name for one in sorted(judged, key=lambda one: -one.mean)[:count]]


def judge_once(
    one: Contestant,
    judge: Judge,
    journal: Journal,
    run: Run,
    *,
    steps: int = 0,
    seconds: float = 0.0,
    rung: int | None = None,
    began: float | None = None,
) -> Judgment:
    """Judge a contestant, unless it was judged already.

    Args:
        began: when its rung began, by the study's clock.
    """
    known = journal.of(one.name, rung)
    if known is not None:
        return known
    judged = judge.validate(one)
    found = Judgment(
        name=one.name,
        rung=rung,
        steps=steps,
        seconds=round(seconds, 1),
        accuracy=judged.accuracy,
        cost=judged.cost,
        took=0.0 if began is None else round(journal.clock.taken - began, 1),
    )
    journal.add(found)
    after = f", {seconds:.0f} s of training" if seconds else ""
    log.info(
        "%s: %.1f%% on validation%s (%.0f s left)", one.name, 100 * found.mean, after, max(0.0, journal.clock.left)
    )
    run.log({f"validation/{one.name}": found.mean}, step=len(journal.memory.judgments))
    return found


def run_race(
    contestants: Sequence[Restoring],
    plan: Plan,
    judge: Judge,
    journal: Journal,
    run: Run,
    plan_again: Callable[[Plan], Again],
    *,
    timed: bool = True,
) -> Plan | None:
    """Run all rungs.

    Args:
        plan_again: called after a rung: plans the end for the time that is left.
        timed: whether a rung ends early for a contestant that takes much longer than planned.

    Returns:
        The plan as it was carried out; None if a signal stopped training.
    """
    alive = [one for one in contestants if one.name in plan.steps]
    counts = survivors(len(plan.steps))
    rungs = len(plan.rungs) if alive else 0
    for number in range(1, rungs + 1):
        log.info(
            "\nrung %d of %d, up to %.0f s of training each: %s",
            *(number, len(plan.rungs), plan.rungs[number - 1].seconds, ", ".join(one.name for one in alive)),
        )
        judged = []
        for one in alive:
            found = _train_and_judge(one, number, plan, judge, journal, run, timed=timed)
            if found is None:
                return None
            judged.append(found)
            if found.steps < plan.rungs[number - 1].steps[one.name]:
                steps = f"{found.steps:,} of {plan.rungs[number - 1].steps[one.name]:,} steps"
                log.info("%s took %s, since training is slower than planned", one.name, steps)
                plan = plan.ended(one.name, number, found.steps)
                journal.save_plan(plan)
        if number == rungs:
            break
        stay = better(judged, counts[number])
        gone = [one.name for one in alive if one.name not in stay]
        rest = f"; out: {' and '.join(gone)}" if gone else ""
        log.info("in the next rung: %s%s", " and ".join(stay), rest)
        alive = [one for one in alive if one.name in stay]
        if plan.settled <= number:
            plan, available, overhead = plan_again(plan)
            plan = adapted(plan, number, _seen(judged, plan.timings, stay, journal), available, overhead)
            journal.save_plan(plan)
    return plan


def _train_and_judge(
    one: Restoring, number: int, plan: Plan, judge: Judge, journal: Journal, run: Run, *, timed: bool
) -> Judgment | None:
    known = journal.of(one.name, number)
    if known is not None:
        return known
    began, timing = journal.clock.taken, plan.timings.get(one.name)
    until = plan.rungs[number - 1].steps[one.name]
    before = journal.of(one.name, number - 1)
    most = plan.most_seconds(one.name, number, 0.0 if before is None else before.seconds) if timed and timing else None
    trained = one.fit(plan.whole(one.name, number), until, 0.0 if timing is None else timing.step, most)
    journal.save()
    if not trained.finished:
        return None
    return judge_once(one, judge, journal, run, steps=trained.step, seconds=trained.seconds, rung=number, began=began)


def _seen(
    judged: Sequence[Judgment], planned: Mapping[str, Timing], stay: Sequence[str], journal: Journal
) -> dict[str, Timing]:
    """Timings of the contestants that stay, as measured in the last rung."""
    return {one.name: _timing(one, planned[one.name], journal) for one in judged if one.name in stay}


def pace_of(one: Judgment, journal: Journal) -> float:
    """Seconds per training step, as measured in the rung of a judgment."""
    before = journal.of(one.name, (one.rung or 1) - 1)
    seconds, steps = (0.0, 0) if before is None else (before.seconds, before.steps)
    return max(one.seconds - seconds, 1e-3) / max(1, one.steps - steps)


def _timing(one: Judgment, planned: Timing, journal: Journal) -> Timing:
    before = journal.of(one.name, (one.rung or 1) - 1)
    seconds = one.seconds - (0.0 if before is None else before.seconds)
    known = planned.model_copy(update={"step": pace_of(one, journal), "judge": one.cost.seconds, "saving": 0.0})
    if one.took <= seconds:  # the rung was interrupted, so its total time is not known
        return known.model_copy(update={"saving": planned.saving})
    return known.model_copy(update={"saving": max(0.0, one.took - seconds - known.idle)})

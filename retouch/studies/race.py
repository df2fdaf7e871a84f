"""The race: successive halving (Jamieson and Talwalkar 2016) of all contestants that learn by gradient.

Each has an ordinary run folder whose schedule is that of its whole training. It trains to the end of a rung, is judged,
and is continued bit for bit if it belongs to the better half. Those who leave stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from common.runs.folder import Run
from retouch.studies.contestants import Contestant, Restoring
from retouch.studies.journal import Journal, Judgment
from retouch.studies.judge import Judge
from retouch.studies.plan import Plan, Timing, adapted, survivors

log = logging.getLogger("retouch")


def better(judged: Sequence[Judgment], count: int) -> list[str]:
    """The ``count`` best by mean validation accuracy, best first; ties go to the one that was named first."""
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
) -> Judgment:
    """Judge a contestant, unless that was done."""
    known = journal.of(one.name, rung)
    if known is not None:
        return known
    judged = judge.validate(one)
    found = Judgment(
        name=one.name, rung=rung, steps=steps, seconds=round(seconds, 1), accuracy=judged.accuracy, cost=judged.cost
    )
    journal.add(found)
    after = f", {seconds:.0f} s of training" if seconds else ""
    log.info("%s: %.1f%% on validation%s (%.0f s left)", one.name, 100 * found.mean, after, journal.clock.left)
    run.log({f"validation/{one.name}": found.mean}, step=len(journal.memory.judgments))
    return found


def run_race(
    contestants: Sequence[Restoring],
    plan: Plan,
    judge: Judge,
    journal: Journal,
    run: Run,
    reserve: Callable[[Plan], float],
) -> Plan | None:
    """All rungs.

    Args:
        reserve: seconds that must be left after the race.

    Returns:
        The plan as it was carried out; None if a signal stopped training.
    """
    alive = [one for one in contestants if one.name in plan.steps]
    counts = survivors(len(plan.steps))
    for number in range(1, len(counts) + 1 if alive else 0):
        log.info(
            "\nrung %d of %d: %s, each until %.0f s of training",
            *(number, len(plan.rungs), ", ".join(one.name for one in alive), plan.rungs[number - 1].seconds),
        )
        judged = []
        for one in alive:
            found = _train_and_judge(one, number, plan, judge, journal, run)
            if found is None:
                return None
            judged.append(found)
        if number == len(counts):
            break
        stay = better(judged, counts[number])
        gone = [one.name for one in alive if one.name not in stay]
        log.info("%s go on%s", " and ".join(stay), f"; {' and '.join(gone)} stay as they are" if gone else "")
        alive = [one for one in alive if one.name in stay]
        if plan.settled <= number:
            plan = adapted(plan, number, _seen(judged, plan.timings, stay), journal.clock.left - reserve(plan))
            journal.save_plan(plan)
    return plan


def _train_and_judge(
    one: Restoring, number: int, plan: Plan, judge: Judge, journal: Journal, run: Run
) -> Judgment | None:
    known = journal.of(one.name, number)
    if known is not None:
        return known
    trained = one.fit(plan.steps[one.name], plan.rungs[number - 1].steps[one.name])
    journal.save()
    if not trained.finished:
        return None
    return judge_once(one, judge, journal, run, steps=trained.step, seconds=trained.seconds, rung=number)


def _seen(judged: Sequence[Judgment], planned: Mapping[str, Timing], stay: Sequence[str]) -> dict[str, Timing]:
    """Timings of those who stay, as they were seen."""
    return {
        one.name: planned[one.name].model_copy(
            update={"step": one.seconds / max(1, one.steps), "judge": one.cost.seconds}
        )
        for one in judged
        if one.name in stay
    }

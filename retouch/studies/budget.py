"""Turn measurements on this machine into a plan: what fits into the budget, and how long the rungs are."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from retouch.studies import plan as planning
from retouch.studies import rungs
from retouch.studies.estimates import (
    bytes_needed,
    change,
    damage_seconds,
    damaged_images,
    free_memory,
    learning_seconds,
    probe_seconds,
    probing_seconds,
    scratch_overhead,
    tasks,
    testing_seconds,
    time_left,
    worth_seconds,
)
from retouch.studies.fits import PROBES, JudgeCost, ProbeKind
from retouch.studies.parts import Parts
from retouch.studies.plan import Plan, Purse, Timing, Wider
from retouch.studies.race import judge_once
from retouch.studies.results import SCRATCH
from retouch.studies.rungs import Again
from retouch.studies.scratch import scratch_pace

log = logging.getLogger("retouch")

NO_TIME_FOR_SCRATCH = f"{SCRATCH}: there is no time to train it as long as the others"


class SimpleDone(NamedTuple):
    """The simple methods that were fitted and judged, and a line about each that was not."""

    names: tuple[str, ...]
    left_out: tuple[str, ...]


def fit_simple(parts: Parts, saved: Plan | None, kept: float) -> SimpleDone | None:
    """Fit and judge the simple methods: those of the plan, or those that are fast enough; None if a signal stopped it.

    Args:
        kept: seconds reserved for the networks; if none, each may take most of the time that is left.
    """
    everything = parts.images.judged + parts.images.fitted + parts.images.tested
    names, left_out = [], []
    for one in parts.field.simple:
        if saved is not None and one.name not in saved.simple:
            continue
        if saved is None and parts.journal.of(one.name) is None:
            speed = one.speed()
            needed = learning_seconds(one, speed) + speed.image * everything
            left, most = time_left(parts), planning.BASELINE_SHARE * parts.config.seconds
            if not kept:
                most = max(most, planning.ALONE * left)
            most = max(0.0, min(most, left - kept))
            if needed > most:
                left_out.append(
                    f"{one.name}: needs about {needed:.0f} s, but a simple method may take only {most:.0f} s"
                )
                log.info("left out: %s", left_out[-1])
                continue
        if parts.journal.of(one.name) is None:
            if not one.fit():
                return None
            parts.journal.save()  # records the time taken
        names.append(one.name)
        judge_once(one, parts.judge, parts.journal, parts.run, steps=one.steps)
    return SimpleDone(tuple(names), tuple(left_out))


# ---- what was measured


def enough_minutes(parts: Parts, timings: Sequence[Timing]) -> int:
    """The shortest budget, in whole minutes and more than now, in which these networks could be trained.

    The networks' share of that is enough for the shortest race, and the budget is longer by what is missing now. Tests
    are counted with the images that it allows.
    """
    budget, twins, images = parts.config.seconds, _twin_costs(parts), parts.images
    least = rungs.CAREFUL_RACE * rungs.least_seconds(timings) + _twin_seconds(parts)
    tests = sum(one.test for one in timings) + sum(testing_seconds(parts, cost) for cost in twins)
    missing = least - time_left(parts)

    def needed(seconds: float) -> float:
        fitted = min(len(images.sets) * planning.sizes(seconds).fitted, images.labeled)
        more = max(0.0, fitted / images.fitted - 1) * tests
        return max((least + more) / planning.RACE_SHARE, budget + missing + more)

    minutes = int(budget // 60) + 1
    while 60 * minutes < needed(60 * minutes):
        minutes += 1
    return minutes


def fit_in(parts: Parts, timings: Mapping[str, Timing]) -> bool:
    """Whether any network fits into the time that is left."""
    kept = kept_seconds(parts, timings)
    return bool(rungs.enter(timings, plan_end(parts, Purse(time_left(parts), kept, alone=not kept)).left)[0])


def kept_seconds(parts: Parts, timings: Mapping[str, Timing]) -> float:
    """Seconds reserved for the networks; 0 if all of them are too slow to compete."""
    share = planning.RACE_SHARE * parts.config.seconds - _twin_seconds(parts)
    return rungs.kept_seconds(list(timings.values()), share, time_left(parts))


def _twin_seconds(parts: Parts) -> float:
    """Seconds to judge and test the untrained networks, which compete only as references for the trained ones."""
    return sum(cost.seconds + testing_seconds(parts, cost) for cost in _twin_costs(parts))


def _twin_costs(parts: Parts) -> list[JudgeCost]:
    """The cost of judging each untrained network."""
    return [parts.journal.last(twin).cost for twin in dict.fromkeys(one.twin for one in parts.field.restoring)]


# ---- the plan


class End(NamedTuple):
    """What follows the race, as far as time allows, and the seconds left for training.

    The training of the network from scratch is included in these.
    """

    probe: ProbeKind | None  # the linear probe of the winner on all labeled images
    worth: bool  # whether to measure what the winner's training is worth in labels
    damaged: int  # test images of each label set on which the winner is tested again, damaged
    left: float


def make_plan(
    parts: Parts,
    timings: Mapping[str, Timing],
    simple: Sequence[str],
    wider: Wider | None,
    without: Sequence[str],
) -> Plan:
    """Plan the race in the time that is left after reserving time for the end.

    Args:
        timings: of all networks.
        simple: names of the simple methods that compete.
        wider: the dictionary that was learned again, if there is one.
        without: a line about each simple method or dictionary that was left out.
    """
    config, field = parts.config, parts.field
    left_out = [*field.left_out, *without]
    known = len(left_out)
    if SCRATCH in config.contestants and not field.restoring:
        left_out.append(f"{SCRATCH}: it uses the network of a contestant that restores images, but none competes")
    kept = kept_seconds(parts, timings)
    end = plan_end(parts, Purse(time_left(parts), kept, alone=not kept))
    inside, slow = rungs.enter(timings, end.left)
    left, wanted = end.left, SCRATCH in config.contestants and bool(field.restoring)
    if wanted:
        left -= scratch_overhead(parts)
    reserved = wanted and 0 < len(inside) == len(rungs.enter(timings, left, scratch=True)[0])
    untried = tuple(name for name in timings if name not in inside) if inside else ()
    enough = enough_minutes(parts, list(timings.values())) if untried else 0
    if untried:
        slow = [f"{line}; budget={enough}m would be enough for all of them" for line in slow]
    if wanted and not reserved:
        slow.append(NO_TIME_FOR_SCRATCH)
        left = end.left
    left_out += slow
    for line in left_out[known:]:
        log.info("left out: %s", line)
    whole = rungs.whole_seconds(left, list(inside.values()), scratch=reserved) if inside else left
    steps, planned = rungs.rungs_of(inside, whole)
    return Plan(
        image_size=parts.images.size,
        sizes=planning.sizes(config.seconds),
        simple=tuple(simple),
        wider=wider,
        steps=steps,
        rungs=planned,
        scratch=0,
        scratch_seconds=whole if reserved else 0.0,
        scratch_settled=not (wanted and inside),
        probe=end.probe is not None,
        probe_kind=end.probe or "logistic",
        worth=end.worth,
        damaged=end.damaged,
        timings=inside,
        enough=enough,
        untried=untried,
        left_out=tuple(left_out),
    )


def plan_end(parts: Parts, purse: Purse) -> End:
    """What follows the race and the tests, the most useful first; each must fit next to the networks' time."""
    slower = change(parts)
    probe = planned_probe(parts, parts.journal.costs, purse, slower)
    if probe is not None:
        purse.take(slower * probe_seconds(parts, probe), PROBES[probe].share)
    damaged = damaged_images(parts, purse.room(planning.DAMAGE_SHARE) / slower)
    purse.left -= slower * damage_seconds(parts, damaged)
    worth = not purse.alone and purse.take(slower * worth_seconds(parts), planning.WORTH_SHARE)
    return End(probe, worth, damaged, purse.left)


def planned_again(parts: Parts, plan: Plan) -> Again:
    """After a rung, plan the end again with the time that is left."""
    tests = change(parts) * sum(plan.timings[name].test for name in plan.steps)
    kept = planning.RACE_SHARE * parts.config.seconds - _twin_seconds(parts) - parts.journal.race_taken - tests
    end = plan_end(parts, Purse(time_left(parts), max(0.0, kept)))
    found = plan.model_copy(
        update={
            "probe": end.probe is not None,
            "probe_kind": end.probe or "logistic",
            "worth": end.worth,
            "damaged": end.damaged,
        }
    )
    return Again(found, end.left, scratch_overhead(parts))


# ---- what follows the race


def planned_probe(parts: Parts, costs: Sequence[JudgeCost], purse: Purse, slower: float = 1.0) -> ProbeKind | None:
    """The linear probe on all labeled images that fits whichever contestant wins: the usual one, a faster one, or None.

    Args:
        costs: of judging each contestant that may win.
        purse: the time for the probe and for training.
        slower: how many times as long everything takes now.
    """
    widest = max(cost.width for cost in costs)
    if bytes_needed(parts, parts.images.labeled, widest) > free_memory(parts):
        return None
    needed = {kind: slower * probing_seconds(parts, costs, kind) for kind in PROBES}
    return next((kind for kind, one in PROBES.items() if needed[kind] < purse.room(one.share)), None)


class ScratchTime(NamedTuple):
    """The training of the network from scratch on one task."""

    steps: int  # 0: it does not compete
    most: float | None = None  # seconds after which it ends even if there are more steps, so that the budget is kept


def scratch_time(parts: Parts, plan: Plan, valuing: float) -> ScratchTime:
    """How long to train the network from scratch, in the time that is left: about as long as a finalist was trained.

    The networks of several tasks share the time. If it is less than half of that, it would be no fair comparison.

    Args:
        valuing: seconds reserved for measuring what the winner's training is worth.
    """
    last = (parts.journal.of(name, len(plan.rungs)) for name in plan.timings)
    finalist = max((found.seconds for found in last if found is not None), default=plan.scratch_seconds)
    least, most = (share * finalist for share in planning.FAIR)
    left = parts.journal.clock.left - planning.REPORTING - scratch_overhead(parts)
    if min(most, left - valuing) < least:
        return ScratchTime(0)
    begun = parts.journal.clock.taken
    step = scratch_pace(parts.config, parts.field, parts.images.sets, parts.images.size, parts.here)
    left -= parts.journal.clock.taken - begun
    seconds = min(most, left - valuing)
    steps = int(seconds / tasks(parts) / step)
    if steps < rungs.FEWEST_STEPS or seconds < least:
        return ScratchTime(0)
    return ScratchTime(steps, (left + planning.SPARE * parts.config.seconds) / tasks(parts))

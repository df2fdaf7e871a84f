"""Turn measurements on this machine into a plan: what fits into the budget, and how long the rungs are."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from common.machine.memory import available_memory
from finetune.checks import NULL_IMAGES
from finetune.config import DAMAGES
from finetune.probes.search import FEW_IMAGES
from pretrain.sample import SAMPLE_IMAGES
from retouch.studies import plan as planning
from retouch.studies.contestants import Simple, Speed
from retouch.studies.judge import STRENGTHS
from retouch.studies.parts import Parts
from retouch.studies.plan import PROBES, Again, JudgeCost, Plan, ProbeKind, Purse, Timing, Wider
from retouch.studies.race import judge_once
from retouch.studies.results import SCRATCH
from retouch.studies.scratch import CHECKS, scratch_pace

log = logging.getLogger("retouch")

MOMENT = 0.3  # seconds
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


def measured(parts: Parts) -> dict[str, Timing]:
    """The speed of each network on this machine, from a few real steps, and the cost of judging and testing it."""
    timings = {}
    for one in parts.field.restoring:
        speed, cost = one.speed(), parts.journal.last(one.twin).cost
        timings[one.name] = Timing(
            start=speed.start, step=speed.step, judge=cost.seconds, test=testing_seconds(parts, cost)
        )
        log.info("%s: %.0f ms per step of %d images", one.name, 1000 * speed.step, one.config.batch_size)
    return timings


def enough_minutes(parts: Parts, timings: Sequence[Timing]) -> int:
    """The shortest budget, in whole minutes and more than now, in which these networks could be trained.

    The networks' share of that is enough for the shortest race, and the budget is longer by what is missing now. Tests
    are counted with the images that it allows.
    """
    budget, twins, images = parts.config.seconds, _twin_costs(parts), parts.images
    least = planning.CAREFUL_RACE * planning.least_seconds(timings) + _twin_seconds(parts)
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
    return bool(planning.enter(timings, plan_end(parts, Purse(time_left(parts), kept, alone=not kept)).left)[0])


def kept_seconds(parts: Parts, timings: Mapping[str, Timing]) -> float:
    """Seconds reserved for the networks; 0 if all of them are too slow to compete."""
    share = planning.RACE_SHARE * parts.config.seconds - _twin_seconds(parts)
    return planning.kept_seconds(list(timings.values()), share, time_left(parts))


def _twin_seconds(parts: Parts) -> float:
    """Seconds to judge and test the untrained networks, which compete only as references for the trained ones."""
    return sum(cost.seconds + testing_seconds(parts, cost) for cost in _twin_costs(parts))


def _twin_costs(parts: Parts) -> list[JudgeCost]:
    """The cost of judging each untrained network."""
    return [parts.journal.last(twin).cost for twin in dict.fromkeys(one.twin for one in parts.field.restoring)]


def change(parts: Parts) -> float:
    """How many times as long the same work takes now as before the race.

    Judging a network after a rung is the same work as judging its untrained twin before the race. At the end, tests
    that took longer than was estimated before the race count as well. Very short times are noisy, so ``MOMENT`` is
    added to both.
    """
    journal = parts.journal
    last = max((one.rung or 0 for one in journal.memory.judgments), default=0)
    ratios = [
        (found.cost.seconds + MOMENT) / (journal.last(one.twin).cost.seconds + MOMENT)
        for one in parts.field.restoring
        if last and (found := journal.of(one.name, last)) is not None
    ]
    raced = statistics.median(ratios) if ratios else 1.0
    took, estimated = (sum(each) for each in zip(*journal.tests, strict=True)) if journal.tests else (0.0, 0.0)
    return max(raced, (took + MOMENT) / (estimated + MOMENT)) if journal.tests else raced


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
    inside, slow = planning.enter(timings, end.left)
    left, wanted = end.left, SCRATCH in config.contestants and bool(field.restoring)
    if wanted:
        left -= scratch_overhead(parts)
    reserved = wanted and 0 < len(inside) == len(planning.enter(timings, left, scratch=True)[0])
    if inside and slow:
        enough = enough_minutes(parts, list(timings.values()))
        slow = [f"{line}; budget={enough}m would be enough for all of them" for line in slow]
    if wanted and not reserved:
        slow.append(NO_TIME_FOR_SCRATCH)
        left = end.left
    left_out += slow
    for line in left_out[known:]:
        log.info("left out: %s", line)
    whole = planning.whole_seconds(left, list(inside.values()), scratch=reserved) if inside else left
    steps, rungs = planning.rungs_of(inside, whole)
    return Plan(
        image_size=parts.images.size,
        sizes=planning.sizes(config.seconds),
        simple=tuple(simple),
        wider=wider,
        steps=steps,
        rungs=rungs,
        scratch=0,
        scratch_seconds=whole if reserved else 0.0,
        scratch_settled=not (wanted and inside),
        probe=end.probe is not None,
        probe_kind=end.probe or "logistic",
        worth=end.worth,
        damaged=end.damaged,
        timings=inside,
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


def time_left(parts: Parts) -> float:
    """Seconds left, minus those needed to test all judged contestants and to write the report."""
    spare = planning.SPARE * parts.config.seconds + planning.REPORTING
    return parts.journal.clock.left - change(parts) * _testing(parts) - spare


def _testing(parts: Parts) -> float:
    """Seconds to test all judged contestants, at the machine's speed before the race."""
    return sum(estimated_test(parts, name) for name in parts.journal.judged)


def estimated_test(parts: Parts, name: str) -> float:
    """Estimated seconds to test a contestant, at the machine's speed before the race."""
    return testing_seconds(parts, _first_cost(parts, name))


def testing_seconds(parts: Parts, cost: JudgeCost) -> float:
    """Estimated seconds to test a contestant, from the cost of judging it."""
    images = parts.images
    return planning.fit_seconds(
        cost, *(images.judged, images.fitted, images.tested), strengths=len(STRENGTHS), few=FEW_IMAGES
    )


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


def learning_seconds(one: Simple, speed: Speed) -> float:
    """Estimated seconds to fit a simple method, export it and measure its codes."""
    said = speed.image * min(SAMPLE_IMAGES, len(one.pool))
    return speed.start + speed.step * one.steps + planning.SAVING + said


def bytes_needed(parts: Parts, rows: int, width: int) -> int:
    """Bytes that a test needs, with a fit on ``rows`` images and ``width`` features."""
    others = parts.images.tested + (parts.images.fitted if rows > parts.images.fitted else 0)
    return planning.fit_bytes(rows, width, others, copies=5 if rows < FEW_IMAGES else 2)


def free_memory(parts: Parts) -> int:
    """Bytes that a fit may take: of the machine's memory, and of its GPU's if fits are computed there."""
    free = available_memory()
    if parts.here.device.type == "cuda":
        free = min(free, torch.cuda.mem_get_info(parts.here.device)[0])
    return int(planning.FREE * free)


def probe_seconds(parts: Parts, kind: ProbeKind, winner: str | None = None) -> float:
    """Estimated seconds of the winner's linear probe on all labeled images, with its null check.

    Args:
        winner: by default, the contestant for which it takes longest.
    """
    costs = parts.journal.costs if winner is None else [_first_cost(parts, winner)]
    return probing_seconds(parts, costs, kind)


def probe_fits(parts: Parts, winner: str) -> bool:
    """Whether there is enough memory for the winner's linear probe."""
    return bytes_needed(parts, parts.images.labeled, parts.journal.last(winner).cost.width) <= free_memory(parts)


def end_seconds(parts: Parts, winner: str) -> float:
    """Seconds left when all others are tested, minus those for the winner's test and the report."""
    return parts.journal.clock.left - change(parts) * estimated_test(parts, winner) - planning.REPORTING


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
    steps = int(seconds / _tasks(parts) / step)
    if steps < planning.FEWEST_STEPS or seconds < least:
        return ScratchTime(0)
    return ScratchTime(steps, (left + planning.SPARE * parts.config.seconds) / _tasks(parts))


def scratch_overhead(parts: Parts) -> float:
    """Seconds that the networks from scratch need besides their training.

    Each is validated on a held-out tenth several times, tested once, and exported.
    """
    images, twin = parts.images, parts.journal.last(parts.field.restoring[0].twin).cost
    passes = twin.extraction / images.judged * (CHECKS / 10 * images.fitted + images.tested)
    return _tasks(parts) * (change(parts) * passes + planning.SAVING)


def _tasks(parts: Parts) -> int:
    return sum(len(one.images.tasks) for one in parts.images.sets)


def _first_cost(parts: Parts, name: str) -> JudgeCost:
    """The cost of judging a contestant before the race; for a network, that of its untrained twin."""
    twins = {one.name: one.twin for one in parts.field.restoring}
    return parts.journal.last(twins.get(name, name)).cost


def probing_seconds(parts: Parts, costs: Sequence[JudgeCost], kind: ProbeKind) -> float:
    images, counts = parts.images, {"strengths": len(STRENGTHS), "few": FEW_IMAGES}
    rows = images.labeled + NULL_IMAGES
    return max(planning.probe_seconds(cost, images.judged, images.fitted, rows, kind, **counts) for cost in costs)


def damage_seconds(parts: Parts, images: int, winner: str | None = None) -> float:
    """Estimated seconds of the winner on so many damaged test images of each label set.

    Each damage is another pass of the encoder.

    Args:
        winner: by default, whoever wins.
    """
    costs = parts.journal.costs if winner is None else [_first_cost(parts, winner)]
    slowest = max(cost.extraction for cost in costs) / parts.images.judged
    return len(DAMAGES) * len(parts.images.sets) * images * slowest


def damaged_images(parts: Parts, seconds: float, winner: str | None = None) -> int:
    """How many test images of each label set can be damaged in so many seconds; 0 if they are too few to say much."""
    if seconds <= 0:
        return 0
    most = min(planning.DAMAGED, math.ceil(parts.images.tested / len(parts.images.sets)))
    whole = damage_seconds(parts, most, winner)
    count = most if whole <= seconds else int(most * seconds / whole)
    return count if count >= min(most, planning.FEWEST_DAMAGED) else 0


def worth_seconds(parts: Parts) -> float:
    """Estimated seconds to measure what training is worth in labels, whichever network wins."""
    images, twins = parts.images, {one.twin for one in parts.field.restoring}
    return max(
        planning.worth_seconds(
            parts.journal.last(twin).cost,
            *(images.judged, images.fitted, images.tested),
            strengths=len(STRENGTHS),
            few=FEW_IMAGES,
        )
        for twin in twins
    )

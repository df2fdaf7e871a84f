"""The race as arithmetic: who fits into it, how long each rung is, and how later rungs take the time that is left.

A rung is a part of the race after which the worse half leaves. Within a rung, every contestant trains for the same
time. There are at least two rungs: the time that the first one takes decides how long the last one can be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from retouch.studies.plan import Plan, Rung, Timing

GROWTH = 3  # each rung adds this many times the training of the rung before
FINALISTS = 2  # contestants in the last rung, if there are as many
FEWEST_RUNGS = 2  # the last one gets the time that is left after the others
RACE_ALL = 0.8  # of the time left, if that is less than their share of the budget: reserved for the networks
FEWEST_STEPS = 20  # of a first rung: with fewer, a network learns nothing
CAREFUL_RACE = 1.1  # times the shortest race of the fastest network: reserved at least
YIELDED = 0.7  # of the planned training: the least that finalists keep for the network from scratch to get time later


class Again(NamedTuple):
    """The plan after a rung, with its end planned again."""

    plan: Plan
    left: float  # seconds for the rest of the race and the training from scratch
    overhead: float  # seconds that the network from scratch needs besides its training


def survivors(count: int) -> list[int]:
    """The number of contestants in each rung: the better half stays, down to two, which train to the end."""
    found = [count]
    while found[-1] > FINALISTS or len(found) < FEWEST_RUNGS:
        found.append(min(found[-1], max(FINALISTS, math.ceil(found[-1] / 2))))
    return found if count else []


def rung_ends(rungs: int, whole: float) -> list[float]:
    """When each rung ends, in seconds of training of a contestant that trains for ``whole`` seconds in total."""
    shares = [GROWTH**number for number in range(rungs)]
    return [whole * sum(shares[: number + 1]) / sum(shares) for number in range(rungs)]


def race_seconds(whole: float, timings: Sequence[Timing], *, scratch: bool = False) -> float:
    """Seconds of a race and of the tests of all its contestants, if the finalists train for ``whole`` seconds.

    It assumes that the most expensive contestants stay.

    Args:
        scratch: whether the network from scratch is trained as long as the finalists.
    """
    counts = survivors(len(timings))
    ends = [0.0, *rung_ends(len(counts), whole)]
    idle = sorted((one.idle for one in timings), reverse=True)
    training = sum(count * (ends[number + 1] - ends[number]) for number, count in enumerate(counts))
    others = sum(sum(idle[:count]) for count in counts) + sum(one.test for one in timings)
    return training + others + (whole if scratch else 0.0)


def whole_seconds(available: float, timings: Sequence[Timing], *, scratch: bool = False) -> float:
    """How long finalists can train if the race may take ``available`` seconds; negative if it cannot start.

    Args:
        scratch: whether the network from scratch is trained as long as the finalists.
    """
    fixed = race_seconds(0.0, timings)
    unit = race_seconds(1.0, timings, scratch=scratch) - fixed
    return (available - fixed) / unit if unit else 0.0


def first_steps(one: Timing, whole: float, rungs: int) -> int:
    """Steps of the first rung."""
    return int(rung_ends(rungs, whole)[0] / one.step)


def least_seconds(timings: Sequence[Timing]) -> float:
    """Seconds of the shortest race of these contestants, with their tests."""
    first = rung_ends(len(survivors(len(timings))), 1.0)[0]
    return race_seconds(FEWEST_STEPS * max(one.step for one in timings) / first, timings)


def kept_seconds(timings: Sequence[Timing], share: float, left: float) -> float:
    """Seconds of ``left`` that are reserved for the networks: 0 if all of them are too slow to compete.

    Args:
        share: their share of the budget, in seconds.
    """
    least = CAREFUL_RACE * min((least_seconds([one]) for one in timings), default=math.inf)
    return max(least, min(share, RACE_ALL * left)) if least <= left else 0.0


def enter(
    timings: Mapping[str, Timing], available: float, *, scratch: bool = False
) -> tuple[dict[str, Timing], list[str]]:
    """The contestants that fit into a race of ``available`` seconds, and a line about each that does not.

    The slowest are left out first, until all others take enough steps in the first rung to be judged.

    Args:
        scratch: whether the network from scratch is trained as long as the finalists.
    """
    inside, left_out = dict(timings), []
    while inside:
        every = list(inside.values())
        whole, rungs = whole_seconds(available, every, scratch=scratch), len(survivors(len(every)))
        if all(first_steps(one, max(0.0, whole), rungs) >= FEWEST_STEPS for one in every):
            break
        slowest = max(inside, key=lambda name: least_seconds([inside[name]]))
        alone, seconds = least_seconds([inside[slowest]]), f"{max(0.0, available):.0f} s"
        but = f"{len(inside)} networks share {seconds}" if len(inside) > 1 else f"only {seconds} are left"
        del inside[slowest]
        left_out.append(f"{slowest}: needs at least {alone:.0f} s of training, judging and testing, but {but}")
    return inside, left_out


def rungs_of(timings: Mapping[str, Timing], whole: float) -> tuple[dict[str, int], tuple[Rung, ...]]:
    """The steps of each whole training of ``whole`` seconds, and the rungs."""
    steps = {name: max(1, int(whole / one.step)) for name, one in timings.items()}
    ends = rung_ends(len(survivors(len(timings))), whole)
    rungs = [
        Rung(seconds=end, steps={name: max(1, min(steps[name], int(end / one.step))) for name, one in timings.items()})
        for end in ends
    ]
    return steps, (*rungs[:-1], rungs[-1].model_copy(update={"steps": steps})) if rungs else ()


def adapted(plan: Plan, number: int, alive: Mapping[str, Timing], available: float, overhead: float) -> Plan:
    """The plan with later rungs fitted to the time that is left, whether less or more than planned.

    If no time was reserved for the network from scratch, it is reserved now if the finalists can still train almost as
    long as planned.

    Args:
        number: of the next rung, from 0.
        alive: the contestants still in the race, with their measured speeds.
        available: seconds that the rest of the race and the network from scratch may take.
        overhead: seconds that the network from scratch needs besides its training.
    """
    if not plan.scratch_settled:
        found = _fitted(plan, number, alive, available - overhead, scratch=True)
        if plan.scratch_seconds or found.rungs[-1].seconds >= YIELDED * plan.rungs[-1].seconds:
            return found
    return _fitted(plan, number, alive, available, scratch=False)


def _fitted(plan: Plan, number: int, alive: Mapping[str, Timing], available: float, *, scratch: bool) -> Plan:
    """The learning rate schedule ends with the last rung. No rung ends before the rung before it."""
    before, rest = plan.rungs[number - 1], plan.rungs[number:]
    counts = survivors(len(plan.steps))[number:]
    idle = sorted((one.idle for one in alive.values()), reverse=True)
    ends = [before.seconds, *(rung.seconds for rung in rest)]
    planned = sum(count * (after - start) for count, start, after in zip(counts, ends, ends[1:], strict=False))
    fixed = sum(sum(idle[:count]) for count in counts)
    if scratch:  # it is trained from the start, as long as the finalists in total
        planned += ends[-1] - before.seconds
        fixed += before.seconds
    scale = max(0.0, (available - fixed) / planned) if planned > 0 else 0.0
    # all train for the same time, so a contestant that turned out slower takes fewer steps
    seconds = [before.seconds + scale * (rung.seconds - before.seconds) for rung in rest]
    reached = [
        {name: before.steps[name] + max(1, int((end - before.seconds) / one.step)) for name, one in alive.items()}
        for end in seconds
    ]
    later = [
        Rung(seconds=end, steps=rung.steps | steps, whole=rung.whole | reached[-1])
        for rung, end, steps in zip(rest, seconds, reached, strict=True)
    ]
    changed = {"rungs": (*plan.rungs[:number], *later), "settled": number + 1}
    return plan.model_copy(update=changed | {"scratch_seconds": seconds[-1] if scratch else 0.0})

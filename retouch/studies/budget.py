"""From measurements on this machine to a plan: what fits in, and how long the rungs are."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import NamedTuple

from finetune.checks import NULL_IMAGES
from finetune.probes.search import FEW_IMAGES
from retouch.studies import plan as planning
from retouch.studies.contestants import SCRATCH
from retouch.studies.judge import STRENGTHS
from retouch.studies.parts import Parts
from retouch.studies.plan import JudgeCost, Plan, Timing
from retouch.studies.race import judge_once
from retouch.studies.scratch import scratch_pace

log = logging.getLogger("retouch")


class SimpleDone(NamedTuple):
    """The simple methods that were fitted and judged, and a line about each that was not."""

    names: tuple[str, ...]
    left_out: tuple[str, ...]


def fit_simple(parts: Parts, saved: Plan | None) -> SimpleDone | None:
    """Fit and judge the simple methods: those of the plan, or those that do not take too long. None: a signal came."""
    most = planning.BASELINE_SHARE * parts.config.seconds
    everything = parts.images.judged + parts.images.fitted + parts.images.tested
    names, left_out = [], []
    for one in parts.field.simple:
        if saved is not None and one.name not in saved.simple:
            continue
        if saved is None and parts.journal.of(one.name) is None:
            speed = one.speed()
            needed = speed.start + speed.step * one.steps + planning.SAVING + speed.image * everything
            if needed > most:
                left_out.append(f"{one.name}: takes about {needed:.0f} s, and a simple method may take {most:.0f} s")
                log.info("left out: %s", left_out[-1])
                continue
        if not one.fit():
            return None
        names.append(one.name)
        judge_once(one, parts.judge, parts.journal, parts.run, steps=one.steps)
    return SimpleDone(tuple(names), tuple(left_out))


def make_plan(parts: Parts, simple: SimpleDone) -> Plan:
    """Measure the speed of all that learn by gradient, and plan the race with the time that the end leaves."""
    config, field, journal = parts.config, parts.field, parts.journal
    left_out = [*field.left_out, *simple.left_out]
    timings = {}
    for one in field.restoring:
        speed, cost = one.speed(), journal.last(one.twin).cost
        test = _fit_seconds(parts, cost, parts.images.fitted)
        timings[one.name] = Timing(start=speed.start, step=speed.step, judge=cost.seconds, test=test)
        log.info("%s: %.0f ms per step of %d images", one.name, 1000 * speed.step, one.config.batch_size)
    scratch_step = 0.0
    if SCRATCH in config.contestants and not field.restoring:
        left_out.append(f"{SCRATCH}: it has the network of a contestant that restores images, and there is none")
    elif SCRATCH in config.contestants:
        scratch_step = scratch_pace(config, field, parts.images.sets, parts.images.size, parts.here)

    spare = planning.SPARE * config.seconds + planning.REPORTING
    ready = [one.name for one in field.ready]
    testing = _testing(parts, [*ready, *simple.names])
    available = journal.clock.left - testing - spare
    probing = probe_seconds(parts)
    probe = probing < planning.PROBE_SHARE * available
    available -= probing if probe else 0.0
    valuing = worth_seconds(parts) if field.restoring else math.inf
    worth = valuing < planning.WORTH_SHARE * available
    available -= valuing if worth else 0.0
    scratch_seconds = planning.SCRATCH_SHARE * available if scratch_step else 0.0
    tasks = sum(len(one.images.tasks) for one in parts.images.sets)
    scratch = int(scratch_seconds / tasks / scratch_step) if scratch_step else 0
    if scratch_step and scratch < planning.FEWEST_STEPS:
        left_out.append(f"{SCRATCH}: {max(0, scratch_seconds):.0f} s are too few to train a network")
        scratch, scratch_seconds = 0, 0.0
    inside, slow = planning.enter(timings, available - scratch_seconds)
    left_out += slow
    for line in left_out[len(field.left_out) + len(simple.left_out) :]:
        log.info("left out: %s", line)
    whole = planning.whole_seconds(available - scratch_seconds, list(inside.values()))
    steps, rungs = planning.rungs_of(inside, whole)
    return Plan(
        image_size=parts.images.size,
        sizes=planning.sizes(config.seconds),
        simple=simple.names,
        steps=steps,
        rungs=rungs,
        scratch=scratch,
        scratch_seconds=scratch_seconds,
        probe=probe,
        worth=worth,
        timings=inside,
        left_out=tuple(left_out),
    )


def reserve(parts: Parts, plan: Plan) -> float:
    """Seconds that must be left when the race ends."""
    probing = probe_seconds(parts) if plan.probe else 0.0
    valuing = worth_seconds(parts) if plan.worth else 0.0
    return _testing(parts, parts.journal.judged) + plan.scratch_seconds + probing + valuing + planning.REPORTING


def _testing(parts: Parts, names: Iterable[str]) -> float:
    """Seconds to test contestants, from what judging them took."""
    return sum(_fit_seconds(parts, parts.journal.last(name).cost, parts.images.fitted) for name in names)


def probe_seconds(parts: Parts) -> float:
    """Estimated seconds of the linear probe of the winner on all labeled images, and its null check, whoever wins."""
    costs = [one.cost for one in parts.journal.memory.judgments]
    rows = parts.images.labeled + NULL_IMAGES
    return planning.LOGISTIC * max(_fit_seconds(parts, cost, rows) for cost in costs)


def worth_seconds(parts: Parts) -> float:
    """Estimated seconds to measure what the training of any contestant is worth in labels."""
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


def _fit_seconds(parts: Parts, cost: JudgeCost, rows: int) -> float:
    images = parts.images
    return planning.fit_seconds(cost, images.judged, rows, images.tested, strengths=len(STRENGTHS), few=FEW_IMAGES)

"""From measurements on this machine to a plan: what fits in, and how long the rungs are."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from common.machine.memory import available_memory
from finetune.checks import NULL_IMAGES
from finetune.probes.search import FEW_IMAGES
from pretrain.sample import SAMPLE_IMAGES
from retouch.studies import plan as planning
from retouch.studies.contestants import SCRATCH, Simple, Speed
from retouch.studies.judge import STRENGTHS
from retouch.studies.parts import Parts
from retouch.studies.plan import PROBES, JudgeCost, Plan, ProbeKind, Timing, Wider
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
            needed = learning_seconds(one, speed) + speed.image * everything
            if needed > most:
                left_out.append(f"{one.name}: takes about {needed:.0f} s, and a simple method may take {most:.0f} s")
                log.info("left out: %s", left_out[-1])
                continue
        if parts.journal.of(one.name) is None:
            if not one.fit():
                return None
            parts.journal.save()  # the time that it took
        names.append(one.name)
        judge_once(one, parts.judge, parts.journal, parts.run, steps=one.steps)
    return SimpleDone(tuple(names), tuple(left_out))


def make_plan(parts: Parts, simple: Sequence[str], wider: Wider | None, without: Sequence[str]) -> Plan:
    """Measure the speed of all that learn by gradient, and plan the race with the time that the end leaves.

    Args:
        simple: the simple methods, by name, and of these the dictionary that was learned again.
        without: a line about each of them that was left out.
    """
    config, field, journal = parts.config, parts.field, parts.journal
    left_out = [*field.left_out, *without]
    told = len(left_out)
    timings = {}
    for one in field.restoring:
        speed, cost = one.speed(), journal.last(one.twin).cost
        timings[one.name] = Timing(
            start=speed.start, step=speed.step, judge=cost.seconds, test=testing_seconds(parts, cost)
        )
        log.info("%s: %.0f ms per step of %d images", one.name, 1000 * speed.step, one.config.batch_size)
    scratch_step = 0.0
    if SCRATCH in config.contestants and not field.restoring:
        left_out.append(f"{SCRATCH}: it has the network of a contestant that restores images, and there is none")
    elif SCRATCH in config.contestants:
        scratch_step = scratch_pace(config, field, parts.images.sets, parts.images.size, parts.here)

    available = time_left(parts)
    probe = planned_probe(parts, journal.costs, available)
    if probe is None:
        left_out.append(
            "the linear probe of the winner on all labeled images: takes too much of the time or the memory"
        )
    available -= probe_seconds(parts, probe) if probe else 0.0
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
    for line in left_out[told:]:
        log.info("left out: %s", line)
    whole = planning.whole_seconds(available - scratch_seconds, list(inside.values()))
    steps, rungs = planning.rungs_of(inside, whole)
    return Plan(
        image_size=parts.images.size,
        sizes=planning.sizes(config.seconds),
        simple=tuple(simple),
        wider=wider,
        steps=steps,
        rungs=rungs,
        scratch=scratch,
        scratch_seconds=scratch_seconds,
        probe=probe is not None,
        probe_kind=probe or "logistic",
        worth=worth,
        timings=inside,
        left_out=tuple(left_out),
    )


def reserve(parts: Parts, plan: Plan) -> float:
    """Seconds that must be left when the race ends."""
    probing = probe_seconds(parts, plan.probe_kind) if plan.probe else 0.0
    valuing = worth_seconds(parts) if plan.worth else 0.0
    return _testing(parts) + plan.scratch_seconds + probing + valuing + planning.REPORTING


def time_left(parts: Parts) -> float:
    """Seconds that are left before the race, without those that testing all who were judged, and the end, will take."""
    spare = planning.SPARE * parts.config.seconds + planning.REPORTING
    return parts.journal.clock.left - _testing(parts) - spare


def _testing(parts: Parts) -> float:
    """Seconds to test all who were judged."""
    return sum(testing_seconds(parts, parts.journal.last(name).cost) for name in parts.journal.judged)


def testing_seconds(parts: Parts, cost: JudgeCost) -> float:
    """Seconds to test a contestant, from what judging it took."""
    images = parts.images
    return planning.fit_seconds(
        cost, *(images.judged, images.fitted, images.tested), strengths=len(STRENGTHS), few=FEW_IMAGES
    )


def planned_probe(parts: Parts, costs: Sequence[JudgeCost], available: float) -> ProbeKind | None:
    """The linear probe on all labeled images that whoever wins can have: the usual one if it fits, or a faster one.

    Args:
        costs: of judging those who may win.
        available: seconds for it and for training.
    """
    widest = max(cost.width for cost in costs)
    if bytes_needed(parts, parts.images.labeled, widest) > free_memory(parts):
        return None
    fitting = (kind for kind, one in PROBES.items() if _probing(parts, costs, kind) < one.share * available)
    return next(fitting, None)


def learning_seconds(one: Simple, speed: Speed) -> float:
    """Seconds until a simple method is learned and exported, with what it then says of its codes."""
    said = speed.image * min(SAMPLE_IMAGES, len(one.pool))
    return speed.start + speed.step * one.steps + planning.SAVING + said


def bytes_needed(parts: Parts, rows: int, width: int) -> int:
    """Memory that a test takes with a fit on so many rows and features."""
    others = parts.images.tested + (parts.images.fitted if rows > parts.images.fitted else 0)
    return planning.fit_bytes(rows, width, others, copies=5 if rows < FEW_IMAGES else 2)


def free_memory(parts: Parts) -> int:
    """Memory that a fit may take, in bytes: of the machine, and of its GPU if fits are computed there."""
    free = available_memory()
    if parts.here.device.type == "cuda":
        free = min(free, torch.cuda.mem_get_info(parts.here.device)[0])
    return int(planning.FREE * free)


def probe_seconds(parts: Parts, kind: ProbeKind) -> float:
    """Estimated seconds of the linear probe of the winner on all labeled images, and its null check, whoever wins."""
    return _probing(parts, parts.journal.costs, kind)


def _probing(parts: Parts, costs: Sequence[JudgeCost], kind: ProbeKind) -> float:
    images, counts = parts.images, {"strengths": len(STRENGTHS), "few": FEW_IMAGES}
    rows = images.labeled + NULL_IMAGES
    return max(planning.probe_seconds(cost, images.judged, images.fitted, rows, kind, **counts) for cost in costs)


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

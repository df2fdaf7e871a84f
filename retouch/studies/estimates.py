"""Estimates on this machine: seconds and bytes that the rest of a study needs, from what it has measured."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Sequence

import torch

from common.machine.memory import available_memory
from finetune.checks import NULL_IMAGES
from finetune.config import DAMAGES
from finetune.probes.search import FEW_IMAGES
from pretrain.sample import SAMPLE_IMAGES
from retouch.studies import fits
from retouch.studies import plan as planning
from retouch.studies.contestants import Simple, Speed
from retouch.studies.fits import JudgeCost, ProbeKind
from retouch.studies.judge import STRENGTHS
from retouch.studies.parts import Parts
from retouch.studies.plan import Timing
from retouch.studies.scratch import CHECKS

log = logging.getLogger("retouch")

MOMENT = 0.3  # seconds


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
    if not journal.tests:
        return raced
    took, estimated = sum(one.took for one in journal.tests), sum(one.estimated for one in journal.tests)
    return max(raced, (took + MOMENT) / (estimated + MOMENT))


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
    return fits.fit_seconds(
        cost, *(images.judged, images.fitted, images.tested), strengths=len(STRENGTHS), few=FEW_IMAGES
    )


def learning_seconds(one: Simple, speed: Speed) -> float:
    """Estimated seconds to fit a simple method, export it and measure its codes."""
    said = speed.image * min(SAMPLE_IMAGES, len(one.pool))
    return speed.start + speed.step * one.steps + planning.SAVING + said


def bytes_needed(parts: Parts, rows: int, width: int) -> int:
    """Bytes that a test needs, with a fit on ``rows`` images and ``width`` features."""
    others = parts.images.tested + (parts.images.fitted if rows > parts.images.fitted else 0)
    return fits.fit_bytes(rows, width, others, copies=5 if rows < FEW_IMAGES else 2)


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


def scratch_overhead(parts: Parts) -> float:
    """Seconds that the networks from scratch need besides their training.

    Each is validated on a held-out tenth several times, tested once, and exported.
    """
    images, twin = parts.images, parts.journal.last(parts.field.restoring[0].twin).cost
    passes = twin.extraction / images.judged * (CHECKS / 10 * images.fitted + images.tested)
    return tasks(parts) * (change(parts) * passes + planning.SAVING)


def tasks(parts: Parts) -> int:
    """The number of tasks of all label sets."""
    return sum(len(one.images.tasks) for one in parts.images.sets)


def _first_cost(parts: Parts, name: str) -> JudgeCost:
    """The cost of judging a contestant before the race; for a network, that of its untrained twin."""
    twins = {one.name: one.twin for one in parts.field.restoring}
    return parts.journal.last(twins.get(name, name)).cost


def probing_seconds(parts: Parts, costs: Sequence[JudgeCost], kind: ProbeKind) -> float:
    images, counts = parts.images, {"strengths": len(STRENGTHS), "few": FEW_IMAGES}
    rows = images.labeled + NULL_IMAGES
    return max(fits.probe_seconds(cost, images.judged, images.fitted, rows, kind, **counts) for cost in costs)


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
        fits.worth_seconds(
            parts.journal.last(twin).cost,
            *(images.judged, images.fitted, images.tested),
            strengths=len(STRENGTHS),
            few=FEW_IMAGES,
        )
        for twin in twins
    )

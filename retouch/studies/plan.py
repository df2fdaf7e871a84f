"""How a study divides its time, as arithmetic: how many images it uses, which contestants fit, how long each rung is.

A rung is a part of the race after which the worse half leaves. Within a rung, every contestant trains for the same
time. Plans are written to ``plan.json`` before each rung starts; from the same plan, a study makes the same choices.
There are at least two rungs: the time that the first one takes decides how long the last one can be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from pydantic import Field

from common.runs.results import Record
from finetune.solvers.ridge import MANY_ROWS, WIDE

ProbeKind = Literal["logistic", "ridge"]

PLAN_VERSION: Final = 2
GROWTH = 3  # each rung adds this many times the training of the rung before
FINALISTS = 2  # contestants in the last rung, if there are as many
FEWEST_RUNGS = 2  # the last one gets the time that is left after the others
RACE_SHARE = 0.5  # of the budget: reserved for training, judging and testing networks, untrained ones included
RACE_ALL = 0.8  # of the time left, if that is less: baselines get the rest
FEWEST_STEPS = 20  # of a first rung: with fewer, a network learns nothing
FACTOR = 1 / 3  # operations of a Cholesky factorization, per cube of the matrix's side
EIGEN = 20  # an eigendecomposition takes as long as this many float32 products of the same size
SAVING = 3.0  # seconds of a rung for checkpoint, pictures and export
RULER_STEPS = 12  # measuring what the loss means, at the end of a rung, takes as long as this many steps
BASELINE_SHARE = 0.1  # of the budget: the most that one simple method may take
WIDER_SHARE = 0.25  # of the time left: the most that a wider dictionary may take to be learned, judged and tested
ALONE = 0.8  # of the time left: the most that anything may take if no network competes
CAREFUL_RACE = 1.1  # times the shortest race of the fastest network: reserved at least
CAREFUL = 0.8  # of a share: the most that an estimate may take before it is confirmed by a measurement
LATE = (1.5, 1.25)  # times the planned training: the most in a rung, and in the last one, after which no time is left
JITTER = 1.0  # seconds: short trainings vary by as much
YIELDED = 0.7  # of the planned training: the least that finalists keep if time for that network is reserved later
FAIR = (0.5, 3.0)  # least and most training of the network from scratch, as a multiple of a finalist's
WORTH_SHARE = 0.1  # of the time for training: the most that measuring its worth in labels may take
WORTH_SHARES, WORTH_DRAWS = (0.05, 0.1, 0.25, 0.5), 5  # of the fitted images
DAMAGE_SHARE = 0.05  # likewise, of testing the winner on damaged images
DAMAGED, FEWEST_DAMAGED = 1000, 200  # test images of each label set for that: the most, and the fewest
SPARE = 0.03  # of the budget: for errors of the estimates
REPORTING = 6.0  # seconds for comparisons, results and report
FREE = 0.7  # of the free memory: the most that features and fits may take


class ProbeCost(NamedTuple):
    """The cost of a linear probe of the winner; the first one that fits is used, if any does."""

    fits: float  # how many times as long it takes as a ridge fit, both with the choice of a strength
    share: float  # of the time for training: the most that it may take


PROBES: dict[ProbeKind, ProbeCost] = {"logistic": ProbeCost(5.0, 0.25), "ridge": ProbeCost(1.0, 0.45)}


class Sizes(Record):
    """The number of images that the budget allows for each use."""

    judged: int  # labeled training images that all choices are made on
    fitted: int  # labeled training images that tested classifiers are fitted on
    tested: int  # test images


class Timing(Record):
    """Measured seconds of a network."""

    start: float  # before the first step
    step: float  # per step
    judge: float  # to judge it once
    test: float = 0.0  # to test it at the end
    saving: float = SAVING  # in each rung, besides training and judging

    @property
    def idle(self) -> float:
        """Seconds of a rung in which the network does not train."""
        return self.start + self.judge + self.saving + RULER_STEPS * self.step


class JudgeCost(Record):
    """The cost of judging a contestant, from which the cost of larger fits is estimated."""

    width: int  # features
    extraction: float  # seconds for the judged images
    fitting: float  # seconds

    @property
    def seconds(self) -> float:
        return self.extraction + self.fitting


class Wider(Record):
    """A dictionary that is learned again with more atoms than its recipe has."""

    of: str  # the contestant with the recipe's number of atoms
    atoms: int
    grid: int  # cells per side over which codes are averaged
    left_out: tuple[str, ...] = ()  # a line about the next better one, which does not fit

    @property
    def name(self) -> str:
        """Its name as a contestant."""
        return f"{self.of}_{self.atoms}"


class Rung(Record):
    """A part of the race."""

    seconds: float  # training time of each contestant from its start to the end of this rung
    steps: dict[str, int]  # training steps of each contestant, likewise
    # steps of each contestant's whole training, by its learning rate schedule in this rung; empty: as planned at first
    whole: dict[str, int] = Field(default_factory=dict)


class Plan(Record):
    """All decisions that depend on time. All other choices are a function of these and the images."""

    version: Literal[2] = PLAN_VERSION
    image_size: int
    sizes: Sizes
    simple: tuple[str, ...]  # the simple methods that fit into the budget
    wider: Wider | None = None  # the dictionary that is learned again, if a dictionary leads
    steps: dict[str, int]  # of the whole training of each contestant in the race, as planned before the race
    rungs: tuple[Rung, ...]
    settled: int = 1  # rungs whose length is final; later ones get the time that is left
    scratch: int  # steps of the network from scratch; 0: it does not compete
    scratch_most: float | None = None  # seconds after which the network from scratch ends all the same, on each task
    scratch_ends: dict[str, int] = Field(default_factory=dict)  # by task, the step where it did
    scratch_seconds: float = 0.0  # of training, reserved for it: as many as a finalist gets; 0: none are
    scratch_settled: bool = True  # whether its number of steps is final: it is known when the race has ended
    probe: bool  # whether the winner gets a linear probe on all labeled images
    probe_kind: ProbeKind = "logistic"  # the usual one, or the faster ridge regression
    enough: int = 0  # minutes that would be enough to train a network; 0: one is trained, or none was to be
    worth: bool = False  # whether to measure how many labels the winner saves
    damaged: int = 0  # test images of each label set on which the winner is tested again, damaged
    timings: dict[str, Timing] = Field(default_factory=dict)
    left_out: tuple[str, ...] = ()  # a line about each contestant that does not compete
    skipped: tuple[str, ...] = ()  # likewise, about each test of the end that is not done

    def ended(self, name: str, number: int, step: int) -> Plan:
        """The plan in which a contestant ends a rung earlier, after ``step``, since the machine has become slower."""
        rung = self.rungs[number - 1]
        ended = rung.model_copy(update={"steps": {**rung.steps, name: step}})
        return self.model_copy(update={"rungs": (*self.rungs[: number - 1], ended, *self.rungs[number:])})

    def most_seconds(self, name: str, number: int, before: float) -> float:
        """How long a contestant may train at most, from its start to the end of a rung.

        On a machine that has become slower, it takes fewer steps than planned, so that the budget is kept.

        Args:
            before: seconds that it trained until the end of the rung before.
        """
        begun = self.rungs[number - 2].seconds if number > 1 else 0.0
        timing = self.timings[name]
        planned = self.rungs[number - 1].seconds - begun + timing.start + RULER_STEPS * timing.step
        return before + LATE[number == len(self.rungs)] * planned + JITTER

    def whole(self, name: str, number: int) -> int:
        """Steps of a contestant's whole training, by its schedule in this rung (``number`` counts from 1)."""
        return self.rungs[number - 1].whole.get(name, self.steps[name])


class Again(NamedTuple):
    """The plan after a rung, with its end planned again."""

    plan: Plan
    left: float  # seconds for the rest of the race and the training from scratch
    overhead: float  # seconds that the network from scratch needs besides its training


class Purse:
    """Seconds left for training and what follows, some of them reserved for the networks.

    Attributes:
        left: seconds.
        kept: seconds of these that are reserved for the networks.
        alone: whether no network competes, so that nothing would use the time that is left over.
    """

    def __init__(self, left: float, kept: float, *, alone: bool = False) -> None:
        self.left, self.kept, self.alone = left, kept, alone

    def room(self, share: float) -> float:
        """Seconds available to something that may take this share."""
        return max(0.0, min((ALONE if self.alone else share) * self.left, self.left - self.kept))

    def take(self, seconds: float, share: float) -> bool:
        """Take the seconds if they are available; whether they were."""
        fits = seconds < self.room(share)
        self.left -= seconds if fits else 0.0
        return fits


def sizes(budget: float) -> Sizes:
    """The number of images that a budget in seconds allows; if there are fewer, all are used.

    It depends on the budget alone, so that two machines judge on the same images.
    """
    return Sizes(
        judged=min(4000, max(500, round(2 * budget))),
        fitted=max(500, round(8 * budget)),
        tested=max(1000, round(10 * budget)),
    )


# ---- the cost of fits


def ridge_work(rows: int, width: int, strengths: int) -> float:
    """Operations of one ridge fit, in units of float32 operations: the product of the features, and the solution.

    It follows ``finetune/solvers/ridge.py``: half of a float32 product for more rows than features, otherwise a float64
    product; then an eigendecomposition, or one factorization per strength.
    """
    if rows >= width:
        return rows * width**2 + (strengths * FACTOR if width > WIDE else EIGEN) * width**3
    return 4 * rows**2 * width + (strengths * FACTOR if rows > MANY_ROWS else EIGEN) * rows**3


def fit_work(rows: int, width: int, strengths: int, folds: int) -> float:
    """Operations of choosing a strength: by cross-validation, or on a held-out tenth if ``folds`` is 1."""
    fitted = round(rows * (folds - 1) / folds) if folds > 1 else round(0.9 * rows)
    return folds * ridge_work(fitted, width, strengths)


def fit_seconds(cost: JudgeCost, judged: int, fitted: int, tested: int, *, strengths: int, few: int) -> float:
    """Estimated seconds to fit on ``fitted`` images and predict ``tested``, from the cost of judging on ``judged``.

    Args:
        few: below this number of images, a strength is chosen by 5-fold cross-validation.
    """
    fitting = _fitting(cost, judged, fitted, strengths, few)
    return cost.extraction * (fitted + tested) / judged + fitting


def probe_seconds(
    cost: JudgeCost, judged: int, fitted: int, labeled: int, kind: ProbeKind, *, strengths: int, few: int
) -> float:
    """Estimated seconds of a linear probe on ``labeled`` images, in addition to a test fitted on ``fitted`` of them."""
    extraction = cost.extraction * max(0, labeled - fitted) / judged
    return extraction + PROBES[kind].fits * _fitting(cost, judged, labeled, strengths, few)


def _fitting(cost: JudgeCost, judged: int, fitted: int, strengths: int, few: int) -> float:
    """Seconds to choose a strength and to fit, without features."""
    work = _choosing(fitted, cost.width, strengths, few) + ridge_work(fitted, cost.width, 1)
    return cost.fitting * work / _choosing(judged, cost.width, strengths, few)


def _choosing(rows: int, width: int, strengths: int, few: int) -> float:
    return fit_work(rows, width, strengths, 5 if rows < few else 1)


def wider_cost(cost: JudgeCost, judged: int, width: int, image: float, *, strengths: int, few: int) -> JudgeCost:
    """Estimated cost of judging ``width`` features, which take ``image`` seconds per image, from that for fewer."""
    more, known = (_choosing(judged, features, strengths, few) for features in (width, cost.width))
    return JudgeCost(width=width, extraction=image * judged, fitting=cost.fitting * more / known)


def fit_bytes(rows: int, width: int, others: int, copies: int) -> int:
    """Peak memory of a ridge fit in bytes: the features, standardized copies of them, and the solver.

    It follows ``finetune/solvers/ridge.py``: with more rows than features, moments in float64, two copies of them and a
    factor in float32; otherwise the features in float64, twice, and their products.

    Args:
        others: rows of features in memory besides those to fit on.
        copies: of the features to fit on, at the same time: the splits of a cross-validation are kept together.
    """
    solving = 24 * width**2 if rows >= width else 16 * rows * (width + rows)
    return 4 * width * ((1 + copies) * rows + others) + solving


def worth_seconds(cost: JudgeCost, judged: int, fitted: int, tested: int, *, strengths: int, few: int) -> float:
    """Estimated seconds to test two contestants again, fitted on all fitted images and on draws of them."""
    extraction = cost.extraction * (fitted + tested) / judged
    fits = [fitted, *(round(share * fitted) for share in WORTH_SHARES for _ in range(WORTH_DRAWS))]
    whole = [fit_seconds(cost, judged, rows, 0, strengths=strengths, few=few) for rows in fits]
    return 2 * (extraction + sum(whole) - cost.extraction * sum(fits) / judged)


# ---- the race


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

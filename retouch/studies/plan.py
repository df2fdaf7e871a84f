"""The time of a study, as arithmetic: how many images are used, who fits in, and how long each rung is.

A rung is the part of the race after which the slower half leaves. Within a rung every contestant trains for the same
time. What is planned before a rung starts is written to ``plan.json``; from the same plan, a study makes the same
choices. There are two rungs at least: what the first one takes says how long the last one can be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from pydantic import Field

from common.runs.results import Record
from finetune.solvers.ridge import MANY_ROWS, WIDE

ProbeKind = Literal["logistic", "ridge"]

PLAN_VERSION: Final = 1
GROWTH = 3  # a rung adds so many times the training of the rung before
FINALISTS = 2  # who reach the last rung, if there are that many
FEWEST_RUNGS = 2  # the last one gets the time that is left when the others have ended
RACE_SHARE = 0.5  # of the budget that networks get at least: to be trained, judged and tested, with untrained ones
RACE_ALL = 0.8  # of the time that is left, if that is less: baselines get the rest
FEWEST_STEPS = 20  # of a first rung: fewer teach nothing
FACTOR = 1 / 3  # of the cube of its side: operations of the Cholesky factorization of a matrix
EIGEN = 20  # float32 products that take as long as an eigendecomposition of the same size
SAVING = 3.0  # seconds of a rung for checkpoint, pictures and export
RULER_STEPS = 12  # as many steps take as long as measuring what the loss means at its end
BASELINE_SHARE = 0.1  # of the budget that one simple method may take
WIDER_SHARE = 0.25  # of the time that is left that a wider dictionary may take: to be learned, judged and tested
ALONE = 0.8  # of the time that is left that anything may take where no network competes
CAREFUL_RACE = 1.1  # times the shortest race, which is kept free for the fastest network
CAREFUL = 0.8  # of a share that an estimate may take which is not measured yet
FAIR = (0.5, 2.0)  # times the training of a finalist that the network from scratch gets, or it does not compete
WORTH_SHARE = 0.1  # of the time for training that measuring its worth in labels may take
WORTH_SHARES, WORTH_DRAWS = (0.05, 0.1, 0.25, 0.5), 5  # of the fitted images
SPARE = 0.03  # of the budget: for what the estimates miss
REPORTING = 6.0  # seconds for comparisons, results and report
FREE = 0.7  # of the free memory that features and fits may take


class ProbeCost(NamedTuple):
    """What a linear probe of the winner costs; the first that fits is taken, or none."""

    fits: float  # a fit takes so many times a ridge fit, both with their choice of a strength
    share: float  # of the time for training that it may take


PROBES: dict[ProbeKind, ProbeCost] = {"logistic": ProbeCost(5.0, 0.25), "ridge": ProbeCost(1.0, 0.45)}


class Sizes(Record):
    """How many images are used: everything else is too slow for the budget."""

    judged: int  # labeled training images that everything is chosen on
    fitted: int  # labeled training images that tested classifiers are fitted on
    tested: int  # test images


class Timing(Record):
    """Measured seconds of a contestant that trains by gradient."""

    start: float  # before the first step
    step: float  # per step
    judge: float  # to judge it once
    test: float = 0.0  # to test it, at the end
    saving: float = SAVING  # of a rung, for what is neither training nor judging

    @property
    def idle(self) -> float:
        """Seconds of a rung in which it does not train."""
        return self.start + self.judge + self.saving + RULER_STEPS * self.step


class JudgeCost(Record):
    """What it took to judge a contestant, from which the cost of larger fits is estimated."""

    width: int  # features
    extraction: float  # seconds for the judged images
    fitting: float  # seconds

    @property
    def seconds(self) -> float:
        return self.extraction + self.fitting


class Wider(Record):
    """A dictionary that is learned again, with more atoms than its recipe has."""

    of: str  # the contestant with its recipe's number
    atoms: int
    grid: int  # cells per side over which codes are averaged
    left_out: tuple[str, ...] = ()  # the next better one, which takes too much

    @property
    def name(self) -> str:
        """The contestant that it is."""
        return f"{self.of}_{self.atoms}"


class Rung(Record):
    """A part of the race."""

    seconds: float  # of training of each contestant, from its start to the end of this rung
    steps: dict[str, int]  # of each contestant, likewise
    # of the whole training of each contestant, as its schedule has them during this rung; empty: as planned
    whole: dict[str, int] = Field(default_factory=dict)


class Plan(Record):
    """All that the clock decides. Choices are a function of this and the images."""

    version: Literal[1] = PLAN_VERSION
    image_size: int
    sizes: Sizes
    simple: tuple[str, ...]  # the simple methods that fit in
    wider: Wider | None = None  # the dictionary that is learned again, if one of them leads
    steps: dict[str, int]  # of the whole training of each contestant in the race, as it was planned before it
    rungs: tuple[Rung, ...]
    settled: int = 1  # rungs whose length is final; later ones get the time that is left
    scratch: int  # steps of the network from scratch; 0: it does not compete
    scratch_step: float = 0.0  # seconds of one of them; 0: it does not compete
    scratch_seconds: float = 0.0  # of training that are set aside for it: as many as a finalist gets
    scratch_settled: bool = True  # whether its steps are final: they are known once the race has ended
    probe: bool  # whether the winner gets a linear probe on all labeled images
    probe_kind: ProbeKind = "logistic"  # the usual one, or the faster ridge regression
    worth: bool = False  # whether it is measured how many labels the winner saves
    timings: dict[str, Timing] = Field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def whole(self, name: str, number: int) -> int:
        """Steps of the whole training of a contestant, as its schedule has them during a rung, counted from 1."""
        return self.rungs[number - 1].whole.get(name, self.steps[name])


class Purse:
    """Seconds that are left for training and what follows it, of which the networks keep some.

    Attributes:
        alone: whether no network competes, so that what the others do not take is not used.
    """

    def __init__(self, left: float, kept: float, *, alone: bool = False) -> None:
        self.left, self.kept, self.alone = left, kept, alone

    def room(self, share: float) -> float:
        """What something that may take such a share can have."""
        return max(0.0, min((ALONE if self.alone else share) * self.left, self.left - self.kept))

    def take(self, seconds: float, share: float) -> bool:
        """Take so many seconds, if they are there."""
        fits = seconds < self.room(share)
        self.left -= seconds if fits else 0.0
        return fits


def sizes(budget: float) -> Sizes:
    """How many images a budget of so many seconds allows; of fewer, all are used.

    They follow from the budget alone, so that two machines judge on the same images.
    """
    return Sizes(
        judged=min(4000, max(500, round(2 * budget))),
        fitted=max(500, round(8 * budget)),
        tested=max(1000, round(10 * budget)),
    )


# ---- what fits cost


def ridge_work(rows: int, width: int, strengths: int) -> float:
    """Operations of one ridge fit, counted as those of float32: the product of the features, and what solves it.

    As ``finetune/solvers/ridge.py`` works: half of a float32 product for more rows than features, otherwise a float64
    product; then an eigendecomposition, or one factorization per strength.
    """
    if rows >= width:
        return rows * width**2 + (strengths * FACTOR if width > WIDE else EIGEN) * width**3
    return 4 * rows**2 * width + (strengths * FACTOR if rows > MANY_ROWS else EIGEN) * rows**3


def fit_work(rows: int, width: int, strengths: int, folds: int) -> float:
    """Operations of choosing a strength: cross-validated, or with one fold on a held-out tenth."""
    fitted = round(rows * (folds - 1) / folds) if folds > 1 else round(0.9 * rows)
    return folds * ridge_work(fitted, width, strengths)


def fit_seconds(cost: JudgeCost, judged: int, fitted: int, tested: int, *, strengths: int, few: int) -> float:
    """Estimated seconds to fit on ``fitted`` images and predict ``tested``, from what judging on ``judged`` took.

    Args:
        few: with fewer images, a strength is chosen by 5-fold cross-validation.
    """
    fitting = _fitting(cost, judged, fitted, strengths, few)
    return cost.extraction * (fitted + tested) / judged + fitting


def probe_seconds(
    cost: JudgeCost, judged: int, fitted: int, labeled: int, kind: ProbeKind, *, strengths: int, few: int
) -> float:
    """Estimated seconds of a linear probe on ``labeled`` images, beyond a test with a fit on ``fitted`` of them."""
    extraction = cost.extraction * max(0, labeled - fitted) / judged
    return extraction + PROBES[kind].fits * _fitting(cost, judged, labeled, strengths, few)


def _fitting(cost: JudgeCost, judged: int, fitted: int, strengths: int, few: int) -> float:
    """Seconds to choose a strength and to fit, without features."""
    work = _choosing(fitted, cost.width, strengths, few) + ridge_work(fitted, cost.width, 1)
    return cost.fitting * work / _choosing(judged, cost.width, strengths, few)


def _choosing(rows: int, width: int, strengths: int, few: int) -> float:
    return fit_work(rows, width, strengths, 5 if rows < few else 1)


def wider_cost(cost: JudgeCost, judged: int, width: int, image: float, *, strengths: int, few: int) -> JudgeCost:
    """Estimated cost of judging ``width`` features, which take ``image`` seconds per image, from that of fewer."""
    more, known = (_choosing(judged, features, strengths, few) for features in (width, cost.width))
    return JudgeCost(width=width, extraction=image * judged, fitting=cost.fitting * more / known)


def fit_bytes(rows: int, width: int, others: int, copies: int) -> int:
    """Memory that a ridge fit takes at most: the features, standardized copies of them, and what solves it.

    As ``finetune/solvers/ridge.py`` works: with more rows than features, moments in float64, two copies of them and a
    factor in float32; otherwise the features in float64, twice, and their products.

    Args:
        others: rows of features that are kept next to those to fit on.
        copies: of the features to fit on, at once: the splits of a cross-validation are kept together.
    """
    solving = 24 * width**2 if rows >= width else 16 * rows * (width + rows)
    return 4 * width * ((1 + copies) * rows + others) + solving


def worth_seconds(cost: JudgeCost, judged: int, fitted: int, tested: int, *, strengths: int, few: int) -> float:
    """Estimated seconds to test two contestants again, on all fitted images and on draws of them."""
    extraction = cost.extraction * (fitted + tested) / judged
    fits = [fitted, *(round(share * fitted) for share in WORTH_SHARES for _ in range(WORTH_DRAWS))]
    whole = [fit_seconds(cost, judged, rows, 0, strengths=strengths, few=few) for rows in fits]
    return 2 * (extraction + sum(whole) - cost.extraction * sum(fits) / judged)


# ---- the race


def survivors(count: int) -> list[int]:
    """How many train in each rung: the better half stay, down to two, who train to the end."""
    found = [count]
    while found[-1] > FINALISTS or len(found) < FEWEST_RUNGS:
        found.append(min(found[-1], max(FINALISTS, math.ceil(found[-1] / 2))))
    return found if count else []


def rung_ends(rungs: int, whole: float) -> list[float]:
    """When each rung ends, in seconds of training of a contestant that trains for ``whole`` in all."""
    shares = [GROWTH**number for number in range(rungs)]
    return [whole * sum(shares[: number + 1]) / sum(shares) for number in range(rungs)]


def race_seconds(whole: float, timings: Sequence[Timing], *, scratch: bool = False) -> float:
    """What a race takes, with the test of all who were in it, if those who stay to the end train for ``whole`` seconds.

    The most expensive are taken to stay.

    Args:
        scratch: whether the network from scratch is trained as long as they are.
    """
    counts = survivors(len(timings))
    ends = [0.0, *rung_ends(len(counts), whole)]
    idle = sorted((one.idle for one in timings), reverse=True)
    training = sum(count * (ends[number + 1] - ends[number]) for number, count in enumerate(counts))
    others = sum(sum(idle[:count]) for count in counts) + sum(one.test for one in timings)
    return training + others + (whole if scratch else 0.0)


def whole_seconds(available: float, timings: Sequence[Timing], *, scratch: bool = False) -> float:
    """How long a contestant that survives can train if the race may take ``available``; negative if it cannot start.

    Args:
        scratch: whether the network from scratch is trained as long.
    """
    fixed = race_seconds(0.0, timings)
    unit = race_seconds(1.0, timings, scratch=scratch) - fixed
    return (available - fixed) / unit if unit else 0.0


def first_steps(one: Timing, whole: float, rungs: int) -> int:
    """Steps of the first rung."""
    return int(rung_ends(rungs, whole)[0] / one.step)


def least_seconds(one: Timing) -> float:
    """What the shortest race of one contestant takes."""
    first = rung_ends(len(survivors(1)), 1.0)[0]
    return race_seconds(FEWEST_STEPS * one.step / first, [one])


def kept_seconds(timings: Sequence[Timing], share: float, left: float) -> float:
    """What nothing but the networks may take of the seconds that are left: 0 if all of them are too slow to compete.

    Args:
        share: of the budget that they are to have, in seconds.
    """
    least = CAREFUL_RACE * min(map(least_seconds, timings), default=math.inf)
    return max(least, min(share, RACE_ALL * left)) if least <= left else 0.0


def enter(
    timings: Mapping[str, Timing], available: float, *, scratch: bool = False
) -> tuple[dict[str, Timing], list[str]]:
    """Who fits into a race that may take ``available`` seconds, and a line about everyone who does not.

    The slowest leave first, until all others take enough steps in their first rung to be judged.

    Args:
        scratch: whether the network from scratch is trained as long as those who stay to the end.
    """
    inside, left_out = dict(timings), []
    while inside:
        every = list(inside.values())
        whole, rungs = whole_seconds(available, every, scratch=scratch), len(survivors(len(every)))
        if all(first_steps(one, max(0.0, whole), rungs) >= FEWEST_STEPS for one in every):
            break
        slowest = max(inside, key=lambda name: least_seconds(inside[name]))
        alone = least_seconds(inside[slowest])
        del inside[slowest]
        left_out.append(
            f"{slowest}: needs at least {alone:.0f} s of training, judging and testing, and there are fewer"
        )
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


def adapted(plan: Plan, number: int, alive: Mapping[str, Timing], available: float) -> Plan:
    """The plan with later rungs that take the time that is really left, be it less or more than planned.

    The learning rate's schedule then ends where the last of them does. No rung ends before the rung before it.

    Args:
        number: of the next rung, from 0.
        alive: who is still in the race, with the speeds that were seen.
        available: seconds that the rest of the race may take, with the training of the network from scratch.
    """
    before, rest = plan.rungs[number - 1], plan.rungs[number:]
    counts = survivors(len(plan.steps))[number:]
    idle = sorted((one.idle for one in alive.values()), reverse=True)
    ends = [before.seconds, *(rung.seconds for rung in rest)]
    planned = sum(count * (after - start) for count, start, after in zip(counts, ends, ends[1:], strict=False))
    fixed = sum(sum(idle[:count]) for count in counts)
    if plan.scratch_step:  # it is trained from the start, and as long as they are in all
        planned += ends[-1] - before.seconds
        fixed += before.seconds
    scale = max(0.0, (available - fixed) / planned) if planned > 0 else 0.0
    # at the speed that was seen, and for the same time: who turned out slower takes fewer steps
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
    return plan.model_copy(update=changed | ({"scratch_seconds": seconds[-1]} if plan.scratch_step else {}))

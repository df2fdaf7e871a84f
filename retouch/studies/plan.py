"""The plan of a study: how many images it uses, who competes, how long each rung is, and what follows the race.

Plans are written to ``plan.json`` before each rung starts; from the same plan, a study makes the same choices. The
arithmetic is in ``rungs.py`` (the race) and ``fits.py`` (fits and probes).
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from common.runs.results import Record
from retouch.studies.fits import ProbeKind

PLAN_VERSION: Final = 2
RACE_SHARE = 0.5  # of the budget: reserved for training, judging and testing networks, untrained ones included
SAVING = 3.0  # seconds of a rung for checkpoint, pictures and export
RULER_STEPS = 12  # measuring what the loss means, at the end of a rung, takes as long as this many steps
BASELINE_SHARE = 0.1  # of the budget: the most that one simple method may take
WIDER_SHARE = 0.25  # of the time left: the most that a wider dictionary may take to be learned, judged and tested
ALONE = 0.8  # of the time left: the most that anything may take if no network competes
CAREFUL = 0.8  # of a share: the most that an estimate may take before it is confirmed by a measurement
LATE = (1.5, 1.25)  # times the planned training: the most in a rung, and in the last one, after which no time is left
JITTER = 1.0  # seconds: short trainings vary by as much
FAIR = (0.5, 3.0)  # least and most training of the network from scratch, as a multiple of a finalist's
WORTH_SHARE = 0.1  # of the time for training: the most that measuring its worth in labels may take
DAMAGE_SHARE = 0.05  # likewise, of testing the winner on damaged images
DAMAGED, FEWEST_DAMAGED = 1000, 200  # test images of each label set for that: the most, and the fewest
SPARE = 0.03  # of the budget: for errors of the estimates
REPORTING = 6.0  # seconds for comparisons, results and report
FREE = 0.7  # of the free memory: the most that features and fits may take


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
    enough: int = 0  # minutes that would be enough to train a network, or all of them if some are trained; 0: all are
    untried: tuple[str, ...] = ()  # networks for which there is too little time, if others are trained
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


# ---- the race

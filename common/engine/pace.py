"""How fast a learner is on this machine, measured on some real steps."""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

import torch

from common.data import Loader
from common.engine.learner import Learner

WARM, TIMED = 2, 4  # steps before timing, which allocate memory and choose algorithms, and steps that are timed
LONG = 5.0  # seconds after which no further step is timed: long steps vary little


class Pace(NamedTuple):
    """Seconds on this machine."""

    start: float  # before the first step
    step: float  # of one step


def measure_pace(learner: Learner, loader: Loader) -> Pace:
    """Start the learner and take some steps; what they do to it is not undone.

    A learner that takes no steps has a step of 0 seconds. The median is taken, so a step that another program held up
    does not count.
    """
    begun = time.perf_counter()
    learner.start()
    start = time.perf_counter() - begun
    if not learner.streams:
        return Pace(start, 0.0)
    learner.begin(WARM + TIMED)
    learner.model.train()
    seconds = []
    for step, batch in zip(range(WARM + TIMED), loader.stream(), strict=False):
        begun = time.perf_counter()
        learner.step(batch, step)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
        if len(seconds) > WARM and sum(seconds) > LONG:
            break
    return Pace(start, statistics.median(seconds[WARM:]))

"""How fast a learner is, by a clock that only its steps move."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from common.engine import pace
from common.engine.pace import LONG, TIMED, WARM, measure_pace


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "taken", "step"),
    [
        ([9, 9, 1, 2, 30, 3], WARM + 1, 1),  # they are long together: one timed step is enough
        ([0.1, 0.1, 0.1, 0.2, 0.9, 0.3], WARM + TIMED, 0.25),  # the median: one that was held up does not count
        ([LONG] * 6, WARM + 1, LONG),
    ],
)
def test_the_median_step_after_the_first_ones(
    monkeypatch: pytest.MonkeyPatch, seconds: list[float], taken: int, step: float
) -> None:
    clock, steps = Clock(), list[int]()
    monkeypatch.setattr(pace, "time", clock)

    def start() -> None:
        clock.now += 7

    def take(batch: object, number: int) -> None:
        steps.append(number)
        clock.now += seconds[number]

    learner: Any = SimpleNamespace(start=start, streams=True, begin=lambda steps: None, model=nn.Identity(), step=take)
    loader: Any = SimpleNamespace(stream=lambda: iter(range(100)))
    found = measure_pace(learner, loader)
    assert found.start == 7
    assert found.step == pytest.approx(step)
    assert steps == list(range(taken))


def test_a_learner_without_steps_has_a_start_alone() -> None:
    learner: Any = SimpleNamespace(start=lambda: None, streams=False)
    assert measure_pace(learner, SimpleNamespace()).step == 0  # type: ignore[arg-type]

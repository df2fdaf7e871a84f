"""Learning rate, random state and weight average as functions of the step."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from common.engine.gradient import Ema
from common.engine.schedule import learning_rate, seed_step


def test_the_rate_warms_up_and_falls_by_half_a_cosine() -> None:
    rates = [learning_rate(step, 10, 0.2, 4.0) for step in range(10)]
    assert rates[:3] == [2.0, 4.0, 4.0]
    assert rates[6] == pytest.approx(2.0)
    assert rates[9] == pytest.approx(2.0 * (1 + math.cos(math.pi * 7 / 8)))


@given(st.integers(1, 500), st.floats(0, 0.9))
def test_learning_rate_rises_then_falls_within_bounds(steps: int, warmup: float) -> None:
    rates = [learning_rate(step, steps, warmup, 1.0) for step in range(steps)]
    peak = rates.index(max(rates))
    assert all(0 <= rate <= 1 for rate in rates)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_draws_depend_on_every_part_of_the_place_and_on_nothing_else() -> None:
    def draw(*place: int) -> float:
        torch.rand(3)  # whatever happened before must not matter
        seed_step(*place)
        return float(torch.rand(1, dtype=torch.float64))

    places = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 1, 1, 0)]
    assert len({draw(*place) for place in places}) == len(places)
    assert [draw(*place) for place in places] == [draw(*place) for place in places]


def test_average_follows_its_formula_in_float64() -> None:
    model = nn.Linear(3, 2)
    ema = Ema(model, decay=0.6)
    expected = model.weight.detach().double().clone()
    for step in range(12):
        with torch.no_grad():
            model.weight.add_(torch.randn_like(model.weight))
        ema.update(step)
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    assert torch.allclose(ema.tensors["weight"].double(), expected, atol=1e-6)


def test_average_is_lent_to_the_model_and_taken_back_even_after_an_error() -> None:
    model = nn.BatchNorm2d(2)
    ema = Ema(model, decay=0.5)
    with torch.no_grad():
        model.weight.fill_(5.0)
        model.running_mean.fill_(3.0)  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="stop"), ema.applied():
        assert torch.equal(model.weight, torch.ones(2))
        raise RuntimeError("stop")
    assert torch.equal(model.weight, torch.full((2,), 5.0))
    assert torch.equal(model.running_mean, torch.full((2,), 3.0))  # type: ignore[arg-type]

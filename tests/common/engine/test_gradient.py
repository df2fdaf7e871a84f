"""One step by gradient: rate, betas, decay, clipping, seeds and shares, on a model small enough to compute by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.data import Batch
from common.engine.gradient import GradientLearner, ParameterGroup
from common.errors import UserError
from common.machine.distributed import World
from tests.toys import loop_config

RATE, STEPS = 0.1 * 8 / 256, 10


class Slope(nn.Module):
    """The loss is the mean of the images times a matrix of weights, plus a vector's sum: gradients are known."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.full((2, 2), 2.0))
        self.vector = nn.Parameter(torch.full((3,), 2.0))
        self.seen: list[Tensor] = []
        self.drawn: list[float] = []

    def forward(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        self.seen.append(images)
        self.drawn.append(torch.rand((), dtype=torch.float64).item())
        shift = 0.0 if labels is None else labels.float().mean()
        return {"first": (images.float().mean() + shift) * self.matrix.sum(), "second": 3 * self.vector.sum()}


def batches(count: int, labels: bool = False) -> list[Batch]:
    """Images of which each batch is several times as bright as the one before, and so are gradients."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 3, (count, 8, 3, 4, 4), generator=generator, dtype=torch.uint8)
    images *= 5 ** torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1, 1)
    return [Batch(some, torch.arange(8) if labels else None, torch.arange(8)) for some in images]


def learner(rank: int = 0, **changes: Any) -> tuple[GradientLearner, Slope]:
    """A learner of ten steps whose batches of 8 have the rate RATE; the rank is given, but no other process runs."""
    values: dict[str, Any] = {
        "base_lr": 0.1,
        "optim": {"warmup": 0.0, "weight_decay": 0.0, "betas": [0.5, 0.75], "clip": 0.0},
        "ema": 0.0,
    }
    model = Slope()
    made = GradientLearner(model, loop_config(Path("unused"), **values | changes), World(rank, 1, torch.device("cpu")))
    made.begin(STEPS)
    return made, model


def adamw(gradients: list[float], rates: list[float], decay: float = 0.0) -> float:
    """A weight that was 2, after steps of AdamW (Loshchilov and Hutter 2019) with betas 0.5 and 0.75, in float64."""
    weight, first, second = 2.0, 0.0, 0.0
    for number, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        weight -= rate * decay * weight
        first, second = 0.5 * first + 0.5 * gradient, 0.75 * second + 0.25 * gradient**2
        weight -= rate * (first / (1 - 0.5**number)) / ((second / (1 - 0.75**number)) ** 0.5 + 1e-8)
    return weight


def cosine(step: int) -> float:
    return RATE * 0.5 * (1 + np.cos(np.pi * step / STEPS))


@pytest.mark.parametrize("parts", [1, 4], ids=["whole", "accumulated"])
def test_weights_follow_adamw_by_hand(parts: int) -> None:
    made, model = learner(accumulate=parts)
    given = batches(3)
    results = [made.step(batch, step) for step, batch in enumerate(given)]
    means, rates = [float(batch.images.double().mean()) for batch in given], [cosine(step) for step in range(3)]
    assert model.matrix.detach().flatten().tolist() == pytest.approx([adamw(means, rates)] * 4, rel=1e-6)
    assert model.vector.detach().tolist() == pytest.approx([adamw([3.0] * 3, rates)] * 3, rel=1e-6)
    # means over the batch, and the norm of the whole gradient
    losses, numbers = results[0]
    assert float(losses["first"]) == pytest.approx(means[0] * 8)
    assert float(losses["second"]) == pytest.approx(18)
    assert float(numbers["grad_norm"]) == pytest.approx((4 * means[0] ** 2 + 27) ** 0.5)


def test_matrices_decay_and_vectors_do_not() -> None:
    made, model = learner(optim={"warmup": 0.0, "weight_decay": 5.0, "betas": [0.5, 0.75], "clip": 0.0})
    [batch] = batches(1)
    made.step(batch, 0)
    mean = float(batch.images.double().mean())
    assert model.matrix.detach().flatten().tolist() == pytest.approx([adamw([mean], [RATE], decay=5.0)] * 4, rel=1e-6)
    assert model.vector.detach().tolist() == pytest.approx([adamw([3.0], [RATE])] * 3, rel=1e-6)


def test_gradients_are_cut_to_the_norm_that_is_allowed() -> None:
    made, model = learner(optim={"warmup": 0.0, "weight_decay": 0.0, "betas": [0.5, 0.75], "clip": 2.0})
    given = batches(3)
    for step, batch in enumerate(given):
        _, numbers = made.step(batch, step)
        assert float(numbers["grad_norm"]) > 2  # the reported norm is the one before clipping
    means = np.array([float(batch.images.double().mean()) for batch in given])
    cut = 2 / np.sqrt(4 * means**2 + 27)
    rates = [cosine(step) for step in range(3)]
    assert model.vector.detach().tolist() == pytest.approx([adamw(list(3 * cut), rates)] * 3, rel=1e-5)
    assert model.matrix.detach().flatten().tolist() == pytest.approx([adamw(list(means * cut), rates)] * 4, rel=1e-5)


@pytest.mark.parametrize(("warmup", "rates"), [(0.0, [1.0, 0.9755]), (0.2, [0.5, 1.0]), (0.4, [0.25, 0.5])])
def test_rate_warms_up_over_its_share_of_the_steps(warmup: float, rates: list[float]) -> None:
    made, _ = learner(optim={"warmup": warmup})
    assert [made.rate(step) for step in range(2)] == pytest.approx([RATE * share for share in rates], rel=1e-4)


def test_groups_scale_the_rate() -> None:
    model = Slope()
    groups: list[ParameterGroup] = [
        {"params": [model.matrix], "lr_scale": 0.25, "weight_decay": 0.0},
        {"params": [model.vector], "weight_decay": 0.0},
    ]
    config = loop_config(Path("unused"), base_lr=0.1, ema=0.0, optim={"warmup": 0.0, "weight_decay": 0.0})
    made = GradientLearner(model, config, World(0, 1, torch.device("cpu")), groups=groups)
    made.begin(STEPS)
    made.step(batches(1)[0], 0)  # the first step of AdamW is as long as the rate
    moved = [(2 - parameter.detach()).max().item() for parameter in (model.matrix, model.vector)]
    assert moved == pytest.approx([RATE / 4, RATE], rel=1e-2)


def test_micro_batches_are_equal_slices_in_order_with_their_labels() -> None:
    made, model = learner(accumulate=4)
    [batch] = batches(1, labels=True)
    losses, _ = made.step(batch, 0)
    assert torch.equal(torch.cat(model.seen), batch.images)
    assert [len(part) for part in model.seen] == [2, 2, 2, 2]
    mean = float(batch.images.double().mean()) + 3.5
    assert float(losses["first"]) == pytest.approx(8 * mean)


def test_draws_are_a_function_of_seed_step_rank_and_micro_batch() -> None:
    def drawn(rank: int = 0, seed: int = 0, steps: tuple[int, ...] = (0, 1)) -> list[float]:
        made, model = learner(rank, accumulate=2, seed=seed)
        torch.rand(5)  # whatever happened before must not matter
        for step in steps:
            made.step(batches(1)[0], step)
        return model.drawn

    every = [*drawn(), *drawn(rank=1), *drawn(seed=1)]
    assert len(set(every)) == len(every) == 12
    assert drawn() == every[:4]
    assert drawn(steps=(1,)) == every[2:4]  # a step that comes first, as after a resumption


def test_average_is_lent_while_looked_at_and_left_at_the_end() -> None:
    made, model = learner(ema=0.9)
    made.step(batches(1)[0], 0)
    live = model.vector.detach().clone()
    average = 0.1 * 2.0 + 0.9 * live  # the decay of the first step is 1/10
    with made.averaged():
        assert model.vector.detach().tolist() == pytest.approx(average.tolist())
    assert torch.equal(model.vector, live)
    made.finish()
    assert model.vector.detach().tolist() == pytest.approx(average.tolist())


def test_batch_that_micro_batches_cannot_share_is_refused() -> None:
    config = loop_config(Path("unused"), batch_size=8, accumulate=4)
    with pytest.raises(UserError, match="cannot be shared by 4 processes with accumulate=4; use a multiple of 16"):
        GradientLearner(Slope(), config, World(0, 4, torch.device("cpu")))


def test_objective_is_compiled_where_asked_and_not_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []

    def instead(module: nn.Module, **_: Any) -> nn.Module:
        compiled.append(module)
        return module

    monkeypatch.setattr(torch, "compile", instead)
    learner()
    assert compiled == []
    _, model = learner(compile=True)
    assert compiled == [model]

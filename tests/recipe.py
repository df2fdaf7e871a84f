"""A whole run in small, and its recipe written out by hand: what the tests of the wiring are compared with.

Nothing here reads the engine: rates, order, optimizer and averages follow the documented formulas.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pretrain.ruler.restorers import FOR_DAMAGE, NON_LOCAL, Restorer, non_local_means

SIDE, IMAGES, BATCH, STEPS = 16, 40, 16, 8  # 40 images, 16 a batch: batches reach into the next epoch
DECAY, BETAS, WARMUP, CLIP = 0.4, (0.7, 0.9), 0.25, 0.5
OPTIM = {"weight_decay": DECAY, "betas": list(BETAS), "warmup": WARMUP, "clip": CLIP}
BASE_LR, EMA = 0.16, 0.2  # the average's decay is young for two steps, and 0.2 from then on
AUGMENT = {"crop": [0.3, 0.8], "flip": True, "jitter": 0.3}
NETWORK = {"name": "small_cnn", "model_args": {"width": 8, "depth": 1}}
RECIPE: dict[str, Any] = {  # of both stages that train by gradient
    "seed": 3,
    "batch_size": BATCH,
    "steps": STEPS,
    "base_lr": BASE_LR,
    "optim": OPTIM,
    "ema": EMA,
    "precision": "float32",
    "augment": AUGMENT,
    "log_every": 1,
    "checkpoint": {"every": 1000},
    "wandb": {"mode": "disabled"},
}
CHANGES: dict[str, dict[str, Any]] = {  # of the recipe, one setting at a time
    "base_lr": {"base_lr": 0.1},
    "weight_decay": {"optim": {**OPTIM, "weight_decay": 0.0}},
    "betas": {"optim": {**OPTIM, "betas": [0.9, 0.95]}},
    "warmup": {"optim": {**OPTIM, "warmup": 0.9}},
    "clip": {"optim": {**OPTIM, "clip": 0.0}},
    "ema": {"ema": 0.0},
    "seed": {"seed": 4},
    "whole": {"augment": {"crop": None, "flip": False}},
    "flip": {"augment": {"crop": None, "flip": True}},
}


def pretraining(out: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a pretraining of eight steps in which every part of the recipe is felt."""
    values: dict[str, Any] = {
        "out": str(out),
        "data": {"source": "shapes", "image_size": SIDE, "limit": IMAGES, "workers": 0},
        "encoder": NETWORK,
        "decoder": {"kind": "upsampler"},
        "pretext": {"kind": "denoise"},
        "panels_every": 1000,
    }
    return RECIPE | values | changes


@contextmanager
def near_means() -> Iterator[None]:
    """Non-local means look one pixel around with one strength: as they are, they take a third of a run of few steps."""
    near = Restorer(NON_LOCAL.name, lambda training: [partial(non_local_means, strength=0.8, reach=1)])
    with pytest.MonkeyPatch.context() as patch:
        for damage, some in FOR_DAMAGE.items():
            patch.setitem(FOR_DAMAGE, damage, tuple(near if one is NON_LOCAL else one for one in some))
        yield


@contextmanager
def few_patches() -> Iterator[None]:
    """Methods of patches look at fewer of them: small images have few that differ."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pretrain.linear.patch_dictionary.SAMPLE_PATCHES", 5000)
        yield


def assert_felt(start: Callable[[Path, dict[str, Any]], object], changes: Mapping[str, dict[str, Any]]) -> None:
    """Every change of the recipe gives other weights than the recipe, and than every other change.

    Args:
        start: trains with some settings in a folder of its own; the encoder is then in ``encoder/``.
    """
    found: dict[str, Tensor] = {}
    for name, change in {"as_it_is": {}, **changes}.items():
        with tempfile.TemporaryDirectory() as folder:
            start(Path(folder) / "run", change)
            found[name] = load_file(Path(folder) / "run" / "encoder" / "model.safetensors")["blocks.0.0.weight"]
    alike = [(a, b) for a, b in combinations(found, 2) if (found[a] - found[b]).abs().max() < 1e-5]
    assert alike == []


def logged(out: Path) -> list[dict[str, float]]:
    """What a run logged about its steps, except values that depend on the clock."""
    rows = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("images_per_second", "memory_gb")} for row in rows]


def last_checkpoint(out: Path) -> Path:
    return max((out / "checkpoints").iterdir(), key=lambda path: path.name)


def rows_of_batch(seed: int, length: int, batch: int, step: int) -> Tensor:
    """Position ``p = step * batch + j`` of the stream is row ``permutation(seed, p // N)[p % N]``."""
    places = range(step * batch, (step + 1) * batch)
    orders = {
        epoch: np.random.default_rng([seed, epoch]).permutation(length) for epoch in {p // length for p in places}
    }
    return torch.tensor([int(orders[p // length][p % length]) for p in places])


def rate_by_hand(step: int, steps: int, warm: int, peak: float) -> float:
    """Linear from ``peak / warm`` to ``peak`` in ``warm`` steps, then a half cosine that would reach 0 at ``steps``."""
    if step < warm:
        return peak * (step + 1) / warm
    return peak * math.cos(math.pi / 2 * (step - warm) / (steps - warm)) ** 2


class ByHand:
    """Plain AdamW, clipping and averages over a model, a step at a time.

    Args:
        scale: of each parameter's rate, by name; 1 by default.
    """

    def __init__(self, model: nn.Module, ema: float, scale: Callable[[str], float] = lambda name: 1.0) -> None:
        self.model, self.ema, self.scale = model.to(memory_format=torch.channels_last), ema, scale
        self.norms: list[float] = []
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        groups = [
            {"params": [p], "name": name, "weight_decay": DECAY if p.ndim >= 2 else 0.0}
            for name, p in self.trained.items()
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=BETAS, fused=False, foreach=False)
        self.averages = self._floats()

    def _floats(self) -> dict[str, Tensor]:
        return {name: t.detach().clone() for name, t in self.model.state_dict().items() if t.is_floating_point()}

    def step(self, step: int, losses: Iterable[Tensor], parts: int = 1) -> None:
        """``losses`` are those of the micro-batches, computed one after the other."""
        rate = rate_by_hand(step, STEPS, round(WARMUP * STEPS), BASE_LR * BATCH / 256)
        self.optimizer.zero_grad()
        for loss in losses:
            (loss / parts).backward()
        gradients = [p.grad for p in self.trained.values() if p.grad is not None]
        assert len(gradients) == len(self.trained)
        norm = torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt()
        self.norms.append(float(norm))
        for gradient in gradients:
            gradient.mul_(min(1.0, float(CLIP / norm)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.scale(group["name"])
        self.optimizer.step()
        decay = min(self.ema, (1 + step) / (10 + step))
        for name, tensor in self._floats().items():
            self.averages[name] = decay * self.averages[name] + (1 - decay) * tensor


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """The same names, and values that differ by rounding only: two orders below what any change of the recipe makes."""
    assert found.keys() == expected.keys()
    apart = {
        name: float(((found[name].double() - value.double()).abs() / (0.1 + value.double().abs())).max())
        for name, value in expected.items()
    }
    assert max(apart.values()) < 1e-4, sorted(apart.items(), key=lambda item: -item[1])[:3]


class Killed(BaseException):
    """Ends a run at once, like SIGKILL: nothing in the stage may catch it."""


def kill_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """The next training dies before AdamW's step number ``step``, counted from 0."""
    calls, real = iter(range(10**9)), torch.optim.AdamW.step

    def dying(self: torch.optim.AdamW, *given: Any, **named: Any) -> Any:
        if next(calls) == step:
            raise Killed
        return real(self, *given, **named)

    patch.setattr(torch.optim.AdamW, "step", dying)

"""Exponential moving average of weights and running statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Averages every floating-point parameter and buffer of a model, in float32, under the model's own names.

    The decay at step t is ``min(decay, (1 + t) / (10 + t))``: young averages forget their random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live = {
            name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if tensor.is_floating_point()
        }
        self.tensors = {name: tensor.detach().clone() for name, tensor in self.live.items()}

    def reset(self) -> None:
        """Start over from the live weights, where they were set after construction."""
        _copy(self.tensors, {name: tensor.detach() for name, tensor in self.live.items()})

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the live weights after optimizer step ``step`` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.tensors.values()), [tensor.detach() for tensor in self.live.values()], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model holds the averages; outside, its own weights again."""
        own = {name: tensor.detach().clone() for name, tensor in self.live.items()}
        _copy(self.live, self.tensors)
        try:
            yield
        finally:
            _copy(self.live, own)


@torch.no_grad()
def _copy(target: dict[str, Tensor], source: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])

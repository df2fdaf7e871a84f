"""What one step of the train loop does to a model: a gradient and AdamW, or a rule of its own.

The loop knows the order of the data, checkpoints, logging and signals; a learner knows how a batch changes the model
and which tensors it must have back to go on bit for bit.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.engine.checkpoint import copy_into, optimizer_tensors, restore_optimizer
from common.engine.ema import Ema
from common.machine.distributed import World
from common.machine.precision import autocast

Named = dict[str, Tensor]  # scalars by name


class Learner(ABC):
    """A model and the rule it learns by.

    Attributes:
        model: what is learned; its parameters and buffers are part of every checkpoint.
        uses_rate: whether it has a learning rate.
    """

    model: nn.Module
    uses_rate: ClassVar[bool] = False

    def begin(self) -> None:  # noqa: B027  a hook that may be left out
        """Called once, after a checkpoint was restored and before the first step."""

    @abstractmethod
    def step(self, examples: Iterable[Any], count: int, rate: float, step: int) -> tuple[Named, Named]:
        """Learn from ``count`` micro-batches, prepared as they are asked for.

        Args:
            rate: learning rate at this step, for those who use one.
            step: number of this step, from 0.

        Returns:
            Losses by name, which the loop adds up to ``loss``; and other numbers to log. Means over the micro-batches.
        """

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """Groups of tensors to be kept in a checkpoint."""
        return {"model": self.model.state_dict()}

    def restore(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put the tensors of a checkpoint back where ``tensors`` had them."""
        copy_into(self.model.state_dict(), groups["model"], "model")

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the model is as it would be exported."""
        return contextlib.nullcontext()

    def finish(self) -> None:  # noqa: B027  a hook that may be left out
        """Called once, after the last step: leave the model as it shall be exported."""


class GradientLearner(Learner):
    """Minimise the sum of ``model(example)``'s named losses by AdamW, with clipping, averages and several processes.

    Args:
        model: on its device; maps an example to a dict of scalar losses. Parameters that require a gradient get one.
        groups: AdamW parameter groups, each with an optional ``lr_scale``.
        rate, betas: of AdamW.
        clip: gradient norm that is not exceeded; 0 turns clipping off.
        ema: decay of the averaged weights that are exported; 0 turns it off.
        dtype: of autocast.
        compiled: use ``torch.compile``.
    """

    uses_rate: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[dict[str, Any]],
        world: World,
        *,
        rate: float,
        betas: tuple[float, float],
        clip: float,
        ema: float,
        dtype: torch.dtype,
        compiled: bool,
    ) -> None:
        self.model, self.world, self.clip, self.dtype, self.compiled = model, world, clip or math.inf, dtype, compiled
        self.optimizer = torch.optim.AdamW(list(groups), lr=rate, betas=betas, fused=True)
        self.ema = Ema(model, ema) if ema else None
        self._parallel: DistributedDataParallel | None = None
        self._objective: nn.Module = model

    def begin(self) -> None:
        device = self.world.device
        if self.world.size > 1:
            ids = [device] if device.type == "cuda" else None
            self._parallel = DistributedDataParallel(self.model, device_ids=ids)
            self._objective = self._parallel
        if self.compiled:
            self._objective = torch.compile(self._objective)  # type: ignore[assignment]

    def step(self, examples: Iterable[Any], count: int, rate: float, step: int) -> tuple[Named, Named]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        means: Named = {}
        for number, example in enumerate(examples):
            unsynced = self._parallel is not None and number < count - 1
            with self._parallel.no_sync() if self._parallel and unsynced else contextlib.nullcontext():
                with autocast(self.world.device, self.dtype):
                    losses = self._objective(example)
                torch.stack(list(losses.values())).sum().div(count).backward()  # type: ignore[no-untyped-call]
            for name, loss in losses.items():
                means[name] = means.get(name, 0.0) + loss.detach().double() / count
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update(step)
        return means, {"grad_norm": norm}

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        groups = {**super().tensors(), "optimizer": optimizer_tensors(self.optimizer, self.model)}
        return groups | ({"ema": self.ema.tensors} if self.ema else {})

    def restore(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        super().restore(groups)
        restore_optimizer(self.optimizer, self.model, groups["optimizer"])
        if self.ema:
            copy_into(self.ema.tensors, groups["ema"], "averaged weights")

    def averaged(self) -> AbstractContextManager[None]:
        return self.ema.applied() if self.ema else contextlib.nullcontext()

    def finish(self) -> None:
        if self.ema:
            live = {name: tensor.detach() for name, tensor in self.ema.live.items()}
            copy_into(live, self.ema.tensors, "averaged weights")


def weight_decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two AdamW groups: matrices and filters decay; biases, norms, tokens and positions do not."""
    names = decayed_names(model)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for name, parameter in trained if name in names], "weight_decay": weight_decay},
        {"params": [parameter for name, parameter in trained if name not in names], "weight_decay": 0.0},
    ]


def decayed_names(model: nn.Module) -> set[str]:
    """Names of the parameters to be decayed: all of two dimensions and more, but what a module keeps from it.

    A module says so as in timm: ``no_weight_decay()`` gives names of its own parameters, such as tokens and positions.
    """
    kept: set[str] = set()
    for place, module in model.named_modules():
        if names := getattr(module, "no_weight_decay", None):
            kept |= {f"{place}.{name}" if place else name for name in names()}
    return {name for name, parameter in model.named_parameters() if parameter.ndim >= 2} - kept

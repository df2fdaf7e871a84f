"""Learning by gradient: AdamW with warmup and cosine, clipping, averaged weights, micro-batches, several processes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NotRequired, TypedDict

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.data import Batch
from common.engine.checkpoint import copy_into, optimizer_tensors, restore_optimizer
from common.engine.learner import Learner, Named, StepResult
from common.engine.schedule import learning_rate, seed_step
from common.engine.settings import GradientConfig
from common.errors import UserError
from common.machine.distributed import World
from common.machine.layout import channels_last
from common.machine.precision import autocast, resolve_precision


class ParameterGroup(TypedDict):
    """Some parameters, and how AdamW treats them."""

    params: list[nn.Parameter]
    weight_decay: float
    lr_scale: NotRequired[float]  # their learning rate relative to the schedule's; 1 if it is not given


class GradientLearner(Learner):
    """Minimize the sum of an objective's named losses.

    Args:
        model: the objective. ``model(images)``, or ``model(images, labels)`` where there are labels, takes uint8
            ``[b 3 S S]`` on the device and returns a dict of scalar losses. Every parameter that requires a gradient
            gets one. Whatever it draws at random comes from torch's global generators, which are a function of
            (seed, step, rank, micro-batch) at each call.
        groups: AdamW's groups of parameters; by default ``weight_decay_groups``.

    Raises:
        UserError: the batch cannot be shared evenly by processes and micro-batches.
    """

    def __init__(
        self,
        model: nn.Module,
        config: GradientConfig,
        world: World,
        groups: Sequence[ParameterGroup] | None = None,
    ) -> None:
        check_shares(config, world)
        self.config, self.world = config, world
        self.dtype = resolve_precision(config.precision, world.device)
        channels_last(model, world.device)
        self.model = model
        groups = weight_decay_groups(model, config.optim.weight_decay) if groups is None else groups
        self.optimizer = torch.optim.AdamW(
            [{**group} for group in groups], lr=config.effective_lr, betas=config.optim.betas, fused=True
        )
        self.ema = Ema(model, config.ema) if config.ema else None
        self.steps = 0
        self._parallel: DistributedDataParallel | None = None
        self._objective: nn.Module = model

    @property
    def rule(self) -> str:
        config = self.config
        return (
            f"learning rate {config.effective_lr:.3g} (base_lr {config.base_lr:.3g} per 256 images), "
            f"{str(self.dtype).removeprefix('torch.')}"
        )

    @property
    def remedy(self) -> str:
        other = "" if self.dtype == torch.float32 else ", or set precision=float32"
        return f"lower base_lr (now {self.config.base_lr:g}){other}"

    def begin(self, steps: int) -> None:
        device = self.world.device
        self.steps = steps
        if self.world.size > 1:
            ids = [device] if device.type == "cuda" else None
            self._parallel = DistributedDataParallel(self.model, device_ids=ids)
            self._objective = self._parallel
        if self.config.compile:
            # random numbers as in eager mode: compiling changes the speed alone
            self._objective = torch.compile(self._objective, options={"fallback_random": True})  # type: ignore[assignment]

    def step(self, batch: Batch, step: int) -> StepResult:
        count = self.config.accumulate
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step) * group.get("lr_scale", 1.0)
        means: Named = {}
        for number, inputs in enumerate(_micro_batches(batch, count)):
            seed_step(self.config.seed, step, self.world.rank, number)
            unsynced = self._parallel is not None and number < count - 1
            with self._parallel.no_sync() if self._parallel and unsynced else contextlib.nullcontext():
                with autocast(self.world.device, self.dtype):
                    losses = self._objective(*(part.to(self.world.device, non_blocking=True) for part in inputs))
                torch.stack(list(losses.values())).sum().div(count).backward()  # type: ignore[no-untyped-call]
            for name, loss in losses.items():
                means[name] = means.get(name, 0.0) + loss.detach().double() / count
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip or math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update(step)
        return StepResult(means, {"grad_norm": norm})

    def rate(self, step: int) -> float:
        return learning_rate(step, self.steps, self.config.optim.warmup, self.config.effective_lr)

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


def check_shares(config: GradientConfig, world: World) -> None:
    """Refuse a batch that cannot be shared evenly by processes and micro-batches.

    Raises:
        UserError: says which numbers would work.
    """
    parts = world.size * config.accumulate
    if config.batch_size % parts:
        raise UserError(
            f"batch_size {config.batch_size} cannot be shared by {world.size} processes with "
            f"accumulate={config.accumulate}; use a multiple of {parts}"
        )


class Ema:
    """Averages every floating-point parameter and buffer of a model, in float32, under the model's own names.

    Those with infinite values, such as limits that are not set, have no average and stay as they are. The decay at
    step t is ``min(decay, (1 + t) / (10 + t))``: young averages forget their random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live = {
            name: tensor
            for name, tensor in model.state_dict(keep_vars=True).items()
            if tensor.is_floating_point() and bool(tensor.isfinite().all())
        }
        self.tensors = {name: tensor.detach().clone() for name, tensor in self.live.items()}

    def reset(self) -> None:
        """Start over from the live weights, if they were set after construction."""
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


def weight_decay_groups(model: nn.Module, weight_decay: float) -> list[ParameterGroup]:
    """Two AdamW groups: matrices and filters decay; biases, norms, tokens and positions do not."""
    names = decayed_names(model)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for name, parameter in trained if name in names], "weight_decay": weight_decay},
        {"params": [parameter for name, parameter in trained if name not in names], "weight_decay": 0.0},
    ]


def decayed_names(model: nn.Module) -> set[str]:
    """Names of the parameters that decay: all of two or more dimensions, except those that a module exempts.

    A module exempts parameters as in timm: ``no_weight_decay()`` gives names of its own, such as tokens and positions.
    """
    kept: set[str] = set()
    for place, module in model.named_modules():
        if names := getattr(module, "no_weight_decay", None):
            kept |= {f"{place}.{name}" if place else name for name in names()}
    return {name for name, parameter in model.named_parameters() if parameter.ndim >= 2} - kept


def _micro_batches(batch: Batch, parts: int) -> Iterator[tuple[Tensor, ...]]:
    """Equal slices of a batch: their images, and their labels if there are any."""
    images = batch.images.chunk(parts)
    labels = None if batch.labels is None else batch.labels.chunk(parts)
    for number in range(parts):
        yield (images[number],) if labels is None else (images[number], labels[number])

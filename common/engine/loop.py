"""The train loop, the same for pretraining and fine-tuning.

One progress number, the step: data order, augmentation, corruption, dropout and learning rate are functions of
(seed, step, rank). A run killed at any moment and resumed ends bit for bit like one never interrupted (same machine,
versions, thread count).
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import psutil
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from common.config import Config
from common.data import Batch, Loader
from common.engine.checkpoint import Checkpoint, copy_into, list_checkpoints, load_checkpoint, save_checkpoint
from common.engine.learner import GradientLearner, Learner, weight_decay_groups
from common.engine.progress import StepProgress
from common.engine.schedule import learning_rate, seed_step
from common.errors import UserError
from common.machine.cores import warn_of_busy_cores
from common.machine.precision import resolve_precision
from common.runs.folder import Run, StageConfig

log = logging.getLogger("retouch")


class OptimConfig(Config):
    """AdamW with linear warmup and a cosine to zero."""

    weight_decay: float = Field(default=0.05, ge=0)  # not on biases, norms, tokens and positions
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: float = Field(default=0.05, ge=0, lt=1)  # share of all steps
    clip: float = Field(default=1.0, ge=0)  # gradient norm; 0 turns clipping off


class CheckpointConfig(Config):
    """How often to save, in steps, and how many to keep."""

    every: int = Field(default=500, gt=0)
    keep: int = Field(default=2, gt=0)


class LoopConfig(StageConfig):
    """Settings of the loop, common to every stage that trains."""

    # checkpoints go first: while there is one, a run that is resumed needs the rest
    writes: ClassVar[tuple[str, ...]] = ("checkpoints", *StageConfig.writes)
    free_keys: ClassVar[frozenset[str]] = StageConfig.free_keys | {"log_seconds", "checkpoint"}

    steps: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    base_lr: float = Field(default=1e-3, gt=0)  # per 256 images; the effective rate is base_lr * batch_size / 256
    optim: OptimConfig = OptimConfig()
    ema: float = Field(default=0.998, ge=0, lt=1)  # decay of the averaged weights that are exported; 0 turns it off
    accumulate: int = Field(default=1, gt=0)  # micro-batches a step
    compile: bool = False
    checkpoint: CheckpointConfig = CheckpointConfig()
    log_every: int = Field(default=50, gt=0)  # steps between two lines of metrics.jsonl
    log_seconds: float = Field(default=5.0, gt=0)  # seconds between two plain progress lines where there is no terminal

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give steps or epochs, exactly one of them")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be cut into accumulate={self.accumulate} equal parts"
            )
        return self

    @property
    def effective_lr(self) -> float:
        """The learning rate at this batch size: ``base_lr`` is per 256 images."""
        return self.base_lr * self.batch_size / 256


@dataclass(frozen=True)
class Periodic:
    """Something to do every so many steps (and after the last), on rank 0, under the averaged weights in eval mode.

    ``call(step)`` returns metrics to log. With ``select``, the weights where that metric was highest are kept and
    are what ``train`` leaves in the model.
    """

    every: int
    call: Callable[[int], Mapping[str, float]]
    select: str | None = None


@dataclass(frozen=True)
class Trained:
    """How a training ended. ``finished`` is False after SIGTERM or Ctrl-C, when a checkpoint waits to be resumed."""

    step: int
    steps: int
    finished: bool
    seconds: float  # of training, over all resumptions
    best: float | None
    best_step: int | None


def train(
    model: nn.Module,
    prepare: Callable[[Batch], Any],
    loader: Loader,
    config: LoopConfig,
    run: Run,
    *,
    title: str,
    groups: Sequence[dict[str, Any]] | None = None,
    periodic: Sequence[Periodic] = (),
) -> Trained:
    """Minimise the sum of ``model(prepare(batch))``'s named losses; leave the averaged (or best) weights in ``model``.

    Args:
        model: maps a prepared batch to a dict of scalar losses; every parameter that requires a gradient gets one.
        prepare: uint8 batch -> what ``model`` takes, on the device; draws from torch's global generators.
        groups: AdamW parameter groups, each with an optional ``lr_scale``; by default ``weight_decay_groups``.

    Raises:
        UserError: the loss or the gradient is no longer a finite number, or a checkpoint does not fit model or images.
    """
    device = run.world.device
    dtype = resolve_precision(config.precision, device)
    model.to(device)
    model.to(memory_format=torch.channels_last)
    learner = GradientLearner(
        model,
        groups if groups is not None else weight_decay_groups(model, config.optim.weight_decay),
        run.world,
        rate=config.effective_lr,
        betas=config.optim.betas,
        clip=config.optim.clip,
        ema=config.ema,
        dtype=dtype,
        compiled=config.compile,
    )
    how = (
        f"learning rate {config.effective_lr:.3g} (base_lr {config.base_lr:.3g} per 256 images), "
        f"{str(dtype).removeprefix('torch.')}"
    )
    return learn(learner, prepare, loader, config, run, title=title, how=how, periodic=periodic)


def learn(
    learner: Learner,
    prepare: Callable[[Batch], Any],
    loader: Loader,
    config: LoopConfig,
    run: Run,
    *,
    title: str,
    how: str = "",
    periodic: Sequence[Periodic] = (),
) -> Trained:
    """The loop itself, whatever a step is: order, resumption, logging, checkpoints, signals.

    Args:
        learner: its model is on the device already.
        how: what to say of the rule it learns by.
    """
    world, model = run.world, learner.model
    device = world.device
    parts = world.size * config.accumulate
    if config.batch_size % parts:
        raise UserError(
            f"batch_size {config.batch_size} cannot be shared by {world.size} processes with "
            f"accumulate={config.accumulate}; use a multiple of {parts}"
        )
    steps = config.steps or math.ceil((config.epochs or 0) * loader.steps_per_epoch)

    # resume
    progress = _Progress()
    saved = list_checkpoints(run.checkpoints) if run.resumed else []
    if saved:
        checkpoint = load_checkpoint(saved[-1])
        _check_data(checkpoint.facts["data"], loader, saved[-1])
        progress = _restore(checkpoint, learner, device)
        log.info("resumed from step %d (%s)", progress.step, saved[-1])
    run.cut_back(progress.step)
    learner.begin()

    log.info(
        "%s: %d steps of %d images%s on %s%s",
        title, steps, config.batch_size, f", {how}" if how else "", device,
        f", {world.size} processes" if world.size > 1 else "",
    )  # fmt: skip

    if device.type == "cpu":
        warn_of_busy_cores()

    def save() -> None:
        if world.is_main:
            save_checkpoint(run.checkpoints, _snapshot(progress, learner, loader, run), config.checkpoint.keep)

    def act(task: Periodic, step: int) -> None:
        if world.is_main:
            model.eval()
            with learner.averaged(), torch.no_grad():
                metrics = task.call(step)
                if metrics:
                    run.log(metrics, step)
                if task.select and (progress.best is None or metrics[task.select] > progress.best):
                    progress.best, progress.best_step = metrics[task.select], step
                    progress.best_tensors = {
                        name: tensor.detach().clone() for name, tensor in model.state_dict().items()
                    }
            model.train()
        world.barrier()

    # the loop
    model.train()
    meter = _Meter(config.batch_size, progress.step)
    with (
        _Stop() as stop,
        StepProgress(title, steps, progress.step, seconds=config.log_seconds, enabled=world.is_main) as bar,
    ):
        for step, batch in zip(range(progress.step, steps), loader.stream(progress.step), strict=False):
            rate = learning_rate(step, steps, config.optim.warmup, config.effective_lr)
            losses, others = learner.step(
                _examples(batch, prepare, config, step, world.rank), config.accumulate, rate, step
            )
            progress.count(losses, others)
            progress.step = step + 1
            progress.window += 1
            last = progress.step == steps

            due = last or progress.step % config.log_every == 0
            saving = last or progress.step % config.checkpoint.every == 0
            # asking every process costs a collective, so several processes ask now and then
            stopping = world.any(stop.asked) if world.size == 1 or step % 8 == 0 else False
            acting = [task for task in periodic if last or progress.step % task.every == 0]
            if due or saving or stopping or acting:
                # the mean of all processes takes the place of each one's sums: rank 0 saves it, all go on from it
                progress.totals = {name: world.mean(total.clone()) for name, total in progress.totals.items()}
                means = {name: float(total / progress.window) for name, total in progress.totals.items()}
                loss = sum(means[name] for name in losses)
                # a gradient can be lost while the loss is not yet: the weights that it made must not be saved
                for name, value in {"loss": loss, **means}.items():
                    if not math.isfinite(value):
                        raise UserError(
                            f"the {name} is {value} at step {progress.step}: lower base_lr (now {config.base_lr:g}) or "
                            f"set precision=float32; checkpoints in {run.checkpoints} are from before"
                        )
                speed, memory = meter.read(progress, device)
                if due:
                    named = {f"loss/{name}" if name in losses else name: value for name, value in means.items()}
                    whole = {"loss": loss} if losses else {}
                    scheduled = {"lr": rate} if learner.uses_rate else {}
                    run.log(
                        {**whole, **named, **scheduled, "images_per_second": speed, "memory_gb": memory}, progress.step
                    )
                    progress.clear()
            if last or bar.waiting:
                now = float(sum(losses.values())) if losses else None
                bar.update(progress.step, now, meter.read(progress, device)[0])
            for task in acting:
                act(task, progress.step)
            if saving or stopping:
                meter.read(progress, device)
                save()
            if stopping and not last:
                log.info(
                    "stopped at step %d of %d with a checkpoint; run the same command with resume=true to go on",
                    progress.step,
                    steps,
                )
                return Trained(progress.step, steps, False, progress.seconds, progress.best, progress.best_step)

    # what the model is left with: the best weights, else the averages, else its own
    if progress.best_tensors:
        copy_into(model.state_dict(), progress.best_tensors, "best weights")
    else:
        learner.finish()
    return Trained(progress.step, steps, True, progress.seconds, progress.best, progress.best_step)


@dataclass
class _Progress:
    """What a checkpoint keeps beside tensors. ``totals`` are sums since the last logged line, in float64; in a
    checkpoint those of all processes, averaged."""

    step: int = 0
    seconds: float = 0.0
    window: int = 0
    best: float | None = None
    best_step: int | None = None
    best_tensors: dict[str, Tensor] | None = None

    def __post_init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def count(self, *numbers: Mapping[str, Tensor]) -> None:
        for name, value in (item for group in numbers for item in group.items()):
            value = value.detach().double()
            self.totals[name] = self.totals[name] + value if name in self.totals else value

    def clear(self) -> None:
        self.totals, self.window = {}, 0


class _Meter:
    """Images a second since the last reading, seconds of training, and memory."""

    def __init__(self, batch_size: int, step: int) -> None:
        self.batch_size, self.step, self.speed = batch_size, step, 0.0
        self.time = time.perf_counter()

    def read(self, progress: _Progress, device: torch.device) -> tuple[float, float]:
        now = time.perf_counter()
        if progress.step > self.step:
            self.speed = (progress.step - self.step) * self.batch_size / (now - self.time)
        progress.seconds += now - self.time
        self.time, self.step = now, progress.step
        held = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
        return self.speed, held / 1e9


class _Stop:
    """Turns the first SIGTERM or Ctrl-C into a wish to stop after this step; a second Ctrl-C interrupts as usual."""

    def __enter__(self) -> _Stop:
        self.asked = False
        self._old: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


def _examples(batch: Batch, prepare: Callable[[Batch], Any], config: LoopConfig, step: int, rank: int) -> Iterator[Any]:
    """Prepared micro-batches; the global generators are a function of (seed, step, rank, number) before each."""
    for number, micro in enumerate(_split(batch, config.accumulate)):
        seed_step(config.seed, step, rank, number)
        yield prepare(micro)


def _split(batch: Batch, parts: int) -> list[Batch]:
    """Cut a batch into equal micro-batches."""
    if parts == 1:
        return [batch]
    images, index = batch.images.chunk(parts), batch.index.chunk(parts)
    labels = [None] * parts if batch.labels is None else batch.labels.chunk(parts)
    return [Batch(*micro) for micro in zip(images, labels, index, strict=True)]


def _snapshot(progress: _Progress, learner: Learner, loader: Loader, run: Run) -> Checkpoint:
    tensors = learner.tensors() | ({"best": progress.best_tensors} if progress.best_tensors else {})
    facts = {
        "seconds": progress.seconds,
        "window": progress.window,
        "totals": {name: float(value) for name, value in progress.totals.items()},
        "best": progress.best,
        "best_step": progress.best_step,
        "data": loader.identity,
        "wandb_id": run.tracker.run_id if run.tracker else None,
    }
    return Checkpoint(progress.step, tensors, facts)


def _check_data(saved: Mapping[str, Any], loader: Loader, path: Path) -> None:
    """Refuse to go on with other images: the order of the rows would be another one."""
    found = loader.identity
    if found != saved:
        now = f"now {found['images']:,}" if found["images"] != saved["images"] else "now as many, but others"
        raise UserError(
            f"resume=true, but the training images differ from those of {path}: then {saved['images']:,}, {now}; bring "
            "them back, or start anew with overwrite=true"
        )


def _restore(checkpoint: Checkpoint, learner: Learner, device: torch.device) -> _Progress:
    tensors, facts = checkpoint.tensors, checkpoint.facts
    learner.restore(tensors)
    best = {name: tensor.to(device) for name, tensor in tensors["best"].items()} if "best" in tensors else None
    progress = _Progress(checkpoint.step, facts["seconds"], facts["window"], facts["best"], facts["best_step"], best)
    progress.totals = {
        name: torch.tensor(value, dtype=torch.float64, device=device) for name, value in facts["totals"].items()
    }
    return progress

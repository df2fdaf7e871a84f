"""The training loop, the same for pretraining and fine-tuning.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from common.data import Loader
from common.engine.checkpoint import Checkpoint, copy_into, list_checkpoints, load_checkpoint, save_checkpoint
from common.engine.learner import Learner
from common.engine.progress import StepProgress
from common.engine.settings import LoopConfig
from common.errors import UserError
from common.machine.cores import warn_of_busy_cores
from common.runs.folder import Run

log = logging.getLogger("retouch")


@dataclass(frozen=True)
class Periodic:
    """Something to do every so many steps, on rank 0, under the averaged weights in eval mode.

    ``call(step)`` returns metrics to log. With ``at_end`` it is done after the last step as well. With ``select``, the
    weights where that metric was highest are kept, and are what ``learn`` leaves in the model.
    """

    every: int
    call: Callable[[int], Mapping[str, float]]
    at_end: bool = True
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


def learn(
    learner: Learner,
    loader: Loader,
    config: LoopConfig,
    run: Run,
    *,
    title: str,
    periodic: Sequence[Periodic] = (),
) -> Trained:
    """Take all steps, and leave the averaged (or best) weights in the learner's model.

    Raises:
        UserError: a loss or gradient is no longer a finite number, or a checkpoint does not fit model or images.
    """
    world, model, device = run.world, learner.model, run.world.device
    steps = config.total_steps(loader.steps_per_epoch) if learner.streams else 0

    # start, or resume
    progress = _Progress()
    saved = list_checkpoints(run.checkpoints) if run.resumed else []
    if saved:
        checkpoint = load_checkpoint(saved[-1])
        _check_data(checkpoint.facts["data"], loader, saved[-1])
        progress = _restore(checkpoint, learner, device)
        log.info("resumed from step %d (%s)", progress.step, saved[-1])
    else:
        began = time.perf_counter()
        learner.start()
        progress.seconds = time.perf_counter() - began
    run.cut_back(progress.step)
    learner.begin(steps)

    if steps:
        rule = f", {learner.rule}" if learner.rule else ""
        processes = f", {world.size} processes" if world.size > 1 else ""
        log.info("%s: %d steps of %d images%s on %s%s", title, steps, config.batch_size, rule, device, processes)
        if device.type == "cpu":
            warn_of_busy_cores()

    def save() -> None:
        if world.is_main and run.recorded:
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
    shown = world.is_main and run.recorded and progress.step < steps
    model.train()
    meter = _Meter(config.batch_size, progress.step)
    with (
        _Stop(enabled=run.recorded) as stop,
        StepProgress(title, steps, progress.step, seconds=config.log_seconds, enabled=shown) as bar,
    ):
        for step, batch in zip(range(progress.step, steps), loader.stream(progress.step), strict=False):
            losses, numbers = learner.step(batch, step)
            progress.count(losses, numbers)
            progress.step = step + 1
            progress.window += 1
            last = progress.step == steps

            due = last or progress.step % config.log_every == 0
            saving = last or progress.step % config.checkpoint.every == 0
            # asking every process costs a collective, so several processes ask now and then
            stopping = world.any(stop.asked) if world.size == 1 or step % 8 == 0 else False
            acting = [task for task in periodic if (task.at_end if last else progress.step % task.every == 0)]
            if due or saving or stopping or acting:
                # the mean of all processes takes the place of each one's sums: rank 0 saves it, all go on from it
                progress.totals = {name: world.mean(total.clone()) for name, total in progress.totals.items()}
                means = {name: float(total / progress.window) for name, total in progress.totals.items()}
                loss = sum(means[name] for name in losses)
                # a gradient can be lost while the loss is not yet: the weights that it made must not be saved
                for name, value in {"loss": loss, **means}.items():
                    if not math.isfinite(value):
                        raise UserError(
                            f"the {name} is {value} at step {progress.step}: {learner.remedy}; checkpoints in "
                            f"{run.checkpoints} are from before"
                        )
                speed, memory = meter.read(progress, device)
                if due:
                    named = {f"loss/{name}" if name in losses else name: value for name, value in means.items()}
                    whole = {"loss": loss} if losses else {}
                    rate = learner.rate(step)
                    scheduled = {} if rate is None else {"lr": rate}
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

    def __init__(self, *, enabled: bool) -> None:
        self.asked, self.enabled = False, enabled
        self._old: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        if self.enabled and threading.current_thread() is threading.main_thread():
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

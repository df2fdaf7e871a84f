"""The training loop, the same for pretraining and fine-tuning.

One progress number, the step: data order, augmentation, corruption, dropout and learning rate are functions of
(seed, step, rank). A run killed at any moment and resumed ends bit for bit like one never interrupted (same machine,
versions, thread count).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from torch import Tensor

from common.data import Loader
from common.data.loader import Identity
from common.engine.checkpoint import (
    Checkpoint,
    TrainingState,
    check_fit,
    copy_into,
    list_checkpoints,
    load_checkpoint,
    restoring,
    save_checkpoint,
)
from common.engine.curve import Curve
from common.engine.learner import Learner, Named
from common.engine.progress import StepProgress
from common.engine.settings import LoopConfig
from common.engine.stopping import StopRequest
from common.errors import UserError
from common.machine.cores import warn_of_busy_cores
from common.machine.distributed import World
from common.runs.folder import Run
from common.words import counted

log = logging.getLogger("retouch")


@dataclass(frozen=True)
class Periodic:
    """A task that runs at regular intervals, on rank 0, with the averaged weights in eval mode.

    ``call(step)`` returns metrics to log. With ``at_end`` it is done after the last step as well. With ``select``, the
    weights where that metric was highest are kept, and are what ``learn`` leaves in the model. What ``call`` adds to
    ``curve`` is part of every checkpoint. Training ends after a call, as after its last step, once ``enough`` says so.
    """

    every: int
    call: Callable[[int], Mapping[str, float]]
    at_end: bool = True
    select: str | None = None
    curve: Curve | None = None
    enough: Callable[[], bool] | None = None


@dataclass(frozen=True)
class Trained:
    """How a training ended.

    ``finished`` is False after SIGTERM or Ctrl-C, even in the last step: a checkpoint waits to be resumed. It is True
    with ``step`` below ``steps`` if a periodic task found that it was enough, or training was to pause.
    """

    step: int
    steps: int
    finished: bool
    seconds: float  # training time, over all resumptions
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
    until: int | None = None,
    seconds: float | None = None,
) -> Trained:
    """Take all steps, and leave the averaged (or best) weights in the learner's model.

    Args:
        until: end after this step, if there are more. Rates, lines and measurements are those of a training that goes
            on, and so is the checkpoint: resumed from it, training ends bit for bit like one that was never paused.
        seconds: likewise, after the step that is done when training has taken so many, over all resumptions.

    Raises:
        UserError: a loss or gradient is no longer a finite number, or a checkpoint does not fit model or images.
    """
    world = run.world
    steps = config.total_steps(loader.steps_per_epoch) if learner.streams else 0
    progress = _start_or_resume(learner, loader, run, periodic)
    learner.begin(steps)
    if steps:
        _announce(title, steps, config, learner, world)

    learner.model.train()
    end = steps if until is None else min(until, steps)
    end = progress.step if _enough(periodic, world) else end  # a task had found it enough before the run was killed
    meter = _Meter(config.batch_size, progress.step)
    training = _Training(learner, loader, config, run, periodic, progress, meter, steps, end, seconds)
    end = progress.step if seconds and world.any(progress.step > 0 and training.timed_out) else end
    shown = world.is_main and run.recorded and progress.step < end
    with (
        StopRequest(enabled=run.recorded and steps > 0) as stop,
        StepProgress(title, steps, progress.step, seconds=config.log_seconds, enabled=shown) as bar,
    ):
        for step, batch in zip(range(progress.step, end), loader.stream(progress.step), strict=False):
            losses, numbers = learner.step(batch, step)
            progress.count(losses, numbers)
            due = training.due(step, stop)
            line = training.report(due, step, losses)
            if due.last or bar.waiting:
                training.show(bar, losses)
            for task in due.tasks:
                line |= _act(task, learner, progress, run)
            if line:
                run.log(line, progress.step)
            ending = due.pause or _enough(due.tasks, world)
            if due.save or due.stop or ending:
                training.save()
            if due.stop or ending:
                break

    # asked here again: the signal may have come in the last step, or while its weights were evaluated and saved
    if world.any(stop.asked):
        log.info("stopped at step %d of %d with a checkpoint", progress.step, steps)
        return progress.trained(steps, finished=False)
    training.leave_best()
    return progress.trained(steps, finished=True)


def _start_or_resume(learner: Learner, loader: Loader, run: Run, periodic: Sequence[Periodic]) -> _Progress:
    """From the run's last checkpoint, or from nothing."""
    saved = list_checkpoints(run.checkpoints) if run.resumed else []
    if saved:
        checkpoint = load_checkpoint(saved[-1])
        _check_data(checkpoint.state.data, loader.identity, saved[-1])
        with restoring(saved[-1]):
            progress = _restore(checkpoint, learner, run.world.device)
            curves = [task.curve for task in periodic if task.curve]
            for curve, points in zip(curves, checkpoint.state.curves, strict=True):
                curve.restore(points)
        log.info("resumed from step %d (%s)", progress.step, saved[-1])
    else:
        started = time.perf_counter()
        learner.start()
        progress = _Progress(seconds=time.perf_counter() - started)
    run.cut_back(progress.step)
    return progress


def _announce(title: str, steps: int, config: LoopConfig, learner: Learner, world: World) -> None:
    rule = f", {learner.rule}" if learner.rule else ""
    length, images = counted(steps, "step"), counted(config.batch_size, "image")
    processes = f", {world.size} processes" if world.size > 1 else ""
    log.info("%s: %s of %s%s on %s%s", title, length, images, rule, world.device, processes)
    if world.device.type == "cpu":
        warn_of_busy_cores()


class _Due(NamedTuple):
    """What there is to do after a step."""

    last: bool  # the step was the last of the whole training
    line: bool  # the means go to the metrics
    save: bool  # a checkpoint is written
    stop: bool  # a signal has asked for the end, or the time is up
    pause: bool  # training goes no further now
    tasks: Sequence[Periodic]


IDLE = _Due(last=False, line=False, save=False, stop=False, pause=False, tasks=())  # most steps: nothing to do


@dataclass(frozen=True)
class _Training:
    """What the steps of a training share."""

    learner: Learner
    loader: Loader
    config: LoopConfig
    run: Run
    periodic: Sequence[Periodic]
    progress: _Progress
    meter: _Meter
    steps: int  # of the whole training
    end: int  # the step after which it pauses at the latest
    seconds: float | None  # after which it pauses; None: whatever it takes

    @property
    def timed_out(self) -> bool:
        """Whether training has taken its time, as seen by this process."""
        return self.seconds is not None and self.progress.seconds + self.meter.unread >= self.seconds

    def due(self, step: int, stop: StopRequest) -> _Due:
        """What there is to do after ``step`` (counted from 0)."""
        config, world, done = self.config, self.run.world, self.progress.step
        last = done == self.steps
        # asking every process costs a collective, so several processes ask now and then
        stopping = world.any(stop.asked or self.timed_out) if world.size == 1 or step % 8 == 0 else False
        line = last or done % config.log_every == 0
        save = last or done % config.checkpoint.every == 0
        pause = done == self.end
        tasks = [task for task in self.periodic if (task.at_end if last else done % task.every == 0)]
        return _Due(last, line, save, stopping, pause, tasks) if line or save or stopping or pause or tasks else IDLE

    def report(self, due: _Due, step: int, losses: Named) -> dict[str, float]:
        """The line of metrics; empty if none is due.

        Raises:
            UserError: before anything is saved or shown, the mean of a number is not finite.
        """
        if due is IDLE:
            return {}
        learner, progress = self.learner, self.progress
        means = progress.means(self.run.world)
        # a gradient can be non-finite while the loss is still finite: its weights must not be saved
        whole = {"loss": sum(means[name] for name in losses), **means}
        _refuse_infinite(whole, progress.step, learner, self.run)
        speed, memory = self.meter.read(progress, self.run.world.device)
        if not due.line:
            return {}
        progress.clear()
        rate = learner.rate(step)
        scheduled = {} if rate is None else {"lr": rate}
        return {**_curves(means, losses), **scheduled, "images_per_second": speed, "memory_gb": memory}

    def show(self, bar: StepProgress, losses: Named) -> None:
        """Show the loss of this step and the speed to the user."""
        loss = float(sum(losses.values())) if losses else None
        speed, _ = self.meter.read(self.progress, self.run.world.device)
        bar.update(self.progress.step, loss, speed)

    def save(self) -> None:
        """Write a checkpoint on rank 0, if the run is recorded."""
        if not self.run.recorded:
            return
        self.meter.read(self.progress, self.run.world.device)
        if self.run.world.is_main:
            save_checkpoint(self.run.checkpoints, self._checkpoint(), self.config.checkpoint.keep)

    def _checkpoint(self) -> Checkpoint:
        progress = self.progress
        state = TrainingState(
            step=progress.step,
            seconds=progress.seconds,
            window=progress.window,
            totals={name: float(value) for name, value in progress.totals.items()},
            best=progress.best,
            best_step=progress.best_step,
            curves=tuple(tuple(task.curve.points) for task in self.periodic if task.curve),
            data=self.loader.identity,
            wandb_id=self.run.tracker.run_id,
        )
        best = {"best": progress.best_tensors} if progress.best_tensors else {}
        return Checkpoint(state, self.learner.tensors() | best)

    def leave_best(self) -> None:
        """Leave the best weights in the model, else the averages, else its own."""
        if self.progress.best_tensors:
            copy_into(self.learner.model.state_dict(), self.progress.best_tensors, "best weights")
        else:
            self.learner.finish()


def _act(task: Periodic, learner: Learner, progress: _Progress, run: Run) -> Mapping[str, float]:
    """Do a periodic task on rank 0, and keep the weights if they are the best so far; the others wait.

    Returns its metrics; none on other ranks.
    """
    model, metrics = learner.model, dict[str, float]()
    if run.world.is_main:
        model.eval()
        with learner.averaged(), torch.no_grad():
            metrics = dict(task.call(progress.step))
            if task.select and (progress.best is None or metrics[task.select] > progress.best):
                progress.best, progress.best_step = metrics[task.select], progress.step
                progress.best_tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model.train()
    run.world.barrier()
    return metrics


def _enough(tasks: Sequence[Periodic], world: World) -> bool:
    """Whether one of these tasks says that training may end, in all processes alike."""
    asked = [task.enough for task in tasks if task.enough]
    return world.any(any(enough() for enough in asked)) if asked else False


def _refuse_infinite(means: Mapping[str, float], step: int, learner: Learner, run: Run) -> None:
    for name, value in means.items():
        if not math.isfinite(value):
            saved = list_checkpoints(run.checkpoints) if run.recorded else []
            before = f"; the last good checkpoint is {saved[-1]}" if saved else ""
            raise UserError(f"the {name} is {value} at step {step}: {learner.remedy}{before}")


def _curves(means: Mapping[str, float], losses: Mapping[str, Tensor]) -> dict[str, float]:
    """Means under the names of the curves: ``loss`` and its parts, ``loss/restore``; then other numbers."""
    whole = {"loss": sum(means[name] for name in losses)} if losses else {}
    return {**whole, **{f"loss/{name}" if name in losses else name: value for name, value in means.items()}}


@dataclass
class _Progress:
    """Progress that a checkpoint keeps in addition to tensors.

    ``totals`` are sums since the last logged line, in float64; in a checkpoint, their mean over all processes.
    """

    step: int = 0
    seconds: float = 0.0
    window: int = 0
    best: float | None = None
    best_step: int | None = None
    best_tensors: dict[str, Tensor] | None = None

    def __post_init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def count(self, *numbers: Mapping[str, Tensor]) -> None:
        """One step is done, and reported these numbers."""
        self.step += 1
        self.window += 1
        for group in numbers:
            for name, value in group.items():
                value = value.detach().double()
                self.totals[name] = self.totals[name] + value if name in self.totals else value

    def means(self, world: World) -> dict[str, float]:
        """Per step since the last logged line. The mean of all processes takes the place of each one's sums, so that
        rank 0 saves it and all continue from it."""
        self.totals = {name: world.mean(total.clone()) for name, total in self.totals.items()}
        return {name: float(total / self.window) for name, total in self.totals.items()}

    def clear(self) -> None:
        """A line was logged."""
        self.totals, self.window = {}, 0

    def trained(self, steps: int, *, finished: bool) -> Trained:
        """How training ended."""
        return Trained(self.step, steps, finished, self.seconds, self.best, self.best_step)


class _Meter:
    """Images per second since the last reading, seconds of training, and memory."""

    def __init__(self, batch_size: int, step: int) -> None:
        self.batch_size, self.step, self.speed = batch_size, step, 0.0
        self.time = time.perf_counter()

    @property
    def unread(self) -> float:
        """Seconds since the last reading."""
        return time.perf_counter() - self.time

    def read(self, progress: _Progress, device: torch.device) -> tuple[float, float]:
        now = time.perf_counter()
        if progress.step > self.step:
            self.speed = (progress.step - self.step) * self.batch_size / (now - self.time)
        progress.seconds += now - self.time
        self.time, self.step = now, progress.step
        held = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
        return self.speed, held / 1e9


def _check_data(then: Identity, now: Identity, path: Path) -> None:
    """Refuse to continue with different images: the order of the rows would differ."""
    if then != now:
        count = f"now {now.images:,}" if now.images != then.images else "now the same number of others"
        raise UserError(
            f"resume=true, but the training images differ from those of {path}: then {then.images:,}, {count}; "
            "restore them, or start over with overwrite=true"
        )


def _restore(checkpoint: Checkpoint, learner: Learner, device: torch.device) -> _Progress:
    tensors, state = checkpoint.tensors, checkpoint.state
    learner.restore(tensors)
    best = {name: tensor.to(device) for name, tensor in tensors["best"].items()} if "best" in tensors else None
    if best is not None:
        check_fit(learner.model.state_dict(), best, "best weights")
    if (best is None) != (state.best is None):
        raise ValueError("its best weights are not those of its best score")
    progress = _Progress(state.step, state.seconds, state.window, state.best, state.best_step, best)
    progress.totals = {
        name: torch.tensor(value, dtype=torch.float64, device=device) for name, value in state.totals.items()
    }
    return progress

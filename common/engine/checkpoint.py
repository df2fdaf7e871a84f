"""Checkpoints: everything a run needs to continue bit for bit, as safetensors and JSON, written atomically."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from common.data.loader import Identity
from common.errors import UserError, one_line
from common.files import new_folder, remove_folder, write_json
from common.runs.results import Record, validation_problems

STATE = "state.json"
ADAMW = ("exp_avg", "exp_avg_sq", "step")  # its state per parameter


class TrainingState(Record):
    """What a run needs, in addition to tensors, to continue.

    Attributes:
        step: the steps that are done.
        seconds: training time so far, over all resumptions.
        window: the steps since the last line of metrics.
        totals: each reported number, summed over these steps; the mean over all processes.
        best, best_step: the best score of a periodic task, and its step; None if no task selects.
        curves: the ``(step, value)`` points of each curve that a periodic task follows, in the order of the tasks.
        data: identifies the training images and their order.
        wandb_id: id of the W&B run; None if there is none.
    """

    step: int
    seconds: float
    window: int
    totals: dict[str, float]
    best: float | None
    best_step: int | None
    curves: tuple[tuple[tuple[int, float], ...], ...]
    data: Identity
    wandb_id: str | None


@dataclass(frozen=True)
class Checkpoint:
    """A run after some of its steps. ``tensors`` has groups: model, ema, optimizer, and best if there is one."""

    state: TrainingState
    tensors: Mapping[str, Mapping[str, Tensor]]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write ``folder/step-NNNNNNN`` and remove all but the last ``keep``. A kill leaves the older ones intact."""
    path = folder / f"step-{checkpoint.state.step:07d}"
    with new_folder(path) as unfinished:
        for group, tensors in checkpoint.tensors.items():
            # safetensors stores contiguous tensors; copy_into restores each parameter's memory format
            save_file(
                {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
                unfinished / f"{group}.safetensors",
            )
        write_json(
            unfinished / STATE, {"groups": sorted(checkpoint.tensors), **checkpoint.state.model_dump(mode="json")}
        )
    for old in list_checkpoints(folder)[:-keep]:
        remove_folder(old)
    return path


def keep_final(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Replace the tensors of a finished run's last checkpoint, if there is one, and remove the ones before it.

    A kill leaves a checkpoint that can be resumed.
    """
    saved = list_checkpoints(folder)
    if saved:
        values = json.loads((saved[-1] / STATE).read_text(encoding="utf-8"))
        del values["groups"]
        save_checkpoint(folder, Checkpoint(TrainingState.model_validate(values), tensors), keep=1)


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first. A folder under its final name is always complete."""
    complete = (path for path in folder.glob("step-*") if (path / STATE).is_file())
    return sorted((path for path in complete if _step(path).isdecimal()), key=lambda path: int(_step(path)))


def _step(path: Path) -> str:
    return path.name.removeprefix("step-")


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint back.

    Raises:
        UserError: a file of it is missing or damaged, or another version wrote it; says what to do.
    """
    try:
        values = json.loads((path / STATE).read_text(encoding="utf-8"))
        tensors = {group: load_file(path / f"{group}.safetensors") for group in values.pop("groups")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(
            f"checkpoint {path} is damaged ({one_line(error)}); remove that folder to resume from the one before it"
        ) from None
    with restoring(path):
        return Checkpoint(TrainingState.model_validate(values), tensors)


@contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Inside, an error about what does not fit this run names the checkpoint at ``path`` and says what to do.

    Raises:
        UserError: a state lacks something, or has other names, shapes or types than this run.
    """
    try:
        yield
    except (UserError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"resume=true, but checkpoint {path} cannot be resumed: {_reason(error)}; another version or another run "
            "wrote it: use the Retouch that wrote it, or start over with overwrite=true or another out"
        ) from None


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return f"{STATE}: {', '.join(validation_problems(error))}"
    return f"it lacks {error.args[0]}" if isinstance(error, KeyError) else one_line(error)


def check_fit(target: Mapping[str, Tensor], source: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors of other names, shapes or types.

    Raises:
        UserError: names the first of them.
    """
    wrong = [*sorted(target.keys() - source.keys()), *sorted(source.keys() - target.keys())]
    for name in sorted(target.keys() & source.keys()):
        if (target[name].shape, target[name].dtype) != (source[name].shape, source[name].dtype):
            wrong.append(name)
    if wrong:
        raise UserError(f"its {what} does not fit this run (first: {wrong[0]})")


def copy_into(target: Mapping[str, Tensor], source: Mapping[str, Tensor], what: str) -> None:
    """Copy by name into existing tensors, so that each keeps its memory format and device.

    Fused AdamW on CPU is silently wrong if its state is contiguous while its parameters are channels_last.

    Raises:
        UserError: as ``check_fit``; nothing is copied.
    """
    check_fit(target, source, what)
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(source[name])


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state under its parameters' names: ``exp_avg/encoder.stem.weight``."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{key}/{names[parameter]}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Restore the AdamW state of each parameter, in that parameter's memory format.

    Raises:
        UserError: some of it is missing or has another shape, or belongs to no parameter that this optimizer has.
    """
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    count = torch.zeros(())  # AdamW counts the steps of each parameter, in float32
    expected = {
        f"{kind}/{name}": count if kind == "step" else value
        for name, value in parameters.items()
        if value in trained
        for kind in ADAMW
    }
    check_fit(expected, saved, "optimizer")
    for key, value in saved.items():
        kind, _, name = key.partition("/")
        parameter = parameters[name]
        if value.shape == parameter.shape:
            state = torch.empty_like(parameter, dtype=value.dtype, memory_format=torch.preserve_format).copy_(value)
        else:
            state = value.clone()  # the step count, a scalar that AdamW keeps on the CPU unless it is fused on a GPU
            fused = any(group.get("fused") for group in optimizer.param_groups)
            state = state.to(parameter.device) if fused else state
        optimizer.state[parameter][kind] = state

"""Batches that cannot fit in memory are refused before anything is decoded or written."""

from __future__ import annotations

import torch

from common.errors import UserError
from common.machine.distributed import World
from common.machine.memory import available_memory, readable_size
from common.machine.started import started


def check_training_batch(batch_size: int, image_size: int, here: World, accumulate: int = 1) -> None:
    """Refuse a batch of training whose images alone do not fit in the free memory of this machine.

    Args:
        batch_size: over all processes and micro-batches.
        accumulate: micro-batches; one at a time is computed with.

    Raises:
        UserError: says what it takes, what is free, and what would fit.
    """
    held = batch_size * min(started().local_size, here.size) // here.size
    _check(batch_size, held, held // accumulate, image_size, here.device)


def check_pass_batch(batch_size: int, images: int, image_size: int, here: World) -> None:
    """Refuse a batch of a pass over ``images`` images, in each process, as ``check_training_batch`` does."""
    batch_size = min(batch_size, images)
    held = batch_size * min(started().local_size, here.size)
    _check(batch_size, held, held, image_size, here.device)


def _check(batch_size: int, decoded: int, computed: int, image_size: int, device: torch.device) -> None:
    """``decoded`` images are held here at once as uint8, ``computed`` of them also as float32, on the device."""
    floats = computed if device.type == "cpu" else 0
    need, free = (decoded + 4 * floats) * 3 * image_size**2, available_memory()
    if need > free:
        raise UserError(
            f"batch_size: the images of a batch of {batch_size:,} at {image_size} px take {readable_size(need)} of "
            f"memory, but only {readable_size(free)} is free; set batch_size to at most "
            f"{max(int(batch_size * free / need), 1):,}, or lower data.image_size"
        )

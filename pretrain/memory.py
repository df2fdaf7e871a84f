"""Fitting on images in memory: the learner and loop of the stage, without a run folder."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from common.augment import WHOLE
from common.config import validate
from common.data import Loader
from common.data.memory import images_in_memory
from common.encoders import Encoder
from common.engine.loop import learn
from common.engine.settings import LoopConfig
from common.errors import UserError
from common.machine.distributed import World
from common.runs.memory import MemoryRun
from pretrain.linear.base import LinearMethod

log = logging.getLogger("retouch")


def fit(
    method: LinearMethod,
    images: Tensor,
    other: Tensor | None = None,
    *,
    steps: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
) -> Encoder:
    """Fit an encoder on images in memory: bit for bit what ``pretrain`` exports for the same images and seed.

    The caller's random generators do not change. ``retouch.fit`` describes the arguments, the result and the errors.
    """
    if not isinstance(method, LinearMethod):
        raise UserError(f"fit takes a method of the linear family, or a mapping with its kind, not {method!r}")
    if problems := _unfit("images", images) + ([] if other is None else _unfit("other", other)):
        raise UserError(*problems)
    side, device = images.shape[3] // method.loaded_size(1), images.device  # side of the encoder's images
    if problems := _problems(method, images, other, steps, batch_size, side):
        raise UserError(*problems)
    here = World(0, 1, device)
    loop = validate(
        LoopConfig, {"seed": seed, "batch_size": batch_size, "steps": steps, "epochs": 1 if steps is None else None}
    )
    sets = [images_in_memory(part.detach().float().cpu()) for part in (images, other) if part is not None]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        learner = method.build(side, WHOLE, here, seed)
        learner.attach(*sets)
        loader = Loader(sets[0], batch_size=batch_size, seed=seed)
        learn(learner, loader, loop, MemoryRun(here), title=f"fit {method.title}")
        for note in learner.notes(learner.sample(sets[0])):
            log.warning("%s", note)
    return learner.encoder.freeze()


def _problems(
    method: LinearMethod, images: Tensor, other: Tensor | None, steps: int | None, batch_size: int, side: int
) -> list[str]:
    problems = method.check_second(other is not None, "other")
    count = len(images)
    if side * method.loaded_size(1) != images.shape[3]:
        problems.append(f"images are cut into neighbors: their side must be even, not {images.shape[3]}")
    if other is not None and other.shape[1:] != images.shape[1:]:
        problems.append(f"other {list(other.shape)} and images {list(images.shape)} must have the same image size")
    if other is not None and method.second == "view" and len(other) != count:
        problems.append(f"{method.key} pairs images by row, but images has {count:,} rows and other has {len(other):,}")
    if steps is not None and method.fixed_length:
        problems.append(f"{method.fixed_length}: remove steps")
    if (steps is not None and steps < 1) or batch_size < 1:
        problems.append(f"steps and batch_size must be positive, got {steps} and {batch_size}")
    return problems + method.check(side, count if other is None else min(count, len(other)))


def _unfit(name: str, images: Tensor) -> list[str]:
    if not isinstance(images, Tensor):
        return [f"{name} must be a torch tensor [N 3 S S], not {type(images).__name__}"]
    shape = list(images.shape)
    if images.ndim != 4 or shape[1] != 3 or shape[2] != shape[3] or 0 in shape:
        return [f"{name} must be [N 3 S S], got {shape}"]
    if not images.is_floating_point() or not bool(((images >= 0) & (images <= 1)).all()):
        return [f"{name} must be floating-point RGB in [0, 1] (uint8: divide by 255)"]
    return []

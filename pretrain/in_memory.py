"""Learning from images in memory: the learner and loop of the stage, without a run folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from common.augment import WHOLE, AugmentConfig
from common.config import validate
from common.data import Loader
from common.data.memory import images_in_memory
from common.encoders import Encoder
from common.encoders.export import clean_copy
from common.engine.loop import learn
from common.engine.settings import LoopConfig
from common.errors import UserError
from common.machine.distributed import World
from common.machine.room import check_training_batch
from common.runs.memory import MemoryRun
from pretrain.config import PretrainConfig
from pretrain.linear.base import LinearMethod
from pretrain.method import Method
from pretrain.sample import sample

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
    """Fit a method of the linear family as it is, without a recipe. ``retouch.fit`` describes the arguments."""
    if problems := _unfit(images, other) or _mismatch(method, images, other, _length(method, steps, batch_size)):
        raise UserError(*problems)
    length = {"steps": steps, "epochs": 1 if steps is None else None}
    loop = validate(LoopConfig, {"seed": seed, "batch_size": batch_size, **length})
    return _learned(method, loop, WHOLE, images, other)


def fit_recipe(config: PretrainConfig, images: Tensor, other: Tensor | None = None) -> Encoder:
    """Learn as the stage does with these settings, whatever data they name."""
    if problems := _unfit(images, other) or _mismatch(config.method, images, other):
        raise UserError(*problems)
    return _learned(config.method, config, config.augment, images, other)


def _learned(method: Method, loop: LoopConfig, augment: AugmentConfig, images: Tensor, other: Tensor | None) -> Encoder:
    """On the CPU, bit for bit what ``pretrain`` exports. The caller's random generators do not change."""
    side, device = images.shape[3] // method.loaded_size(1), images.device  # side of the encoder's images
    here = World(0, 1, device)
    sets = [images_in_memory(part.detach().float().cpu()) for part in (images, other) if part is not None]
    if method.streams:
        check_training_batch(loop.batch_size, side, here)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        learner = method.build(side, augment, here, loop.seed)
        learner.attach(*sets)
        loader = Loader(learner.images, batch_size=loop.batch_size, seed=loop.seed)
        stop = learner.stop
        learn(
            learner,
            loader,
            loop,
            MemoryRun(here),
            title=f"fit {method.title}",
            until=stop.at,
            seconds=stop.after,
        )
        learner.model.eval()
        for note in learner.notes(sample(learner.images, size=side)):
            log.warning("%s", note)
    return clean_copy(learner.encoder).to(device).freeze()


def _length(method: Method, steps: int | None, batch_size: int) -> list[str]:
    problems = [f"{method.fixed_length}: remove steps"] if steps is not None and method.fixed_length else []
    if (steps is not None and steps < 1) or batch_size < 1:
        problems.append(f"steps and batch_size must be positive, got {steps} and {batch_size}")
    return problems


def _mismatch(method: Method, images: Tensor, other: Tensor | None, length: Sequence[str] = ()) -> list[str]:
    """Why the images do not fit the method, with the problems of its length."""
    problems = method.check_second(other is not None, "other")
    count, side = len(images), images.shape[3] // method.loaded_size(1)
    if side * method.loaded_size(1) != images.shape[3]:
        problems.append(f"images are cut into neighbors: their side must be even, not {images.shape[3]}")
    if other is not None and other.shape[1:] != images.shape[1:]:
        problems.append(f"other {list(other.shape)} and images {list(images.shape)} must have the same image size")
    if other is not None and method.second == "view" and len(other) != count:
        problems.append(f"{method.key} pairs images by row, but images has {count:,} rows and other has {len(other):,}")
    return [*problems, *length, *method.check(side, count if other is None else min(count, len(other)))]


def _unfit(images: Tensor, other: Tensor | None) -> list[str]:
    given = {"images": images} if other is None else {"images": images, "other": other}
    return [problem for name, one in given.items() for problem in _not_images(name, one)]


def _not_images(name: str, images: Tensor) -> list[str]:
    if not isinstance(images, Tensor):
        return [f"{name} must be a torch tensor [N 3 S S], not {type(images).__name__}"]
    shape = list(images.shape)
    if images.ndim != 4 or shape[1] != 3 or shape[2] != shape[3] or 0 in shape:
        return [f"{name} must be [N 3 S S], got {shape}"]
    if not images.is_floating_point() or not bool(((images >= 0) & (images <= 1)).all()):
        return [f"{name} must be floating-point RGB in [0, 1] (uint8: divide by 255)"]
    return []

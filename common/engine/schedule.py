"""Learning rate and random state as functions of the step."""

from __future__ import annotations

import math

import numpy as np
import torch


def learning_rate(step: int, steps: int, warmup: float, peak: float) -> float:
    """Linear warmup over the first ``warmup`` share of ``steps``, then a half cosine to zero. Steps count from 0."""
    warm = max(1, round(warmup * steps)) if warmup > 0 else 0
    if step < warm:
        return peak * (step + 1) / warm
    return 0.5 * peak * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def seed_step(seed: int, step: int, rank: int = 0, micro: int = 0) -> None:
    """Seed torch's global generators, CPU and accelerator, from the position in training.

    Augmentation, corruption and dropout draw from them, so a resumed run draws what an uninterrupted one would.
    """
    torch.manual_seed(position_seed(seed, step, rank, micro))


def position_seed(seed: int, step: int, rank: int = 0, micro: int = 0) -> int:
    """The seed of torch's generators at a position in training; at step 0 it is that of the first weights."""
    state = np.random.SeedSequence((seed, step, rank, micro)).generate_state(2, np.uint32)
    return int(state[0]) << 31 ^ int(state[1])

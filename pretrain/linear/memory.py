"""Fitting the linear family on tensors: no run folder, no checkpoints, the same learners."""

from __future__ import annotations

from functools import lru_cache, partial

import torch
from torch import Tensor

from common.data.loader import permutation, positions
from common.encoders import Encoder
from common.engine.schedule import seed_step
from common.errors import UserError
from pretrain.linear.base import Fit
from pretrain.linear.projections import Cca
from pretrain.linear.transfer import Tca, second_domain


@torch.no_grad()
def fit(
    config: Fit,
    images: Tensor,
    other: Tensor | None = None,
    *,
    steps: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
) -> Encoder:
    """Fit an encoder on images in memory: what ``pretrain`` would export of the same images and seed, bit for bit.

    The caller's random generators are left as they were.

    Args:
        config: the method, such as ``Pca(components=16)``.
        images: ``[N 3 S S]``, RGB in [0, 1]; for CCA of ``neighbours`` their side is twice the encoder's.
        other: CCA's second view with ``views="other"``, row by row, or TCA's second domain ``[M 3 S S]``.
        steps: batches a streaming method learns from; one pass by default. Methods of one pass, or of one sample, have
            no choice.

    Returns:
        The encoder, frozen and in eval mode, on the device of ``images``.

    Raises:
        UserError: with every problem of the settings and the images.
    """
    if problems := _unfit("images", images) + ([] if other is None else _unfit("other", other)):
        raise UserError(*problems)
    side, device = images.shape[3] // config.loaded_size(1), images.device  # side of the encoder's images
    if problems := _problems(config, images, other, steps, batch_size, side):
        raise UserError(*problems)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        seed_step(seed, 0)
        encoder = config.build(side)
        learner = config.learner(encoder, seed, len(images))
        learner.to(device)
        sample = images[config.sample_rows(len(images), seed).to(device)].float()[:, :, :side, :side]
        domain = sample if other is None else other[config.sample_rows(len(other), seed).to(device)].float()
        learner.start(sample, second_domain(config, domain, seed))
        if config.streams:
            order = lru_cache(maxsize=2)(partial(permutation, seed, len(images)))
            for step in range(steps or -(-len(images) // batch_size)):
                rows = positions(order, len(images), step * batch_size, batch_size).to(device)
                batch = images[rows].float()
                if other is not None:
                    batch = torch.cat([batch, other[rows].float()], dim=1)
                seed_step(seed, step)
                learner.step([batch], 1, 0.0, step)
            learner.finish()
    return encoder.freeze()


def _problems(
    config: Fit, images: Tensor, other: Tensor | None, steps: int | None, batch_size: int, side: int
) -> list[str]:
    problems = []
    pairs, count = isinstance(config, Cca) and config.views == "other", len(images)
    if side * config.loaded_size(1) != images.shape[3]:
        problems.append(f"images are cut into neighbours: their side must be even, not {images.shape[3]}")
    if other is None and pairs:
        problems.append("fit.views=other needs other, the second view")
    if other is None and isinstance(config, Tca) and config.damage is None:
        problems.append("fit.kind=tca needs a second domain: other, or fit.damage of the first")
    if other is not None and not pairs and not isinstance(config, Tca):
        problems.append(f"other is of no use to fit.kind={config.kind} here: leave it out")
    if other is not None and other.shape[1:] != images.shape[1:]:
        problems.append(f"other {list(other.shape)} and images {list(images.shape)} must be of one size")
    if other is not None and pairs and len(other) != count:
        problems.append(f"fit.views=other pairs rows, but images has {count:,} and other {len(other):,}")
    if steps is not None and (config.one_pass or not config.streams):
        how = "sees every image once" if config.one_pass else "is fitted on one sample"
        problems.append(f"{config.title} {how}: leave out steps")
    if (steps is not None and steps < 1) or batch_size < 1:
        problems.append(f"steps and batch_size must be positive, not {steps} and {batch_size}")
    return problems + config.check(side, count if other is None else min(count, len(other)))


def _unfit(name: str, images: Tensor) -> list[str]:
    shape = list(images.shape)
    if images.ndim != 4 or shape[1] != 3 or shape[2] != shape[3] or 0 in shape:
        return [f"{name} must be [N 3 S S], not {shape}"]
    if not images.is_floating_point() or not bool(((images >= 0) & (images <= 1)).all()):
        return [f"{name} must be RGB in [0, 1], floating point (uint8: divide by 255)"]
    return []

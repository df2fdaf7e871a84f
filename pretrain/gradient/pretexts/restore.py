"""The base of all pretexts whose target is the whole clean image."""

from __future__ import annotations

import math
from abc import ABC
from typing import Literal

import torch
from torch import Tensor

from common.errors import UserError
from pretrain.gradient.example import Example
from pretrain.gradient.pretexts.base import Pretext, State

Distance = Literal["l2", "l1", "whitened", "squared"]


class Restore(Pretext, ABC):
    """Target: the clean image ``[B 3 H W]`` in [0, 1]; subclasses choose the damage."""

    distance: Distance = "l2"
    """l2, l1, squared (l2 summed over an image), or whitened: every frequency counts equally, not only the low
    ones that have most of the variance."""

    def blank_state(self, image_size: int) -> dict[str, Tensor]:
        return {"spectrum": torch.ones(3, image_size, image_size)} if self.distance == "whitened" else {}

    def fit(self, images: Tensor) -> dict[str, Tensor]:
        return {"spectrum": fit_spectrum(images)} if self.distance == "whitened" else {}

    def score(self, prediction: Tensor, example: Example, state: State) -> Tensor:
        return error(self.distance, prediction, example.target.float(), state.get("spectrum")).mean((1, 2, 3))

    def picture(self, prediction: Tensor, example: Example, state: State) -> Tensor:
        return prediction.float().clamp(0, 1)


# ---- distances


# Added to every variance, relative to the mean variance. Most coefficients of an image are high-frequency, weak and
# unpredictable: fully whitened (1e-3), they dominate all others, and a small network only predicts the mean image.
FLOOR = 0.1
ALIKE = 1e-12  # mean variance below which images in [0, 1] differ only by rounding


def error(distance: Distance, prediction: Tensor, target: Tensor, spectrum: Tensor | None) -> Tensor:
    """Error of every pixel or coefficient, same shape as its inputs ``[B 3 S S]``; its mean is the distance.

    ``l2``: ``(p - t)²``. ``squared``: the same, summed over an image instead of averaged, as in the objective of sparse
    coding: ``‖p - t‖²``. ``l1``: ``|p - t|``. ``whitened``: ``(D(p - t))² / v``, where ``D`` is the cosine transform
    over space and color and ``v`` (``spectrum``) the variance of each coefficient in the training images, plus a floor.
    Natural images have nearly all their variance in a few low frequencies, which dominate plain l2; here edges count
    too. The cosine basis is close to the principal components of natural images (Ahmed, Natarajan and Rao 1974), so
    this is close to the Mahalanobis distance.
    """
    if distance == "l1":
        return (prediction - target).abs()
    if distance == "l2":
        return (prediction - target).square()
    if distance == "squared":
        return (prediction - target).square() * prediction[0].numel()
    assert spectrum is not None, "the whitened distance reads the spectrum that fit() measured"
    return cosine_transform(prediction - target).square() / spectrum


def fit_spectrum(images: Tensor) -> Tensor:
    """Variance of each coefficient of ``cosine_transform`` over images ``[N 3 S S]``, with a floor: ``[3 S S]``.

    Scaled so that predicting the mean image costs the same as under l2: learning rates carry over.

    Raises:
        UserError: the images are all alike, so no coefficient varies.
    """
    with torch.autocast(images.device.type, enabled=False):
        variance = cosine_transform(images.float()).var(dim=0, correction=0)
    if variance.mean() <= ALIKE:
        raise UserError(
            "pretext.distance=whitened divides errors by how much the training images vary, but they are all alike: "
            "use more images, or pretext.distance=l2"
        )
    floored = variance + FLOOR * variance.mean()
    return floored * (variance / floored).mean() / variance.mean()


def cosine_transform(images: Tensor) -> Tensor:
    """Orthonormal cosine transform (DCT-II) of images ``[B 3 S S]`` over color and space, same shape.

    Over three colors it gives opponent channels, similar to human vision: (R + G + B)/√3, (R - B)/√2, (R - 2G + B)/√6.
    """
    rows, columns = (_cosines(side, images) for side in images.shape[2:])
    colors = _cosines(images.shape[1], images)
    mixed = (colors @ images.flatten(2)).view_as(images)
    return rows @ mixed @ columns.T


def _cosines(size: int, like: Tensor) -> Tensor:
    place = torch.arange(size, dtype=torch.float64)
    rows = torch.cos((2 * place + 1) * place[:, None] * (math.pi / (2 * size))) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows.to(like)

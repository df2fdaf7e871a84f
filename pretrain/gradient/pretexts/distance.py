"""How far a restored image is from its target."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Distance = Literal["l2", "l1", "whitened", "squared"]

# Added to every variance, as a share of their mean. Most coefficients of an image are fine, faint and unpredictable:
# whitened in full (1e-3), they drown all others, and a small network gives up on the image and predicts its mean.
FLOOR = 0.1


def error(distance: Distance, prediction: Tensor, target: Tensor, spectrum: Tensor | None) -> Tensor:
    """Error of every pixel or coefficient, same shape as its inputs ``[B 3 S S]``; its mean is the distance.

    ``l2``: ``(p - t)²``. ``squared``: the same, summed over an image instead of averaged, as sparse coding's objective
    has it: ``‖p - t‖²``. ``l1``: ``|p - t|``. ``whitened``: ``(D(p - t))² / v``, where ``D`` is the cosine transform
    over space and colour and ``v`` (``spectrum``) the variance of each coefficient in the training images, plus a
    floor. Natural images hold nearly all their variance in a few broad waves, and plain l2 is spent on them; here an
    edge counts too. The cosine basis is close to the principal components of natural images (Ahmed, Natarajan and
    Rao 1974), so that this is close to the Mahalanobis distance.
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

    Scaled so that a prediction of the mean image costs what it costs in l2: learning rates carry over.
    """
    with torch.autocast(images.device.type, enabled=False):
        variance = cosine_transform(images.float()).var(dim=0, correction=0)
    floored = variance + FLOOR * variance.mean()
    return floored * (variance / floored).mean() / variance.mean().clamp_min(1e-12)


def cosine_transform(images: Tensor) -> Tensor:
    """Orthonormal cosine transform (DCT-II) of images ``[B 3 S S]`` over colour and space, same shape.

    Over three colours it gives what the eye also uses: (R + G + B)/√3, (R - B)/√2, (R - 2G + B)/√6.
    """
    rows, columns = (_cosines(side, images) for side in images.shape[2:])
    colours = _cosines(images.shape[1], images)
    mixed = (colours @ images.flatten(2)).view_as(images)
    return rows @ mixed @ columns.T


def _cosines(size: int, like: Tensor) -> Tensor:
    place = torch.arange(size, dtype=torch.float64)
    rows = torch.cos((2 * place + 1) * place[:, None] * (math.pi / (2 * size))) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows.to(like)

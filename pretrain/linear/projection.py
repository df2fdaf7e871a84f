"""What every linear method ends as: one matrix into the code, one back, around a mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.linear.moments import BLOCK


@dataclass(frozen=True, eq=False)
class Projection:
    """A fitted linear code: ``code = weight (x - mean)`` and ``x ≈ mean + back code``; all tensors float64.

    ``back`` is the least-squares map from the codes of the training rows to those rows. ``explained`` is the share of
    the rows' total variance that each component of the code gives back alone; where components are uncorrelated (PCA,
    ICA, CCA without a ridge) the shares add up.
    """

    mean: Tensor  # [d]
    weight: Tensor  # [h d]
    back: Tensor  # [d h]
    explained: Tensor  # [h], 0..1

    def encode(self, rows: Tensor) -> Tensor:
        """Rows ``[n d]`` -> codes ``[n h]``, float64, on the projection's device."""
        device = self.mean.device
        codes = [(block.to(device, torch.float64) - self.mean) @ self.weight.T for block in torch.split(rows, BLOCK)]
        return torch.cat(codes)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes ``[n h]`` -> rows ``[n d]``, float64."""
        return self.mean + codes.to(self.mean.device, torch.float64) @ self.back.T


def signs(directions: Tensor) -> Tensor:
    """The sign, 1 or -1, of the entry of largest magnitude in each row of ``[h d]``, as ``[h]``.

    A component and its negative serve equally well; multiplied by this, each has one agreed sign.
    """
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))[:, 0]
    return torch.where(largest < 0, -1.0, 1.0).to(directions.dtype)


def check_components(components: int, limit: int, given: str) -> None:
    """Refuse a code that is longer than the data allow with a ``ValueError``; ``given`` says in words what they are."""
    if limit < 1:
        raise ValueError(f"{given} allow no component at all")
    if not 1 <= components <= limit:
        raise ValueError(f"components is {components}; {given} allow 1 to {limit}")

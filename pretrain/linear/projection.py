"""The result of every linear method: an encoding matrix, a decoding matrix and a mean."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from common.augment import AugmentConfig
from common.encoders import Encoder, EncoderConfig
from common.encoders.linear import Linear
from common.machine.distributed import World
from common.machine.memory import available_memory, readable_size
from pretrain.linear.base import LinearLearner, LinearMethod, component_problems
from pretrain.linear.moments import BLOCK
from pretrain.report.explained import Explained

COPIES = 6  # copies of the moments in memory at once during the solve: 5.2 measured for PCA, 5.5 for CCA


@dataclass(frozen=True, eq=False)
class Projection:
    """A fitted linear code: ``code = weight (x - mean)`` and ``x ≈ mean + back code``; all tensors float64.

    ``back`` is the least-squares map from the codes of the training rows to those rows. ``explained`` is the share of
    the rows' total variance that each component of the code explains alone; if components are uncorrelated (PCA,
    ICA, CCA without a ridge), the shares add up. ``shortfall`` says what did not converge, if anything.
    """

    mean: Tensor  # [d]
    weight: Tensor  # [h d]
    back: Tensor  # [d h]
    explained: Tensor  # [h], 0..1
    shortfall: str = ""

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

    A component and its negative are equivalent; multiplying by this fixes the sign.
    """
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))[:, 0]
    return torch.where(largest < 0, -1.0, 1.0).to(directions.dtype)


def check_components(components: int, limit: int, given: str) -> None:
    """Raise ``ValueError`` if the code is longer than the data allow; ``given`` describes the data in words."""
    if limit < 1:
        raise ValueError(f"{given} allow no component at all")
    if not 1 <= components <= limit:
        raise ValueError(f"components is {components}; {given} allow 1 to {limit}")


# ---- the methods that end as a projection


class ProjectedMethod(LinearMethod, ABC):
    """A method that gives a ``linear`` encoder of ``components`` numbers, from float64 moments of the pixels.

    Attributes:
        moment_views: images whose pixels form one row of the moments.
    """

    moment_views: ClassVar[int] = 1
    components: int = Field(default=64, ge=1, le=1 << 14)
    """Length of the code."""

    def check(self, image_size: int, images: int) -> list[str]:
        return component_problems(self.components, image_size, images) + self._room(image_size)

    def _room(self, image_size: int) -> list[str]:
        """Problems of keeping the moments of images of this size in memory."""
        columns, free = self.moment_views * 3 * image_size**2, available_memory()
        if (need := 8 * COPIES * columns**2) <= free:
            return []
        most = int((free / (8 * COPIES)) ** 0.25 / (3 * self.moment_views) ** 0.5)
        return [
            f"fit.kind={self.kind} at {image_size} px solves for moments of {columns:,} x {columns:,} numbers, which "
            f"takes {readable_size(need)} of memory, but only {readable_size(free)} is free; lower data.image_size "
            f"to at most {most}"
        ]

    def encoder_config(self) -> EncoderConfig:
        return EncoderConfig(name="linear", model_args={"code": self.components})


class ProjectionLearner(LinearLearner):
    """Puts the final ``Projection`` into a ``linear`` encoder; keeps ``back`` ``[d h]`` for panels."""

    encoder: Linear

    def __init__(self, encoder: Encoder, method: LinearMethod, augment: AugmentConfig, world: World, seed: int) -> None:
        super().__init__(encoder, method, augment, world, seed)
        self.settled, self.shortfall = False, ""
        self.model.register_buffer("back", self.encoder.code.weight.detach().T.clone())

    def settle(self, projection: Projection) -> None:
        """Store a fitted projection."""
        with torch.no_grad():
            self.encoder.centre.copy_(projection.mean)
            self.encoder.code.weight.copy_(projection.weight)
            self.model.get_buffer("back").copy_(projection.back)
        self.settled, self.shortfall = True, projection.shortfall

    def restore(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        super().restore(groups)
        self.settled = self.fitted

    def notes(self, images: Tensor) -> list[str]:
        return [self.shortfall] if self.shortfall else []

    def rows(self, images: Tensor) -> Tensor:
        """Images as rows ``[B d]``, not yet centered."""
        return self.encoder.prepare(images).flatten(1)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor] | None:
        if not self.settled:
            return None  # a one-pass method has nothing to show before its end
        back = self.model.get_buffer("back")
        images = images.to(back.device)
        rows: Tensor = self.encoder.centre + self.encoder(images).flatten(1).float() @ back.T
        return rows.view(images.shape), self.encoder.vectors(images)

    @torch.no_grad()
    def explain(self, images: Tensor) -> Explained:
        back = self.model.get_buffer("back")
        atoms = back.T.reshape(-1, *images.shape[1:])
        return Explained(atoms, self.encoder(images.to(back.device)).flatten(1).float(), images)

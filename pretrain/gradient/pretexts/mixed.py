"""Mixed damage: every image gets one or more corruptions from a list."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from common.corruptions import AnyCorruption, Gaussian, Gray, Holes
from common.encoders.base import Encoder, MaskChannel
from pretrain.gradient.example import Example
from pretrain.gradient.pretexts.restore import Restore
from pretrain.ruler.restorers import Damaged, Restorer, for_damage


class Mixed(Restore):
    """Restore the clean image from damage drawn per image from ``members``.

    Members damage the whole image, and RGB is restored: Gaussian noise, salt and pepper, blur, JPEG, gray, holes.
    """

    kind: Literal["mixed"] = "mixed"
    members: list[AnyCorruption] = Field([Gaussian(), Gray(), Holes()], min_length=1)
    """The corruptions, each a mapping with its kind."""
    at_most: int = Field(1, ge=1, le=1000)
    """Every image gets 1 to ``at_most`` different members, each number equally likely, in the order of the list."""

    @model_validator(mode="after")
    def _enough_members(self) -> Mixed:
        if self.at_most > len(self.members):
            raise ValueError(f"at_most is {self.at_most}, but there are only {len(self.members)} members")
        return self

    @property
    def mask_channel(self) -> MaskChannel:
        return any(isinstance(member, Holes) for member in self.members)

    @property
    def needs_color(self) -> bool:
        return all(isinstance(member, Gray) for member in self.members)

    @property
    def spared(self) -> str:
        return " or ".join(dict.fromkeys(member.spared for member in self.members if member.spared))

    @property
    def noise(self) -> float:
        return max(member.noise for member in self.members)

    def check(self, encoder: Encoder) -> list[str]:
        return [
            f"pretext.members.{place}: {problem}"
            for place, member in enumerate(self.members)
            for problem in member.check(encoder.image_size)
        ]

    def restorers(self, encoder: Encoder) -> tuple[Restorer, ...]:
        return for_damage(self.members, holes_known=True)

    def corrupt(self, images: Tensor, encoder: Encoder) -> Example:
        chosen = self.choose(images)  # [B M]
        damaged, hidden = images, torch.zeros_like(images[:, :1])
        # Each member damages the whole batch, and the result is kept where chosen: shapes do not depend on the draw,
        # so a GPU need not wait for it. All members together take a few percent of a step.
        for member, meets in zip(self.members, chosen.T, strict=True):
            where = meets.view(-1, 1, 1, 1)
            if isinstance(member, Holes):
                holed, holes = member.punch(damaged)
                hidden = torch.where(where, torch.maximum(hidden, holes), hidden)
            else:
                holed = member(damaged)
            damaged = torch.where(where, holed, damaged)
        if self.mask_channel:
            damaged = torch.cat([damaged, hidden], dim=1)
        return Example(input=damaged, clean=images, target=images)

    @property
    def fills_holes(self) -> bool:
        return bool(self.mask_channel)

    @property
    def hole_fill(self) -> Literal["gray", "mean"]:
        """What hidden pixels are filled with, as in ``Holes``: the fill of its first member of that kind."""
        return next((member.fill for member in self.members if isinstance(member, Holes)), "gray")

    def given(self, damaged: Damaged, encoder: Encoder) -> Example:
        seen = torch.cat(damaged, dim=1) if self.mask_channel else damaged.images
        return Example(input=seen, clean=damaged.images, target=damaged.images)

    def choose(self, images: Tensor) -> Tensor:
        """Which members each image gets, bool ``[B M]``: 1 to ``at_most`` in every row."""
        count, members = len(images), len(self.members)
        rank = torch.rand(count, members, device=images.device).argsort(dim=1).argsort(dim=1)
        quota = torch.randint(1, self.at_most + 1, (count, 1), device=images.device)
        return rank < quota

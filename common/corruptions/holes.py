"""Holes: square patches hidden."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from common.corruptions.base import Corruption


class Holes(Corruption):
    """A fixed share of the patches of a grid, chosen anew for every image, filled with one colour."""

    kind: Literal["holes"] = "holes"
    ratio: float = Field(0.5, gt=0, lt=1)
    """Share of the patches hidden."""
    size: int = Field(4, ge=1)
    """Side of a patch in pixels."""
    fill: Literal["gray", "mean"] = "gray"
    """Middle gray (0.5), or the mean colour of the whole image."""

    def __call__(self, images: Tensor) -> Tensor:
        return self.punch(images)[0]

    def punch(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``[B 3 H W]`` -> images with holes, and where the holes are ``[B 1 H W]``, 1 where hidden."""
        height, width = images.shape[2:]
        grid = (-(-height // self.size), -(-width // self.size))
        _, hidden = draw_patches(images, grid, self.ratio)
        hidden = enlarge(hidden.view(-1, 1, *grid), self.size)[:, :, :height, :width]
        colour = images.mean(dim=(2, 3), keepdim=True) if self.fill == "mean" else images.new_tensor(0.5)
        return torch.where(hidden > 0, colour, images), hidden


def draw_patches(images: Tensor, grid: tuple[int, int], ratio: float) -> tuple[Tensor, Tensor]:
    """Hide ``ratio`` of the patches of each image: exactly as many in every image, at least one, never all.

    Returns:
        The indices of the kept patches, row by row and rising ``[B n]``, and a map of the hidden ones, float,
        1 where hidden ``[B h*w]``.
    """
    patches = grid[0] * grid[1]
    kept = patches - min(max(round(ratio * patches), 1), patches - 1)
    order = torch.rand(len(images), patches, device=images.device).argsort(dim=1)
    visible = order[:, :kept].sort(dim=1).values
    hidden = torch.ones(len(images), patches, device=images.device).scatter_(1, visible, 0.0)
    return visible, hidden


def enlarge(patches: Tensor, size: int) -> Tensor:
    """One number a patch ``[B K h w]`` -> one a pixel ``[B K h*size w*size]``."""
    return patches.repeat_interleave(size, dim=2).repeat_interleave(size, dim=3)

"""Holes: hidden square patches."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from common.corruptions.base import Corruption


class Holes(Corruption):
    """A fixed share of the patches of a grid, drawn independently per image and filled with one color."""

    kind: Literal["holes"] = "holes"
    spared: ClassVar[str] = "of one color"
    ratio: float = Field(0.5, gt=0, lt=1)
    """Share of the patches to hide."""
    size: int = Field(4, ge=1, le=512)
    """Side of a patch in pixels."""
    fill: Literal["gray", "mean"] = "gray"
    """Middle gray (0.5), or the mean color of the whole image."""

    def check(self, image_size: int) -> list[str]:
        if self.size < image_size:
            return []
        most = image_size // 2
        return [f"size is {self.size}, but images have {image_size} px: nothing would be hidden; use at most {most}"]

    def __call__(self, images: Tensor) -> Tensor:
        return self.punch(images)[0]

    def punch(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``[B 3 H W]`` -> images with holes, and a mask ``[B 1 H W]``, 1 where hidden."""
        height, width = images.shape[2:]
        grid = (-(-height // self.size), -(-width // self.size))
        _, hidden = draw_patches(images, grid, self.ratio)
        hidden = enlarge(hidden.view(-1, 1, *grid), self.size)[:, :, :height, :width]
        color = images.mean(dim=(2, 3), keepdim=True) if self.fill == "mean" else images.new_tensor(0.5)
        return torch.where(hidden > 0, color, images), hidden


def draw_patches(images: Tensor, grid: tuple[int, int], ratio: float) -> tuple[Tensor, Tensor]:
    """Hide ``ratio`` of the patches of each image: the same number in every image, at least one, never all.

    Returns:
        The indices of the kept patches in row-major order, ascending, ``[B n]``, and a float mask ``[B h*w]``, 1 where
        a patch is hidden.
    """
    patches = grid[0] * grid[1]
    kept = patches - min(max(round(ratio * patches), 1), patches - 1)
    order = torch.rand(len(images), patches, device=images.device).argsort(dim=1)
    visible = order[:, :kept].sort(dim=1).values
    hidden = torch.ones(len(images), patches, device=images.device).scatter_(1, visible, 0.0)
    return visible, hidden


def enlarge(patches: Tensor, size: int) -> Tensor:
    """One number per patch ``[B K h w]`` -> one per pixel ``[B K h*size w*size]``."""
    return patches.repeat_interleave(size, dim=2).repeat_interleave(size, dim=3)

"""The baseline of raw pixels: patches of the image, each with its place."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pixel_unshuffle

from common.encoders.base import Encoder
from finetune.baselines import PIXEL_SIDE

PATCHES = (1, 2, 4, 8)  # px per side, to choose from as from layers


class Patches(Encoder):
    """Raw pixels: the image, area-averaged to at most 32 px per side and cut into patches of 1, 2, 4 and 8 px.

    A network knows where a cell is, from its padding or its position embedding. So each patch also has its place: x, y,
    x², y² and xy, in [-1, 1].
    """

    def __init__(self, image_size: int) -> None:
        super().__init__("pixels", image_size, "rgb", mask_channel=False)
        largest = max(PATCHES)
        self.side = min(image_size, PIXEL_SIDE) // largest * largest
        self.settle()

    def layers(self, images: Tensor) -> list[Tensor]:
        """Images ``[B 3 S S]``, RGB in [0, 1] -> for each side p a map ``[B 3p²+5 s/p s/p]``."""
        if images.shape[2] != self.side:
            images = interpolate(images, (self.side, self.side), mode="area")
        return [_with_place(pixel_unshuffle(images, side)) for side in PATCHES]


def _with_place(maps: Tensor) -> Tensor:
    B, _, h, w = maps.shape
    y, x = torch.meshgrid(_middles(h, maps), _middles(w, maps), indexing="ij")
    place = torch.stack([x, y, x * x, y * y, x * y])
    return torch.cat([maps, place.expand(B, -1, -1, -1)], 1)


def _middles(cells: int, like: Tensor) -> Tensor:
    """The middles of cells along one side, from -1 to 1."""
    return (torch.arange(cells, device=like.device, dtype=like.dtype) + 0.5) * 2 / cells - 1

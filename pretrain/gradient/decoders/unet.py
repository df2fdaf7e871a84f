"""A U-Net decoder: upsamples the last map and joins the encoder's map at every resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.gradient.decoders.upsampler import NARROWEST, Output, convolution, output_factor


class UNet(nn.Module):
    """All maps ``[B D_l h_l w_l]`` -> ``[B K side side]`` (Ronneberger et al. 2015).

    Fine detail reaches the output through the skips, so the deep maps need not carry it.
    """

    def __init__(
        self,
        shapes: list[tuple[int, int, int]],
        channels: int,
        side: int,
        *,
        width: int,
        blocks: int,
        subpixel: int,
    ) -> None:
        super().__init__()
        below = shapes[-1][1]
        factor = output_factor(below, side, subpixel)
        # one skip per side, from the deepest map of that side; none at the last map's side, since it would bypass it
        deepest = {
            shape[1]: index for index, shape in enumerate(shapes) if below < shape[1] and shape[1] * factor <= side
        }
        self.skips = [deepest[height] for height in sorted(deepest)]
        self.first = convolution(shapes[-1][0], width, kernel=1)
        self.joins = nn.ModuleList()
        for index in self.skips:
            depth = shapes[index][0]
            inputs, width = width + depth, max(width // 2, NARROWEST)
            self.joins.append(
                nn.Sequential(convolution(inputs, width), *(convolution(width, width) for _ in range(blocks - 1)))
            )
        self.output = Output(width, channels, side, factor)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """``maps``: the output of ``encoder.layers``, shallow to deep."""
        decoded: Tensor = self.first(maps[-1])
        for index, join in zip(self.skips, self.joins, strict=True):
            skip = maps[index]
            decoded = join(torch.cat([F.interpolate(decoded, skip.shape[2:], mode="nearest"), skip], dim=1))
        restored: Tensor = self.output(decoded)
        return restored

"""A convolutional upsampler: doubles the last map until it is an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NARROWEST = 32  # channels of the largest maps: fewer save no time on a CPU


class Upsampler(nn.Module):
    """Last map ``[B D h w]`` -> ``[B K side side]``.

    Every step doubles the side and halves the width: nearest-neighbor upsampling, then a 3x3 convolution. That
    costs as much as a transposed convolution, without checkerboard artifacts (Odena, Dumoulin and Olah 2016). The last
    convolution gives ``subpixel`` x ``subpixel`` pixels of the output at every position.
    """

    def __init__(
        self, depth: int, map_side: int, channels: int, side: int, *, width: int, blocks: int, subpixel: int
    ) -> None:
        super().__init__()
        factor = output_factor(map_side, side, subpixel)
        steps: list[nn.Module] = [convolution(depth, width, kernel=1)]
        while map_side * 2 * factor <= side:
            narrower = max(width // 2, NARROWEST)
            steps += [nn.Upsample(scale_factor=2, mode="nearest"), convolution(width, narrower)]
            steps += [convolution(narrower, narrower) for _ in range(blocks - 1)]
            map_side, width = map_side * 2, narrower
        self.steps = nn.Sequential(*steps)
        self.output = Output(width, channels, side, factor)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """``maps``: the output of ``encoder.layers``; only the last is used."""
        restored: Tensor = self.output(self.steps(maps[-1]))
        return restored


class Output(nn.Module):
    """Maps ``[B D h w]`` -> ``[B K side side]``, by a sub-pixel convolution (Shi et al. 2016) of the given factor.

    Full-resolution convolutions dominate a decoder's cost; this avoids them. The pixels of one position start equal
    (Aitken et al. 2017), so there is no checkerboard to unlearn.
    """

    def __init__(self, depth: int, channels: int, side: int, factor: int) -> None:
        super().__init__()
        self.coarse = side // factor
        self.last = nn.Conv2d(depth, channels * factor**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(factor)
        with torch.no_grad():
            for parameter in self.last.parameters():
                parameter.copy_(parameter[:: factor**2].repeat_interleave(factor**2, dim=0))

    def forward(self, maps: Tensor) -> Tensor:
        pixels: Tensor = self.shuffle(self.last(resize(maps, self.coarse)))
        return pixels


def output_factor(map_side: int, side: int, subpixel: int) -> int:
    """``subpixel`` if at least one doubling comes before it and it divides the side, else 1."""
    return subpixel if map_side * 2 * subpixel <= side and side % subpixel == 0 else 1


def convolution(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch normalization, GELU; the side does not change."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.GELU()
    )


def resize(maps: Tensor, side: int) -> Tensor:
    """``[B D h w]`` -> ``[B D side side]``: averaged if larger, interpolated if smaller."""
    if maps.shape[2] == side and maps.shape[3] == side:
        return maps
    if min(maps.shape[2:]) >= side:
        return F.adaptive_avg_pool2d(maps, side)
    return F.interpolate(maps, (side, side), mode="bilinear", align_corners=False)

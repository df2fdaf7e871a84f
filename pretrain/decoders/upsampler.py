"""A convolutional upsampler: the last map, doubled until it is an image."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

NARROWEST = 32  # channels at full resolution: fewer save no time on a CPU


class Upsampler(nn.Module):
    """Last map ``[B D h w]`` -> ``[B K side side]``.

    Every step doubles the side by a sub-pixel convolution (Shi et al. 2016), which does its work at the smaller side,
    and halves the width.
    """

    def __init__(self, depth: int, map_side: int, channels: int, side: int, *, width: int, blocks: int) -> None:
        super().__init__()
        self.side = side
        steps: list[nn.Module] = [convolution(depth, width, kernel=1)]
        while map_side * 2 <= side:
            narrower = max(width // 2, NARROWEST)
            steps += [convolution(width, width) for _ in range(blocks - 1)]
            steps += [nn.Conv2d(width, 4 * narrower, 3, padding=1, bias=False), nn.PixelShuffle(2)]
            steps += [nn.BatchNorm2d(narrower), nn.GELU()]
            map_side, width = map_side * 2, narrower
        self.steps = nn.Sequential(*steps)
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        restored: Tensor = self.last(resize(self.steps(maps[-1]), self.side))
        return restored


def convolution(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch normalisation, GELU; the side stays."""
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

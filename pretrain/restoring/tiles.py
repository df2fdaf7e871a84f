"""Pictures of any size through a network of one size: overlapping tiles, blended, strip by strip.

Along each side, tiles lie at equal distances and reach beyond the picture, which goes on there by reflection: a
network is worst at the edge of a tile, so it never shows alone. The weights of all tiles over a
pixel sum to one. Memory does not grow with the height of a picture: a strip is done when the next row of tiles begins
below it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pretrain.ruler.restorers import Damaged

# a tile and its holes, [b 3 T T] float and [b 1 T T] -> RGB [b 3 T T]; each is restored independently of the others
RestoreTiles = Callable[[Damaged], Tensor]


class Grid(NamedTuple):
    """How pictures are cut.

    Attributes:
        tile: side of a tile in pixels.
        overlap: pixels that neighbors share, less than ``tile``.
        step: tiles begin at multiples of it, which divides ``tile`` and ``overlap``.
        batch: tiles per pass.
    """

    tile: int
    overlap: int
    step: int = 1
    batch: int = 64

    @classmethod
    def of(cls, tile: int, share: float, step: int, batch: int) -> Grid:
        """Neighbors share about this share of a tile."""
        return cls(tile, min(round(share * tile / step) * step, tile - step), step, batch)


class Axis(NamedTuple):
    """The tiles along one side of a picture.

    Attributes:
        starts: where each tile starts; before 0 and beyond the end, the picture is reflected.
        weights: ``[n T]``, how much each pixel of each tile counts. They sum to one over the tiles of a pixel; outside
            of the picture they are 0.
    """

    starts: list[int]
    weights: Tensor


def axis(length: int, grid: Grid) -> Axis:
    """The tiles along a side of ``length`` pixels: one, in the middle, if it is no longer than a tile."""
    tile, stride = grid.tile, grid.tile - grid.overlap
    if length <= tile:
        starts = [-((tile - length) // 2 // grid.step * grid.step)]
    else:
        margin = grid.overlap // 2 // grid.step * grid.step
        starts = [stride * number - margin for number in range(math.ceil((length + 2 * margin - tile) / stride) + 1)]
    place = torch.arange(tile, dtype=torch.float64)
    rise = ((torch.minimum(place, tile - 1 - place) + 0.5) / max(grid.overlap, 1)).clamp(max=1)
    window = (rise * (math.pi / 2)).sin().square() if grid.overlap else torch.ones_like(rise)
    total, weights = torch.zeros(length, dtype=torch.float64), torch.zeros(len(starts), tile, dtype=torch.float64)
    for weight, start in zip(weights, starts, strict=True):
        first, last = max(start, 0), min(start + tile, length)
        weight[first - start : last - start] = window[first - start : last - start]
        total[first:last] += window[first - start : last - start]
    for weight, start in zip(weights, starts, strict=True):
        first, last = max(start, 0), min(start + tile, length)
        weight[first - start : last - start] /= total[first:last]
    return Axis(starts, weights.float())


def reflected(start: int, stop: int, length: int) -> Tensor:
    """Places ``start`` to ``stop`` of a side of ``length`` pixels, reflected at its first and last pixel, int64."""
    place = torch.arange(start, stop)
    if length == 1:
        return torch.zeros_like(place)
    place = place.remainder(2 * (length - 1))
    return torch.minimum(place, 2 * (length - 1) - place)


def restored_strips(restore: RestoreTiles, pictures: Damaged, grid: Grid) -> Iterator[Tensor]:
    """Pictures of one size -> the same, restored, in strips ``[B 3 h W]`` float32 from top to bottom, on the CPU.

    Args:
        pictures: ``[B 3 H W]``, uint8 0..255 or float 0..1, and ``[B 1 H W]``, any type, 1 where a pixel is hidden.
    """
    images, hidden = pictures
    count, _, height, width = images.shape
    rows, columns = axis(height, grid), axis(width, grid)
    across = max(1, grid.batch // count)  # tiles of each picture per pass
    strip, top = images.new_zeros((count, 3, 0, width), dtype=torch.float32), 0  # what is not done yet, and its place
    for number, (start, down) in enumerate(zip(rows.starts, rows.weights, strict=True)):
        end = min(start + grid.tile, height)
        strip = torch.cat([strip, strip.new_zeros(count, 3, max(end - top - strip.shape[2], 0), width)], dim=2)
        picked = reflected(start, start + grid.tile, height)
        band = [part[:, :, picked] for part in (images, hidden)]
        used = slice(max(start, 0) - start, end - start)  # rows of the tiles that are in the picture
        for some in torch.split(torch.arange(len(columns.starts)), across):
            places = [reflected(left, left + grid.tile, width) for left in _some(columns.starts, some)]
            # [n B C T T]
            tiles = Damaged(*(torch.stack([part[:, :, :, place] for place in places]).flatten(0, 1) for part in band))
            given = restore(_as_float(tiles)).view(len(places), count, 3, grid.tile, grid.tile)
            for left, weight, tile in zip(_some(columns.starts, some), columns.weights[some], given, strict=True):
                first, last = max(left, 0), min(left + grid.tile, width)
                within = slice(first - left, last - left)
                share = down[used, None] * weight[None, within]
                strip[:, :, max(start, 0) - top : end - top, first:last] += tile[:, :, used, within] * share
        below = height if number + 1 == len(rows.starts) else max(rows.starts[number + 1], 0)
        if below > top:
            yield strip[:, :, : below - top]
            strip, top = strip[:, :, below - top :].clone(), below


def _some(starts: list[int], places: Tensor) -> list[int]:
    return [starts[place] for place in places.tolist()]


def _as_float(tiles: Damaged) -> Damaged:
    images = tiles.images if tiles.images.is_floating_point() else tiles.images.float() / 255
    return Damaged(images.contiguous(), tiles.hidden.float().contiguous())

"""Tiles: nothing is lost, nothing is seen twice, and no seam is left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.pixels import to_uint8
from pretrain.restoring.tiles import Grid, axis, reflected, restored_strips
from pretrain.ruler.restorers import Damaged

SIDES = st.integers(1, 70)
GRIDS = st.builds(
    lambda step, tiles, share, batch: Grid.of(step * tiles, share, step, batch),
    st.sampled_from([1, 2, 4]), st.integers(1, 9), st.floats(0, 0.9), st.integers(1, 40),
)  # fmt: skip


def whole(pictures: Tensor, grid: Grid, restore: object = None) -> Tensor:
    hidden = torch.zeros_like(pictures[:, :1])
    strips = restored_strips(restore or (lambda tiles: tiles.images), Damaged(pictures, hidden), grid)  # type: ignore[arg-type]
    return torch.cat(list(strips), dim=2)


def colors(count: int, height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=torch.manual_seed(height))


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, GRIDS, st.integers(1, 3))
def test_tiles_that_come_back_as_they_are_make_the_same_picture(
    height: int, width: int, grid: Grid, count: int
) -> None:
    pictures = colors(count, height, width)
    assert torch.equal(to_uint8(whole(pictures, grid)), pictures)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), GRIDS)
def test_weights_sum_to_one_at_every_pixel_and_begin_where_they_may(length: int, grid: Grid) -> None:
    starts, weights = axis(length, grid)
    total = np.zeros(length)
    for start, weight in zip(starts, weights.numpy(), strict=True):
        for place, one in enumerate(weight, start):
            if 0 <= place < length:
                total[place] += one
                assert one > 0
            else:
                assert one == 0
        assert start % grid.step == 0
    assert total == pytest.approx(1, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(-200, 200), st.integers(1, 90), st.integers(1, 50))
def test_beyond_its_edges_a_picture_is_reflected_as_numpy_pads(start: int, span: int, length: int) -> None:
    around = np.pad(np.arange(length), 400, mode="reflect")
    assert reflected(start, start + span, length).tolist() == around[400 + start : 400 + start + span].tolist()


def test_a_picture_of_the_size_of_a_tile_is_one_tile() -> None:
    seen: list[Tensor] = []
    pictures = colors(2, 32, 32)
    whole(pictures, Grid(32, 16), lambda tiles: seen.append(tiles.images) or tiles.images)
    assert len(seen) == 1
    assert torch.equal(seen[0], pictures.float() / 255)


def test_what_is_wrong_at_the_edges_of_tiles_leaves_no_seam() -> None:
    """A network that is off by 0.2 at the outermost pixels of a tile: its error is spread, and nowhere jumps."""

    def off(tiles: Damaged) -> Tensor:
        found = tiles.images.clone()
        found[:, :, [0, -1]] += 0.2
        found[:, :, :, [0, -1]] += 0.2
        return found

    flat = torch.full((1, 3, 100, 90), 0.5)
    blended = whole(flat, Grid(16, 8), off)
    assert (blended - 0.5).abs().max() < 0.02
    assert (whole(flat, Grid(16, 0), off) - 0.5).abs().max() > 0.19  # side by side, they show


def test_neighbors_that_disagree_are_joined_by_a_ramp() -> None:
    """Tiles of alternating constant values: the steepest step between two pixels is that of a squared sine."""
    turn = 0

    def alternating(tiles: Damaged) -> Tensor:
        nonlocal turn
        found = torch.stack(
            [torch.full_like(one, float((turn + number) % 2)) for number, one in enumerate(tiles.images)]
        )
        turn += len(found)
        return found

    blended = whole(torch.zeros(1, 3, 16, 120), Grid(16, 8), alternating)
    assert blended.min() == 0
    assert blended.max() > 0.98
    assert (blended[..., 1:] - blended[..., :-1]).abs().max() < np.pi / 2 / 8 + 0.01


def test_a_tile_is_restored_alike_whatever_is_restored_with_it() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 3, 1))

    @torch.no_grad()
    def restore(tiles: Damaged) -> Tensor:
        found: Tensor = network(tiles.images)
        return found

    pictures = colors(3, 50, 41)
    together = whole(pictures, Grid(16, 8, batch=64), restore)
    for batch in (1, 5):
        alone = torch.cat([whole(one[None], Grid(16, 8, batch=batch), restore) for one in pictures])
        assert torch.allclose(together, alone, atol=1e-6)


def test_only_as_much_is_held_as_a_row_of_tiles_needs() -> None:
    strips = list(
        restored_strips(
            lambda tiles: tiles.images, Damaged(colors(1, 333, 20), torch.zeros(1, 1, 333, 20)), Grid(16, 8)
        )
    )
    assert sum(strip.shape[2] for strip in strips) == 333
    assert max(strip.shape[2] for strip in strips) <= 16

"""Sheets show the right pixels in the right place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.report.panels import EDGE, GAP, HEAD, LABEL, LINE
from pretrain.restoring.sheets import ACROSS, MOST, TILE, Shown, heat_key, middle, name_of, part_of, sheet


def test_every_picture_is_in_its_row_and_column_and_more_go_below() -> None:
    pictures = torch.randint(0, 256, (2, 8, 3, 16, 16), dtype=torch.uint8, generator=torch.manual_seed(0))
    shown = [
        Shown({"given": one, "restored": other}, ("a/very/long/path" * 9, "second line"))
        for one, other in zip(*pictures, strict=True)
    ]
    made = np.array(sheet(shown, "title"))
    band = EDGE + HEAD + 2 * (TILE + GAP) - GAP + 2 * LINE + EDGE
    assert made.shape[:2] == (2 * band - HEAD, EDGE + LABEL + ACROSS * (TILE + GAP) - GAP + EDGE)
    for row in range(2):
        for column in range(8):
            below, beside = divmod(column, ACROSS)
            top = below * band + EDGE + (0 if below else HEAD) + row * (TILE + GAP)
            left = EDGE + LABEL + beside * (TILE + GAP)
            tile = made[top : top + TILE, left : left + TILE]
            expected = pictures[row, column].permute(1, 2, 0).numpy()
            assert np.array_equal(tile, expected.repeat(TILE // 16, axis=0).repeat(TILE // 16, axis=1))
    # a long text does not reach the next column
    captions = made[EDGE + HEAD + 2 * (TILE + GAP) - GAP : band - EDGE]
    assert (captions[:, EDGE + LABEL + TILE + 1 : EDGE + LABEL + TILE + GAP - 1] == 255).all()


@pytest.mark.parametrize(("side", "tile"), [(16, 192), (32, 192), (100, 200), (128, 256), (200, 200), (256, 256)])
def test_pictures_fill_their_tiles_pixel_by_pixel(side: int, tile: int) -> None:
    """Enlarged by a whole factor, or as they are: nothing is blurred that could be judged."""
    picture = torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=torch.manual_seed(0))
    made = np.array(sheet([Shown({"given": picture}, ("name",))], "title"))
    top, left = EDGE + HEAD, EDGE + LABEL
    assert made.shape[:2] == (EDGE + HEAD + tile + LINE + EDGE, EDGE + LABEL + tile + EDGE)
    expected = picture.permute(1, 2, 0).numpy().repeat(tile // side, axis=0).repeat(tile // side, axis=1)
    assert np.array_equal(made[top : top + tile, left : left + tile], expected)


def test_larger_squares_are_made_smaller_and_smaller_ones_begin_where_their_captions_do() -> None:
    large, small = torch.full((3, 300, 300), 9, dtype=torch.uint8), torch.full((3, 200, 200), 9, dtype=torch.uint8)
    made = np.array(sheet([Shown({"given": one}, ("name",)) for one in (large, small)], ""))
    middle = made[EDGE + MOST // 2, EDGE + LABEL :, 0]
    assert (middle == 9).nonzero()[0].tolist() == [*range(MOST), *range(MOST + GAP, MOST + GAP + 200)]


def test_a_long_title_ends_with_the_sheet() -> None:
    shown = [Shown({"given": torch.zeros(3, 16, 16, dtype=torch.uint8)}, ("name",))]
    made = np.array(sheet(shown, "a long name " * 50))
    assert (made[: EDGE + HEAD, -EDGE + 2 :] == 255).all()
    assert (made[: EDGE + HEAD, : -2 * EDGE] < 100).any()


def test_the_colors_of_errors_are_explained_next_to_their_row() -> None:
    key = heat_key(0.3)
    rows = {"given": torch.zeros(3, 16, 16, dtype=torch.uint8), "error": torch.zeros(3, 16, 16, dtype=torch.uint8)}
    made = sheet([Shown(rows, ("name",))], "title", {"error": key})
    place = (EDGE, EDGE + HEAD + TILE + GAP + TILE // 2 + LINE)
    found = made.crop((*place, place[0] + key.width, place[1] + key.height))
    assert np.array_equal(np.array(found), np.array(key))
    bar = np.array(key)[0]
    assert bar[0].tolist() == [0, 0, 0]
    assert bar[-1].tolist() == [255, 255, 255]
    assert bar[25].tolist()[1:] == [0, 0]  # red
    assert key.width <= LABEL


def test_a_source_is_called_by_its_last_part() -> None:
    specs = [
        "folder:/home/me/my pictures",
        "parquet:/data/train-*.parquet",
        "shapes:test:4",
        "hf:me/mine:train",
        "a/b/",
    ]
    assert [name_of(spec) for spec in specs] == ["my pictures", "train-*.parquet", "shapes:test:4", "mine:train", "b"]


def test_a_large_picture_is_shown_in_part_around_its_holes() -> None:
    hidden = torch.zeros(1000, 700)
    assert middle(hidden) == ((1000 - MOST) // 2, (700 - MOST) // 2, MOST)
    hidden[900:910, 100:110] = 1
    assert middle(hidden) == (1000 - MOST, 0, MOST)
    assert middle(torch.zeros(30, 50)) == (0, 10, 30)
    part = part_of(torch.arange(20).view(1, 4, 5), middle(torch.zeros(4, 5)))
    assert part.tolist() == [[[0, 1, 2, 3], [5, 6, 7, 8], [10, 11, 12, 13], [15, 16, 17, 18]]]
    assert part.untyped_storage().nbytes() == part.nbytes  # the picture need not stay in memory


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_middle_of_holes_is_the_mean_of_their_pixels(seed: int) -> None:
    random = np.random.default_rng(seed)
    hidden = np.zeros((3, 500), dtype=bool)
    hidden[random.integers(0, 3, 9), random.integers(0, 500, 9)] = True
    column = np.argwhere(hidden)[:, 1].mean()
    assert middle(torch.from_numpy(hidden)) == (0, min(max(round(column - 1.5), 0), 497), 3)

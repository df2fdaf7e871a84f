"""Pictures of dictionaries show every atom in its place, sorted by use, at its own scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from pretrain.report.atoms import (
    ASIDE,
    DIMMED,
    GAP,
    HEAD,
    STROKE,
    around_gray,
    atoms_picture,
    exciting_picture,
    save_atoms,
    save_exciting,
    tiles_alone,
)
from pretrain.report.panels import EDGE, FAINT, PAPER

Pixels = NDArray[np.uint8]


def dictionary(count: int, side: int = 12) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def tile_at(picture: Image.Image, row: int, column: int, tile: int) -> Pixels:
    left, top = EDGE + column * (tile + GAP), EDGE + HEAD + row * (tile + GAP)
    return np.array(picture)[top : top + tile, left : left + tile]


def crisp(image: Tensor, zoom: int) -> Pixels:
    """RGB ``[3 p p]`` in [0, 1], every pixel repeated."""
    pixels: Pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    return pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The notes next to the titles, as they are drawn: text in a picture cannot be read back."""
    texts: list[str] = []
    draw = ImageDraw.ImageDraw.text

    def written(self: ImageDraw.ImageDraw, place: Any, text: str, *rest: Any, **how: Any) -> None:
        if how["fill"] == FAINT:  # titles are darker
            texts.append(text)
        draw(self, place, text, *rest, **how)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", written)
    return texts


def test_atoms_are_arranged_row_by_row_with_the_most_used_first() -> None:
    atoms, use = dictionary(7), torch.tensor([3.0, 9, 1, 9, 5, 2, 4])
    picture = atoms_picture(atoms, use, "dictionary")
    zoom = 8  # at most 96 px per atom
    for place, atom in enumerate([1, 3, 4, 6, 0, 5, 2]):  # ties keep their own order
        found = tile_at(picture, *divmod(place, 3), 12 * zoom)
        assert np.array_equal(found, crisp(around_gray(atoms[atom]), zoom))


def test_without_use_atoms_stay_in_their_order() -> None:
    atoms = dictionary(4)
    for place in range(4):
        assert np.array_equal(tile_at(atoms_picture(atoms), *divmod(place, 2), 96), crisp(around_gray(atoms[place]), 8))


@pytest.mark.parametrize(
    ("count", "side", "zoom"), [(1, 8, 12), (256, 12, 4), (1024, 8, 3), (5000, 16, 1), (4, 128, 1)]
)
def test_the_grid_is_near_square_and_enlarged_by_whole_numbers(count: int, side: int, zoom: int) -> None:
    picture = atoms_picture(dictionary(count, side))
    columns = next(number for number in range(1, count + 1) if number * number >= count)
    rows = -(-count // columns)
    assert columns - 1 <= rows <= columns
    tile = side * zoom
    assert picture.size == (2 * EDGE + columns * (tile + GAP) - GAP, 2 * EDGE + HEAD + rows * (tile + GAP) - GAP)


def test_each_atom_has_its_own_scale_around_mid_gray() -> None:
    atom = torch.tensor([[-2.0, 0], [1, 0.5]]).expand(3, 2, 2)
    expected = torch.tensor([[0.0, 0.5], [0.75, 0.625]]).expand(3, 2, 2)
    for scale in (1e-20, 1.0, 1e20):
        torch.testing.assert_close(around_gray(scale * atom), expected)
    assert (around_gray(torch.zeros(3, 2, 2)) == 0.5).all()
    assert torch.equal(around_gray(atom.bfloat16()), around_gray(atom))


def test_unused_atoms_come_last_dimmed_and_counted(beside: list[str]) -> None:
    atoms, use = dictionary(4), torch.tensor([0, 2, 0, 5])
    picture = atoms_picture(atoms, use, "sparse coding")
    assert beside == ["4 atoms, most used first, 2 unused"]
    for place, atom, dead in ((0, 3, False), (1, 1, False), (2, 0, True), (3, 2, True)):
        found = tile_at(picture, *divmod(place, 2), 96).astype(int)
        full = crisp(around_gray(atoms[atom]), 8).astype(int)
        if not dead:
            assert np.array_equal(found, full)
            continue
        struck = np.eye(96, dtype=bool)[::-1]
        assert (found[struck] == STROKE).all()
        assert np.abs(found - (full * (1 - DIMMED) + np.array(PAPER) * DIMMED))[~struck].max() <= 1


def test_the_note_next_to_the_title_counts_correctly(beside: list[str]) -> None:
    atoms_picture(dictionary(1, 2))
    atoms_picture(dictionary(1200, 2), torch.arange(1, 1201))
    atoms_picture(dictionary(1200, 2), torch.arange(-600, 600))
    exciting_picture(dictionary(1), torch.rand(1, 1, 3, 12, 12))
    exciting_picture(dictionary(2), torch.rand(2, 5, 3, 12, 12))
    assert beside == [
        "1 atom",
        "1,200 atoms, most used first",
        "1,200 atoms, most used first, 1 unused",
        "1 atom, each with the patch that excites it most",
        "2 atoms, each with the 5 patches that excite it most",
    ]


def test_a_long_title_is_never_cut() -> None:
    short, long = atoms_picture(dictionary(4), title="a"), atoms_picture(dictionary(4), title="a long title " * 8)
    assert long.width > short.width
    assert (np.array(long)[:, -EDGE:] == 255).all()


def test_patches_are_shown_next_to_the_atom_they_excite() -> None:
    atoms, patches = dictionary(3), torch.rand(3, 4, 3, 12, 12)
    picture = exciting_picture(atoms, patches, "what they look for")
    zoom, tile = 5, 60
    pixels = np.array(picture)
    for row in range(3):
        assert np.array_equal(tile_at(picture, row, 0, tile), crisp(around_gray(atoms[row]), zoom))
        for column in range(4):
            left, top = EDGE + tile + ASIDE + column * (tile + GAP), EDGE + HEAD + row * (tile + GAP)
            assert np.array_equal(pixels[top : top + tile, left : left + tile], crisp(patches[row, column], zoom))
    assert picture.height == 2 * EDGE + HEAD + 3 * (tile + GAP) - GAP


def test_shapes_that_do_not_match_are_refused() -> None:
    for wrong in (torch.rand(4, 12, 12), torch.rand(4, 1, 12, 12), torch.rand(4, 3, 12, 8), torch.rand(0, 3, 12, 12)):
        with pytest.raises(ValueError, match=r"expected \[h 3 p p\]"):
            atoms_picture(wrong)
    with pytest.raises(ValueError, match=r"use \[3\] of 4 atoms"):
        atoms_picture(dictionary(4), torch.ones(3))
    for patches in (torch.rand(3, 5, 3, 12, 12), torch.rand(4, 5, 3, 8, 8), torch.rand(4, 3, 12, 12)):
        with pytest.raises(ValueError, match=r"expected \[k m 3 p p\]"):
            exciting_picture(dictionary(4), patches)


def test_saved_pictures_are_the_pictures(tmp_path: Path) -> None:
    atoms, use, patches = dictionary(4), torch.arange(4), torch.rand(4, 2, 3, 12, 12)
    first = save_atoms(tmp_path / "deep" / "atoms.png", atoms, use, "all")
    second = save_exciting(tmp_path / "exciting.png", atoms, patches, "some")
    assert np.array_equal(np.array(Image.open(first)), np.array(atoms_picture(atoms, use, "all")))
    assert np.array_equal(np.array(Image.open(second)), np.array(exciting_picture(atoms, patches, "some")))


# ---- on a page


@pytest.mark.parametrize(("count", "title"), [(1, ""), (7, "dictionary, without mirror images"), (200, "dictionary")])
def test_atoms_alone_are_those_of_the_picture_on_a_clear_ground(count: int, title: str) -> None:
    atoms = dictionary(count, 6)
    picture = atoms_picture(atoms, title=title)
    columns = next(number for number in range(1, count + 1) if number * number >= count)
    tile = (picture.height - 2 * EDGE - HEAD + GAP) // -(-count // columns) - GAP
    alone = tiles_alone(picture, count)
    assert alone is not None
    pixels = np.array(alone)
    assert pixels.shape[1] == columns * (tile + GAP) - GAP
    shown = np.zeros(pixels.shape[:2], bool)
    for place in range(count):
        row, column = divmod(place, columns)
        box = np.s_[
            row * (tile + GAP) : row * (tile + GAP) + tile, column * (tile + GAP) : column * (tile + GAP) + tile
        ]
        assert np.array_equal(pixels[box][..., :3], tile_at(picture, row, column, tile))
        shown[box] = True
    assert np.array_equal(pixels[..., 3] == 255, shown)
    assert (pixels[..., 3][~shown] == 0).all()


def test_exciting_patches_alone_keep_their_places_beside_their_atom() -> None:
    patches = torch.rand(5, 4, 3, 8, 8)
    picture = exciting_picture(dictionary(5, 8), patches)
    alone = tiles_alone(picture, 5, exciting=True)
    assert alone is not None
    assert alone.width >= 64 + ASIDE + 4 * (64 + GAP) - GAP
    left, top = 64 + ASIDE + 3 * (64 + GAP), 2 * (64 + GAP)
    assert np.array_equal(np.array(alone)[top : top + 64, left : left + 64, :3], crisp(patches[2, 3], 8))
    assert alone.getpixel((64 + ASIDE // 2, 10)) == (0, 0, 0, 0)


@pytest.mark.parametrize("exciting", [False, True])
def test_a_picture_of_another_layout_is_not_taken_apart(exciting: bool) -> None:
    assert tiles_alone(atoms_picture(dictionary(7)), 50, exciting=exciting) is None
    assert tiles_alone(Image.new("RGB", (40, 40)), 7, exciting=exciting) is None

"""Masks: where they are found, what is refused, and that they have exactly the geometry of the images."""

from __future__ import annotations

import colorsys
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from common.data import Subset, build_source
from common.data.decode import square
from common.data.masks import Masks, NoMaskError, find_masks, look_at_masks, read_mask, side_lengths, square_mask
from common.data.shapes import HUES, MASKS, TEXTURES, ShapesSource, draw, draw_object
from common.errors import UserError

Values = NDArray[np.uint8]


def gray(values: Values | list[list[int]]) -> Image.Image:
    return Image.fromarray(np.asarray(values, np.uint8))


# ---- geometry


@settings(deadline=None, max_examples=60)
@given(st.integers(8, 120), st.integers(8, 120), st.integers(8, 64))
def test_a_mask_is_cut_where_its_image_is(width: int, height: int, size: int) -> None:
    """Along ramps, an image says which of its pixels became which: the mask has the nearest of them."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    image = Image.fromarray(np.stack([x, y, 0 * x], 2).astype(np.uint8) * 2)
    red, green, _ = square(image, size).astype(float) / 2
    side = min(width, height)
    for values, ramp, whole in ((x, red, width), (y, green.T, height)):
        found = square_mask(values.astype(np.uint8), size).astype(float)
        line = found[0] if values is x else found[:, 0]
        middles = (whole - side) / 2 + (np.arange(size) + 0.5) * side / size
        assert np.abs(line + 0.5 - middles).max() <= 0.51  # the pixel that contains the center
        assert np.abs(ramp[0] + 0.5 - middles)[2:-2].max() <= 0.6  # a bicubic ramp bends at the border


@settings(deadline=None, max_examples=40)
@given(st.integers(16, 90), st.integers(16, 90), st.integers(8, 48), st.integers(0, 1000))
def test_objects_lie_where_the_image_shows_them(width: int, height: int, size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    left, top = random.integers(0, width // 2), random.integers(0, height // 2)
    mask[top : top + height // 2, left : left + width // 2] = 1
    shown = square(Image.fromarray(np.repeat(mask[:, :, None] * 255, 3, 2)), size)[0] > 127
    found = square_mask(mask, size) == 1
    assume(found.any())
    # they differ at most along the outline
    inner = found[1:-1, 1:-1] & found[:-2, 1:-1] & found[2:, 1:-1] & found[1:-1, :-2] & found[1:-1, 2:]
    outer = found[1:-1, 1:-1] | found[:-2, 1:-1] | found[2:, 1:-1] | found[1:-1, :-2] | found[1:-1, 2:]
    assert shown[1:-1, 1:-1][inner].all()
    corners = found[:-2, :-2] | found[2:, 2:] | found[:-2, 2:] | found[2:, :-2]
    assert not shown[1:-1, 1:-1][~(outer | corners)].any()


def test_masks_of_the_right_size_are_left_as_they_are() -> None:
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(square_mask(values, 8), values)
    assert np.array_equal(square_mask(values[:, 2:6], 4), values[2:6, 2:6])


def test_values_are_never_mixed() -> None:
    values = np.random.default_rng(0).choice([0, 7, 255], (31, 47)).astype(np.uint8)
    for size in (8, 20, 64):
        assert set(np.unique(square_mask(values, size))) <= {0, 7, 255}


# ---- files


def test_a_palette_gives_its_indices(tmp_path: Path) -> None:
    values = np.array([[0, 1, 255], [2, 2, 0]], np.uint8)
    image = Image.fromarray(values, mode="P")
    image.putpalette([number for color in range(256) for number in (color, 255 - color, 3)])
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_mask(Image.open(tmp_path / "a.png")), values)
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "b.png")
    assert np.array_equal(read_mask(Image.open(tmp_path / "b.png")), values)
    assert read_mask(Image.fromarray(values > 0)).tolist() == [[0, 1, 1], [1, 1, 0]]


def test_a_turned_mask_is_set_upright_like_its_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    opened = Image.open(tmp_path / "a.png")
    assert side_lengths(opened) == (3, 4)
    assert np.array_equal(read_mask(opened), np.rot90(values, -1))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (Image.new("RGB", (2, 2)), "in color, but class numbers are needed"),
        (Image.new("RGBA", (2, 2)), "in color"),
        (Image.new("F", (2, 2)), "in color"),
        (torch.zeros(3, 2, 2, dtype=torch.uint8), "in color"),
        (Image.fromarray(np.full((2, 2), 256, np.uint16)), "values above 255"),
    ],
)
def test_what_is_no_mask_is_refused_with_what_would_work(image: Image.Image | torch.Tensor, said: str) -> None:
    with pytest.raises(NoMaskError, match=said):
        read_mask(image)


def pair(folder: Path, name: str, mask: Image.Image | None, size: tuple[int, int] = (6, 4)) -> None:
    """An image, and its mask if there is one."""
    for kind in ("images", "masks"):
        (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(folder / "images" / f"{name}.jpg")
    if mask is not None:
        mask.save(folder / "masks" / f"{name}.png")


def test_every_problem_is_said_at_once(tmp_path: Path) -> None:
    good = gray([[0, 1] * 3] * 4)
    for name, mask in (("a", good), ("b", good.convert("RGB")), ("c", gray([[1]])), ("d", good), ("e", good)):
        pair(tmp_path, name, mask)
    (tmp_path / "masks/d.png").write_bytes(b"no image")
    Image.fromarray(np.full((4, 6), 999, np.uint16)).save(tmp_path / "masks/e.png")
    images = build_source(str(tmp_path / "images"))
    masks = find_masks(images, str(tmp_path / "masks"), "train", "data.masks")
    with pytest.raises(UserError) as wrong:
        look_at_masks(masks, images, torch.arange(5), 16)
    text = str(wrong.value)
    for words in (
        "1 of 5 masks are in color, but class numbers are needed, one per pixel: save one number per pixel",
        "masks/b.png",
        "masks are of another size than their images: ",
        "masks/c.png (1x1, image 6x4)",
        "masks are unreadable: ",
        "masks are of values above 255",
        "masks/e.png",
    ):
        assert words in text
    assert len(wrong.value.problems) == 4


def test_jpeg_masks_are_refused(tmp_path: Path) -> None:
    gray([[0, 1] * 8] * 16).save(tmp_path / "a.jpg")
    with pytest.raises(NoMaskError, match="JPEG files, which change values"):
        read_mask(Image.open(tmp_path / "a.jpg"))


def test_the_classes_are_those_of_the_middle_square(tmp_path: Path) -> None:
    pair(tmp_path, "a", gray([[9, 0, 1, 2, 3, 9]] * 4))
    images = build_source(str(tmp_path / "images"))
    masks = find_masks(images, str(tmp_path / "masks"), "train", "data.masks")
    seen = look_at_masks(masks, images, torch.tensor([0]), 4)
    assert seen.numbers == [0, 1, 2, 3]
    assert Masks(masks, torch.tensor([0]), 4).rows(torch.tensor([0]))[0].unique().tolist() == seen.numbers


# ---- where they are


def test_a_folder_holds_the_mask_of_each_path(tmp_path: Path) -> None:
    for number, name in enumerate(("b/1", "a/1", "a/2")):
        pair(tmp_path, name, gray(np.full((4, 6), number)))
    gray([[9]]).save(tmp_path / "masks/more.png")  # of no image: it does not matter
    images = build_source(str(tmp_path / "images"))
    for spec in (str(tmp_path / "masks"), f"folder:{tmp_path / 'masks'}"):
        masks = find_masks(images, spec, "train", "data.masks")
        assert [int(read_mask(masks.image(row))[0, 0]) for row in range(len(masks))] == [1, 2, 0]
    some = Subset(images, torch.tensor([2]), "some")
    assert len(some.mask_columns) == 0


def test_masks_of_a_split_lie_in_its_folder_or_beside(tmp_path: Path) -> None:
    for split, number in (("train", 1), ("test", 2)):
        pair(tmp_path, f"{split}/a", gray(np.full((4, 6), number)))
    train = build_source(str(tmp_path / "images"))
    test = train.published_test()
    assert test is not None
    for images, split, number in ((train, "train", 1), (test, "test", 2)):
        masks = find_masks(images, str(tmp_path / "masks"), split, "data.masks")
        assert int(read_mask(masks.image(0))[0, 0]) == number


def test_missing_and_double_masks_are_named(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        pair(tmp_path, name, None if name == "b" else gray([[0]]))
    gray([[0]]).save(tmp_path / "masks/c.tif")
    images = build_source(str(tmp_path / "images"))
    with pytest.raises(UserError) as wrong:
        find_masks(images, str(tmp_path / "masks"), "train", "data.masks")
    missing, double = wrong.value.problems
    assert "1 of 3 images" in missing
    assert "such as b.jpg: a mask has the path of its image there (b.png)" in missing
    assert re.search(r"two masks for one image, such as c\.(tif|png): remove one", double)


def test_masks_among_the_images_are_refused(tmp_path: Path) -> None:
    pair(tmp_path, "a", gray([[0]]))
    with pytest.raises(UserError, match="lies in the folder of images"):
        find_masks(build_source(str(tmp_path)), str(tmp_path / "masks"), "train", "data.masks")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_has_a_column_of_masks(tmp_path: Path, kind: str) -> None:
    for number in range(4):
        pair(tmp_path, f"{number}", gray(np.full((4, 6), number)))
    names = [(f"{tmp_path}/images/{number}.jpg", f"{tmp_path}/masks/{number}.png") for number in range(4)]
    splits = ["train", "test", "train", "test"]
    if kind == "csv":
        lines = [f"{image},{mask},{split}" for (image, mask), split in zip(names, splits, strict=True)]
        (tmp_path / "a.csv").write_text("\n".join(["image,mask,split", *lines]))
    else:
        columns = {
            "image": [image for image, _ in names],
            "mask": [mask for _, mask in names],
            "split": splits,
        }
        features = datasets.Features(image=datasets.Image(), mask=datasets.Image(), split=datasets.Value("string"))
        datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "a.parquet")
    train = build_source(str(tmp_path / f"a.{kind}"))
    test = train.published_test()
    assert test is not None
    assert train.mask_columns == ("mask",)
    for images, numbers in ((train, [0, 2]), (test, [1, 3]), (Subset(train, torch.tensor([1]), "some"), [2])):
        masks = find_masks(images, "mask", "train", "data.masks")
        assert [int(read_mask(masks.image(row))[0, 0]) for row in range(len(masks))] == numbers
        assert look_at_masks(masks, images, torch.arange(len(masks)), 8).numbers == numbers
        assert masks.fingerprint != images.fingerprint
    with pytest.raises(UserError, match=r"data\.masks=depth: no such masks; it has mask; a table needs"):
        find_masks(train, "depth", "train", "data.masks")


def test_masks_are_the_same_kept_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        pair(tmp_path, name, gray(np.random.default_rng(ord(name)).integers(0, 5, (4, 6)).astype(np.uint8)))
    images = build_source(str(tmp_path / "images"))
    masks = find_masks(images, str(tmp_path / "masks"), "train", "data.masks")
    kept = Masks(masks, torch.tensor([0, 2]), 3)
    monkeypatch.setattr("common.data.masks.available_memory", lambda: 0)
    read = Masks(masks, torch.tensor([0, 2]), 3)
    for rows in (torch.tensor([1, 0]), torch.tensor([1])):
        assert torch.equal(kept.rows(rows), read.rows(rows))
    assert torch.equal(kept.only(torch.tensor([1])).rows(torch.tensor([0])), read.rows(torch.tensor([1])))
    assert torch.equal(read.only(torch.tensor([1])).rows(torch.tensor([0])), read.rows(torch.tensor([1])))


# ---- shapes


def grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask ``[h w]`` with the pixels next to it."""
    wide = np.pad(mask, 1)
    return wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]


def test_the_masks_of_shapes_have_the_color_of_their_object_up_to_their_border() -> None:
    source = ShapesSource("train", 400, seed=3)
    rows = (source.labels("texture").values == TEXTURES.index("plain")).nonzero().flatten().numpy()
    hues = np.array(HUES)[source.labels("color").values.numpy()[rows]]
    for image, mask, hue in zip(draw(3, "train", rows), draw_object(3, "train", rows), hues, strict=True):
        pixels = image / 255
        color = pixels[:, mask].mean(1)
        assert abs((colorsys.rgb_to_hsv(*color)[0] * 360 - hue + 180) % 360 - 180) < 20
        last, next_to = mask & grown(~mask), grown(mask) & ~mask
        apart = [float(np.linalg.norm(pixels[:, border].mean(1) - color)) for border in (last, next_to)]
        assert apart[0] < apart[1]


@pytest.mark.parametrize("column", MASKS)
def test_the_masks_of_shapes_have_the_class_of_the_object(column: str) -> None:
    source = ShapesSource("test", 70)
    masks, rows = source.masks(column), torch.arange(70)
    values = masks.bulk(rows)
    assert values is not None
    assert values.shape == (70, 1, 32, 32)
    classes = torch.ones(70) if column == "object" else source.labels(column).values + 1
    assert torch.equal(values.flatten(1).amax(1).long(), classes.long())
    assert masks.mask_names[0] == "background"
    assert len(masks.mask_names) == (2 if column == "object" else 1 + len(source.labels(column).names))
    assert np.array_equal(read_mask(masks.image(5)), values[5, 0])
    assert look_at_masks(masks, source, rows[:9], 32).values[4].nonzero().squeeze(1).tolist() == [0, int(classes[4])]


def test_classes_are_those_of_the_pixels_that_are_used(tmp_path: Path) -> None:
    """From five columns the square takes the last four, and at half the size every second of these."""
    pair(tmp_path, "a", gray([[7, 1, 2, 3, 4]] * 4), (5, 4))
    images = build_source(str(tmp_path / "images"))
    masks = find_masks(images, str(tmp_path / "masks"), "train", "data.masks")
    for size in (4, 2):
        seen = look_at_masks(masks, images, torch.tensor([0]), size)
        assert seen.numbers == Masks(masks, torch.tensor([0]), size).rows(torch.tensor([0]))[0].unique().tolist()
        assert sorted(seen.numbers + seen.lost) == [1, 2, 3, 4, 7]


def test_the_first_row_may_lack_a_mask_and_is_named(tmp_path: Path) -> None:
    for number in range(3):
        pair(tmp_path, f"{number}", gray(np.full((4, 6), number)))
    rows = [f"images/{number}.jpg,{f'masks/{number}.png' if number else ''}" for number in range(3)]
    (tmp_path / "a.csv").write_text("\n".join(["path,mask", *rows]))
    source = build_source(str(tmp_path / "a.csv"))
    with pytest.raises(UserError, match=r"1 of 3 rows have no mask in column 'mask', such as that of images/0\.jpg"):
        find_masks(source, "mask", "train", "data.masks")


def test_masks_may_lie_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    pair(tmp_path, "a", gray([[3] * 6] * 4))
    (tmp_path / "a.csv").write_text("path,mask\n~/images/a.jpg,~/masks/a.png")
    masks = find_masks(build_source(str(tmp_path / "a.csv")), "mask", "train", "data.masks")
    assert int(read_mask(masks.image(0))[0, 0]) == 3

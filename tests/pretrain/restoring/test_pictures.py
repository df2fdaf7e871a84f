"""Pictures at their own resolution, with masks and clean versions, and where their results go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.decode import open_image
from common.data.levels import Levels
from common.errors import UserError
from pretrain.restoring.config import PicturesToRestore
from pretrain.restoring.pictures import holes, open_pictures, with_opacity
from tests.common.data.samples import write_png
from tests.pretrain.restoring.toys import SIZES, pixels, save


def test_pictures_are_read_as_large_as_they_are(pictures: Path) -> None:
    opened = open_pictures(PicturesToRestore(source=str(pictures)), 1.0)
    assert opened.names == ["a.png", "broken.png", "deep/c.png", "deep/d.png", "deep/er/b.png"]
    found = opened.read(0)
    assert torch.equal(found.image, pixels(pictures / "a.png"))
    assert (found.hidden, found.clean) == (None, None)
    with pytest.raises(ValueError, match="not an image"):
        opened.read(1)


def test_one_picture_is_a_source(pictures: Path) -> None:
    opened = open_pictures(PicturesToRestore(source=str(pictures / "deep" / "c.png")), 1.0)
    assert opened.names == ["c.png"]
    assert torch.equal(opened.read(0).image, pixels(pictures / "deep" / "c.png"))


def test_holes_are_the_pixels_of_a_mask_that_are_not_0(pictures: Path, tmp_path: Path) -> None:
    (pictures / "broken.png").unlink()
    masks = {name: torch.zeros(1, *size, dtype=torch.uint8) for name, size in SIZES.items()}
    masks["a.png"][0, 3:7, 10:30] = 1
    for name, mask in masks.items():
        colored = name == "deep/c.png"
        save(mask.expand(3 if colored else 1, -1, -1), tmp_path / "masks" / Path(name).with_suffix(".png"))
    opened = open_pictures(PicturesToRestore(source=str(pictures), masks=str(tmp_path / "masks")), 1.0)
    hidden = opened.read(0).hidden
    assert hidden is not None
    assert torch.equal(hidden, masks["a.png"] > 0)
    assert not any(found is None or found.any() for found in (opened.read(row).hidden for row in (1, 2, 3)))
    # made smaller, whatever is partly hidden is hidden
    opened = open_pictures(PicturesToRestore(source=str(pictures), masks=str(tmp_path / "masks")), 0.5)
    smaller = opened.read(0)
    assert smaller.image.shape == (3, 20, 26)
    assert smaller.hidden is not None
    assert smaller.hidden.nonzero()[:, 1].unique().tolist() == [1, 2, 3]
    # of another size than its picture, or of inexact values
    save(torch.zeros(1, 5, 5, dtype=torch.uint8), tmp_path / "masks" / "a.png")
    with pytest.raises(ValueError, match="its mask has 5x5 pixels, but the picture has 52x40"):
        open_pictures(PicturesToRestore(source=str(pictures), masks=str(tmp_path / "masks")), 1.0).read(0)
    (tmp_path / "masks" / "a.png").unlink()
    Image.fromarray(np.zeros((40, 52, 3), np.uint8)).save(tmp_path / "masks" / "a.jpg")
    with pytest.raises(ValueError, match=r"in color|JPEG"):
        open_pictures(PicturesToRestore(source=str(pictures), masks=str(tmp_path / "masks")), 1.0).read(0)


def test_all_that_is_missing_is_said_at_once(pictures: Path, tmp_path: Path) -> None:
    save(torch.zeros(3, 40, 52, dtype=torch.uint8), tmp_path / "other" / "a.png")
    asked = PicturesToRestore(source=str(pictures), masks=str(tmp_path / "other"), clean=str(tmp_path / "other"))
    with pytest.raises(UserError) as error:
        open_pictures(asked, 1.0)
    assert "data.masks: 4 of 5 images" in str(error.value)
    assert "have no clean version in" in str(error.value)


def test_a_clean_version_has_the_levels_of_its_picture(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 16
    for folder, more in (("noisy", 3000), ("clean", 0)):
        (tmp_path / folder).mkdir()
        Image.fromarray(values + np.uint16(more)).save(tmp_path / folder / "a.png")
    asked = PicturesToRestore(source=str(tmp_path / "noisy"), clean=str(tmp_path / "clean"))
    found = open_pictures(asked, 1.0).read(0)
    assert found.clean is not None
    # of 12 bits, as the noisy one; by itself it has 10
    assert torch.equal(found.clean[0], torch.arange(64, dtype=torch.uint8).view(8, 8))
    opened = open_pictures(asked, 1.0)
    opened.levels = Levels(0, 65535)
    assert opened.read(0).image.max() == (3000 + 63 * 16) // 256


@pytest.mark.parametrize(
    ("mode", "space", "kept"), [("RGBA", b"RGB ", True), ("P", b"RGB ", True), ("L", b"GRAY", False)]
)
def test_a_color_profile_is_kept_where_it_is_one_of_rgb(mode: str, space: bytes, kept: bool, tmp_path: Path) -> None:
    profile = bytes(16) + space + bytes(108)
    Image.new(mode, (8, 8)).save(tmp_path / "a.png", icc_profile=profile)
    found = open_pictures(PicturesToRestore(source=str(tmp_path)), 1.0).read(0).profile
    assert found == (profile if kept else None)


def test_a_clean_version_has_the_size_of_its_picture(pictures: Path, tmp_path: Path) -> None:
    (pictures / "broken.png").unlink()
    for name in SIZES:
        save(pixels(pictures / name), tmp_path / "clean" / Path(name).with_suffix(".png"))
    opened = open_pictures(PicturesToRestore(source=str(pictures), clean=str(tmp_path / "clean")), 1.0)
    clean = opened.read(0).clean
    assert clean is not None
    assert torch.equal(clean, pixels(pictures / "a.png"))
    save(torch.zeros(3, 5, 5, dtype=torch.uint8), tmp_path / "clean" / "a.png")
    opened = open_pictures(PicturesToRestore(source=str(pictures), clean=str(tmp_path / "clean")), 1.0)
    with pytest.raises(ValueError, match="its clean version has 5x5 pixels, but the picture has 52x40"):
        opened.read(0)


@pytest.mark.parametrize(
    "kind", ["bits", "gray", "palette", "16 bits", "16 bits in color", "floats", "color", "opaque"]
)
def test_holes_of_every_kind_of_mask(kind: str, tmp_path: Path) -> None:
    hidden = np.zeros((5, 7), bool)
    hidden[1:3, 2:6] = True
    small = hidden.astype(np.uint16)  # 1 of 65535: its high byte is 0
    color = np.stack([np.zeros_like(small), small, np.zeros_like(small)], 2)
    if kind == "16 bits in color":
        write_png(tmp_path / "mask.png", color, (9, 9, 9))
    else:
        image = {
            "bits": lambda: Image.fromarray(hidden),
            "gray": lambda: Image.fromarray(small.astype(np.uint8)),
            "palette": lambda: Image.fromarray(small.astype(np.uint8)).convert("P"),
            "16 bits": lambda: Image.fromarray(small),
            "floats": lambda: Image.fromarray(hidden.astype(np.float32) / 1000),
            "color": lambda: Image.fromarray(color.astype(np.uint8)),
            "opaque": lambda: Image.fromarray(color.astype(np.uint8)).convert("RGBA"),
        }[kind]()
        image.save(tmp_path / ("mask.tif" if kind == "floats" else "mask.png"))
    [path] = tmp_path.iterdir()
    assert np.array_equal(holes(open_image(path)), hidden)


def test_holes_are_turned_as_their_picture_is_and_transparent_ones_are_refused(tmp_path: Path) -> None:
    hidden = np.zeros((5, 7), np.uint8)
    hidden[0, :3] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(hidden).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(holes(open_image(tmp_path / "turned.png")), np.rot90(hidden, -1) > 0)
    clear = Image.fromarray(hidden).convert("LA")
    clear.putalpha(Image.fromarray(255 - hidden))
    clear.save(tmp_path / "clear.png")
    with pytest.raises(ValueError, match="transparency, which may stand for either: save it without, black where"):
        holes(open_image(tmp_path / "clear.png"))


def test_on_white_a_picture_with_opacity_looks_as_it_was_seen() -> None:
    a, color = np.meshgrid(np.arange(256), np.arange(0, 256, 5))  # every opacity
    seen = np.rint(255 - (255 - color) * a / 255).astype(np.uint8)
    picture = with_opacity(torch.from_numpy(np.stack([seen] * 3)), torch.from_numpy(a.astype(np.uint8))[None])
    assert picture.mode == "RGBA"
    assert np.array_equal(np.asarray(picture.getchannel("A")), a)
    on_white = 255 - (255 - np.asarray(picture).astype(float)[..., 0]) * a / 255
    assert np.abs(on_white - seen).max() <= 0.5
    whole = np.asarray(picture)[:, 255]
    assert np.array_equal(whole[:, :3], np.stack([seen[:, 255]] * 3, 1))  # opaque pixels stay exactly as they are
    assert (np.asarray(picture)[:, 0, :3] == 255).all()
    # what would have to be darker than black is black
    black = with_opacity(torch.zeros(3, 1, 1, dtype=torch.uint8), torch.full((1, 1, 1), 128, dtype=torch.uint8))
    assert black.getpixel((0, 0)) == (0, 0, 0, 128)

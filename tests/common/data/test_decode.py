from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torchvision.transforms.v2 import functional as F

from common.data import build_source, decode, load_images
from common.data.decode import image_suffixes, opacity, open_image, square, to_rgb, upright
from common.data.levels import Levels
from tests.common.data.samples import picture, write_png


def smooth(width: int, height: int) -> Image.Image:
    """A photograph-like picture: no fine detail, so that resamplers agree."""
    return picture(3, 8, 8).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("shape", [(64, 48), (48, 64), (61, 47), (300, 200), (10, 14), (32, 32)])
def test_shorter_side_is_scaled_and_the_center_cropped(shape: tuple[int, int]) -> None:
    image = smooth(*shape)
    width, height = image.size
    scale = 32 / min(shape)
    scaled = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    reference = np.asarray(ImageOps.fit(scaled, (32, 32))).transpose(2, 0, 1).astype(int)
    ours = square(image, 32)
    assert ours.shape == (3, 32, 32)
    assert np.abs(ours - reference).mean() < 3


def test_the_right_size_is_left_untouched() -> None:
    image = picture(0, 32, 32)
    assert np.array_equal(square(image, 32), np.asarray(image).transpose(2, 0, 1))
    tensor = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    assert np.array_equal(square(tensor, 32), tensor.numpy())
    gray = torch.randint(0, 256, (1, 32, 32), dtype=torch.uint8)
    assert np.array_equal(square(gray, 32), gray.expand(3, -1, -1).numpy())


def test_scaling_down_does_not_alias() -> None:
    # a fine checkerboard averages to gray
    board = np.indices((256, 256)).sum(0) % 2 * 255
    small = square(Image.fromarray(board.astype(np.uint8)).convert("RGB"), 32)
    assert np.abs(small[:, 2:-2, 2:-2].astype(int) - 128).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int, tmp_path: Path) -> None:
    # stored so that turning it by its tag gives the upright picture back
    upright = smooth(40, 40)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that reverses each orientation
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(square(open_image(tmp_path / "a.png"), 40), square(upright, 40))


def test_a_large_jpeg_agrees_with_decoding_it_whole(tmp_path: Path) -> None:
    smooth(800, 600).save(tmp_path / "a.jpg", quality=95)
    whole = Image.open(tmp_path / "a.jpg").convert("RGB").crop((100, 0, 700, 600))
    reference = np.asarray(whole.resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1).astype(int)
    assert np.abs(square(open_image(tmp_path / "a.jpg"), 32) - reference).mean() < 2


GRAY = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))


@pytest.mark.parametrize(
    ("name", "image", "tolerance"),
    [
        ("gray", Image.fromarray(GRAY), 0),
        ("palette", Image.fromarray(GRAY).convert("P"), 0),
        ("gray and alpha", Image.fromarray(GRAY).convert("LA"), 0),
        ("gray and alpha, multiplied", Image.fromarray(GRAY).convert("LA").convert("La"), 0),
        ("16 bit", Image.fromarray(GRAY.astype(np.uint16) * 256), 0),
        ("32 bit holding 16", Image.fromarray(GRAY.astype(np.int32) * 256), 0),
        ("float in [0, 1]", Image.fromarray(GRAY.astype(np.float32) / 255), 0),
        ("float in [0, 255]", Image.fromarray(GRAY.astype(np.float32)), 0),
        ("CMYK", Image.fromarray(GRAY).convert("RGB").convert("CMYK"), 1),
        ("YCbCr", Image.fromarray(GRAY).convert("RGB").convert("YCbCr"), 1),
    ],
)
def test_every_mode_becomes_rgb(name: str, image: Image.Image, tolerance: int) -> None:
    rgb = np.asarray(to_rgb(image)).astype(int)
    assert rgb.shape == (32, 32, 3), name
    assert np.abs(rgb - GRAY[..., None].astype(int)).max() <= tolerance


@pytest.mark.parametrize("kind", ["little.tif", "big.tif", "gray.pgm", "gray.png"])
@pytest.mark.parametrize("brightest", [200, 60_000], ids=["dark", "bright"])
def test_16_bit_files_keep_their_high_byte_in_any_format(tmp_path: Path, kind: str, brightest: int) -> None:
    values = np.linspace(0, brightest, 64).astype(np.uint16).reshape(8, 8)
    if kind == "gray.pgm":
        (tmp_path / kind).write_bytes(b"P5 8 8 65535\n" + values.astype(">u2").tobytes())
    elif kind == "big.tif":
        Image.frombytes("I;16B", (8, 8), values.astype(">u2").tobytes()).save(tmp_path / kind)
    else:
        Image.fromarray(values).save(tmp_path / kind)
    opened = open_image(tmp_path / kind)
    assert isinstance(opened, Image.Image)
    assert np.array_equal(np.asarray(to_rgb(opened, Levels(0, 65535)))[..., 0], values >> 8)


def test_wider_values_are_stretched() -> None:
    rgb = np.asarray(to_rgb(Image.fromarray(np.array([[-5.0, 0.0, 5.0]], np.float32))))
    assert rgb[0, :, 0].tolist() == [0, 128, 255]


def test_transparent_parts_are_white() -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (10, 20, 30, 0))
    assert np.asarray(to_rgb(image)).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    palette = Image.new("P", (1, 1), 0)
    palette.info["transparency"] = 0
    assert np.asarray(to_rgb(palette)).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_a_color_marked_as_transparent_is_white(tmp_path: Path, mode: str) -> None:
    colors: dict[str, tuple[Any, Any]] = {"RGB": ((10, 20, 30), (40, 50, 60)), "L": (10, 40), "I;16": (2560, 10240)}
    clear, kept = colors[mode]
    image = Image.new(mode, (2, 1), clear)
    image.putpixel((1, 0), kept)
    image.save(tmp_path / "a.png", transparency=clear)
    opened = open_image(tmp_path / "a.png")
    assert isinstance(opened, Image.Image)
    rgb = np.asarray(to_rgb(opened, Levels(0, 65535)))
    assert rgb.tolist() == [[[255] * 3, [40, 50, 60] if mode == "RGB" else [40] * 3]]


def test_a_transparent_color_of_16_bits_is_found_among_pixels_of_8() -> None:
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (0, 0, 0))
    image.info["transparency"] = (10 << 8, 20 << 8, 30 << 8)  # as PIL reads a PNG of 3 x 16 bits
    assert np.asarray(to_rgb(image)).tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize("as_bytes", [True, False])
def test_an_image_too_large_for_pil_is_read_up_to_a_bound_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_bytes: bool
) -> None:
    path = tmp_path / "a.png"
    picture(1).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    data = path.read_bytes() if as_bytes else path
    assert np.array_equal(square(open_image(data), 16), square(picture(1), 16))
    assert Image.MAX_IMAGE_PIXELS == 10
    monkeypatch.setattr(decode, "MAX_PIXELS", 50)
    with pytest.raises(ValueError, match="the image has more than 50 pixels"):
        open_image(data)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_what_only_torchvision_reads_is_read_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    picture(1).save(buffer, "PNG")
    monkeypatch.setattr(Image, "open", lambda *_: (_ for _ in ()).throw(UnidentifiedImageError()))
    decoded = open_image(buffer.getvalue())
    assert isinstance(decoded, torch.Tensor)
    assert torch.equal(decoded, F.pil_to_tensor(picture(1)))


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n but no more"])
def test_broken_files_raise(data: bytes) -> None:
    with pytest.raises((OSError, ValueError)):
        square(open_image(data), 8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "a pointer of Git LFS, not the image",
        ),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page, not an image: download it again"),
        (b"<HTML><body>404", "a web page, not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing, which has no pixels: save it as PNG"),
    ],
)
def test_what_was_saved_in_place_of_an_image_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}"):
        open_image(data)


def test_stereo_pictures_are_found_and_their_first_view_is_read(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.mpo", save_all=True, append_images=[picture(2)], quality=95)
    picture(1).save(tmp_path / "b.jpg", quality=95)
    first, second = load_images(build_source(str(tmp_path)), 8).rows(torch.arange(2))
    assert torch.equal(first, second)


def test_suffixes_cover_the_usual_and_leave_out_films() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".heic", ".avif", ".ppm"} <= image_suffixes()
    assert not {".mpg", ".pdf", ".txt", ".h5"} & image_suffixes()


def test_pil_tries_frequent_types_before_rare_ones() -> None:
    # in a process of its own: PIL loads its plugins once, and the order remains
    code = "from common.data.decode import image_suffixes as s; from PIL import Image; s(); print(*Image.ID[:6])"
    order = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"JPEG", "PNG"} <= set(order)


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA"])
def test_a_channel_of_opacity_is_found_in_every_mode(mode: str) -> None:
    alpha = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20)
    if mode == "PA":
        image = Image.new("P", (4, 3), 90)
        image.putalpha(alpha)
        assert image.mode == mode
    else:
        straight = "LA" if mode.startswith("L") else "RGBA"
        bands = [Image.new("L", (4, 3), 90)] * (len(straight) - 1)
        image = Image.merge(straight, (*bands, alpha)).convert(mode)
    found = opacity(image)
    assert found is not None
    assert np.array_equal(np.asarray(found), np.asarray(alpha))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_a_value_that_is_marked_as_transparent_has_no_opacity(mode: str, tmp_path: Path) -> None:
    values = np.array([[0, 1, 0], [1, 1, 0]], np.uint8)
    image = {
        "1": lambda: Image.fromarray(values.astype(bool)),
        "P": lambda: Image.fromarray(values).convert("P"),
        "RGB": lambda: Image.fromarray(np.stack([values] * 3, 2)),
        "I;16": lambda: Image.fromarray(values.astype(np.uint16) * 300),
    }.get(mode, lambda: Image.fromarray(values))()
    clear = {"RGB": (1, 1, 1), "I;16": 300, "1": 255}.get(mode, 1)
    image.save(tmp_path / "a.png", transparency=clear)
    found = opacity(open_image(tmp_path / "a.png"))
    assert found is not None
    assert np.array_equal(np.asarray(found), np.where(values, 0, 255))


def test_opacity_is_upright_as_its_image_is_and_one_of_16_bits_is_told_exactly(tmp_path: Path) -> None:
    alpha = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(np.stack([alpha] * 4, 2))
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    opened = open_image(tmp_path / "turned.png")
    found = opacity(opened)
    assert found is not None
    assert np.array_equal(np.asarray(found), np.rot90(alpha, -1))
    assert upright(opened).size == found.size  # asked first, it leaves the image as it is
    deep = np.full((2, 2, 3), 300, np.uint16)
    deep[0, 0] = 301  # the same high byte
    write_png(tmp_path / "deep.png", deep, (301, 301, 301))
    found = opacity(open_image(tmp_path / "deep.png"))
    assert found is not None
    assert np.asarray(found).tolist() == [[0, 255], [255, 255]]


def test_what_cannot_be_transparent_has_no_opacity() -> None:
    for image in (Image.new("RGB", (2, 2)), Image.new("L", (2, 2)), Image.new("P", (2, 2)), Image.new("I;16", (2, 2))):
        assert opacity(image) is None
    assert opacity(torch.zeros(3, 2, 2, dtype=torch.uint8)) is None

"""Files as people have them: what a file says besides its pixels does not decide whether it is read."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import io
import struct
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from common.data import build_source, load_images
from common.data.decode import open_image, square
from common.data.levels import Levels
from common.errors import UserError
from tests.common.data.samples import gray_tiff

UPRIGHT = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8))
HEIC = b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heic" + bytes(40)  # the first bytes of what a phone writes


def chunk(name: bytes, data: bytes, *, broken: bool = False) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ broken)


def png(image: Image.Image = UPRIGHT, *, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG with chunks before and after its pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = buffer.getvalue()
    return data[:33] + before + data[33:-12] + after + data[-12:]


MANY = zlib.compress(bytes(900_000))
LONG = zlib.compress(bytes(2_000_000))
ODD = {
    "a long text": png(before=chunk(b"zTXt", b"workflow\0\0" + LONG)),
    "a long text after the pixels": png(after=chunk(b"zTXt", b"workflow\0\0" + LONG)),
    "a long international text": png(after=chunk(b"iTXt", b"workflow\0\1\0\0\0" + LONG)),
    "many texts": png(
        before=b"".join(chunk(b"zTXt", b"%d\0\0" % n + zlib.compress(bytes(900_000))) for n in range(80))
    ),
    "a text with a wrong checksum": png(before=chunk(b"tEXt", b"a\0b", broken=True)),
    "a long profile": png(before=chunk(b"iCCP", b"p\0\0" + LONG)),
    "a broken profile": png(before=chunk(b"iCCP", b"p\0\0garbage")),
    "a broken orientation": png(before=chunk(b"eXIf", b"II")),
    "bytes after its end": png() + b"and more" * 9,
    "no end": png()[:-12],
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("as_bytes", [True, False])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_picture_is_read_whatever_else_is_in_its_file(tmp_path: Path, name: str, as_bytes: bool) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(ODD[name])
    assert np.array_equal(square(open_image(ODD[name] if as_bytes else path), 16), square(UPRIGHT, 16))


def test_a_long_text_does_not_cost_the_alpha_channel() -> None:
    clear = UPRIGHT.copy()
    clear.putalpha(0)
    data = png(clear, before=chunk(b"zTXt", b"workflow\0\0" + LONG))
    assert square(open_image(data), 16).min() == 255  # on white, as without the text


def test_missing_pixels_are_missing_whatever_text_follows() -> None:
    text = chunk(b"zTXt", b"workflow\0\0" + LONG)
    whole = png()
    start = whole.index(b"IDAT") - 4
    size = int.from_bytes(whole[start : start + 4], "big")
    half = chunk(b"IDAT", whole[start + 8 : start + 8 + size // 2])
    for data in (whole[:start] + half + text + whole[-12:], whole[: start + 8 + size // 2]):
        with pytest.raises((OSError, ValueError)):
            square(open_image(data), 16)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_jpeg_with_a_broken_orientation_is_read(tmp_path: Path) -> None:
    UPRIGHT.save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", quality=95)
    plain = io.BytesIO()
    UPRIGHT.save(plain, "JPEG", quality=95)
    assert np.array_equal(square(open_image(tmp_path / "a.jpg"), 16), square(open_image(plain.getvalue()), 16))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_a_tiff_in_which_0_is_white_is_inverted(kind: type[np.generic]) -> None:
    ramp = np.tile(np.arange(0, 256, 16), (16, 1))
    values, levels, number = {
        np.uint8: (ramp, None, 1),
        np.uint16: (ramp * 257, Levels(0, 65535), 1),
        np.float32: (ramp / 255, Levels(0, 1), 3),
    }[kind]
    for photometric, expected in ((1, ramp), (0, 255 - ramp)):
        data = gray_tiff(values.astype(kind), photometric=photometric, sample_format=number)
        assert np.array_equal(square(open_image(data), 16, levels)[0], expected)


@pytest.mark.parametrize(
    ("kind", "sample_format", "reason"),
    [
        (np.int8, 2, "PIL reads signed 8-bit numbers as unsigned ones: save it with 16 bits"),
        (np.float64, 3, "not a TIFF that PIL can read: save it with 8 or 16 bits in one or three channels, or one of"),
        (np.float16, 3, "not a TIFF that PIL can read"),
    ],
)
def test_a_tiff_that_would_be_misread_says_what_can_be_read(kind: type, sample_format: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        open_image(gray_tiff(np.zeros((8, 8), kind), sample_format=sample_format))


def test_heic_without_a_decoder_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "IMG_1.HEIC").write_bytes(HEIC)
    with pytest.raises(UserError, match=r"1\.HEIC \(HEIC images need another package here: pip install pillow-heif"):
        load_images(build_source(f"folder:{tmp_path}"), 8)


def test_what_a_phone_writes_is_read_upright(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif, which is optional, is not installed")
    drawn = np.zeros((48, 64, 3), np.uint8)
    drawn[:24, :, 0] = drawn[24:, :, 2] = 255
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6  # by a quarter, clockwise
    file = pillow_heif.from_pillow(Image.fromarray(drawn))
    file.save(tmp_path / "IMG_1.HEIC", quality=95)
    file.save(tmp_path / "IMG_2.HIF", quality=95, exif=turned.tobytes())
    first, second = load_images(build_source(str(tmp_path)), 48).rows(torch.arange(2)).int()
    wanted = torch.from_numpy(square(Image.fromarray(drawn), 48)).int()
    (tmp_path / "IMG_3.HEIC").write_bytes((tmp_path / "IMG_1.HEIC").read_bytes()[:400])
    with pytest.raises(ValueError, match="pillow-heif cannot read this HEIC file"):
        open_image(tmp_path / "IMG_3.HEIC")
    assert (first - wanted).abs().float().mean() < 4
    assert (second - wanted.rot90(-1, (1, 2))).abs().float().mean() < 4


def test_heic_is_read_by_its_package_if_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("pillow_heif")
    package.__spec__ = importlib.machinery.ModuleSpec("pillow_heif", None)
    opened = Image.open

    def register() -> None:
        monkeypatch.setattr(Image, "open", lambda file: UPRIGHT if isinstance(file, io.BytesIO) else opened(file))

    package.register_heif_opener = register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    assert np.array_equal(square(open_image(HEIC), 16), square(UPRIGHT, 16))

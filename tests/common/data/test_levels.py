"""Images of more than 8 bits per channel: one scale for a whole source, found from its values."""

from __future__ import annotations

import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from common.data import build_source, load_images
from common.data.decode import open_image, to_rgb
from common.data.levels import Levels, levels_of
from common.data.source import Subset
from common.errors import UserError


def write_gray(folder: Path, brightest: list[int], kind: str = "png") -> str:
    """One 16-bit image of 16 px per number, a ramp from 0 to it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, top in enumerate(brightest):
        ramp = np.tile(np.linspace(0, top, 16), (16, 1)).astype(np.uint16)
        Image.fromarray(ramp).save(folder / f"{number}.{kind}")
    return f"folder:{folder}"


def write_color(path: Path, values: NDArray[np.uint16]) -> Path:
    """A PNG of 16 bits and two (gray and alpha) to four channels, which PIL cannot write."""
    kind = {2: 4, 3: 2, 4: 6}[values.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", *values.shape[1::-1], 16, kind, 0, 0, 0))]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


def write_color_tiff(path: Path, values: NDArray[np.uint16]) -> Path:
    """An uncompressed little-endian TIFF of 16 bits per channel."""
    height, width, _ = values.shape
    pixels = values.astype("<u2").tobytes()
    bits = 8 + len(pixels)  # where the three numbers of bits are
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 8)]
    tags += [(277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(pixels))]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    end = struct.pack("<HHH", 16, 16, 16) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(b"II*\0" + struct.pack("<I", bits + 6) + pixels + end)
    return path


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("cache", ["ram", "none"])
def test_the_values_decide_the_bits_and_not_the_file(tmp_path: Path, bits: int, kind: str, cache: Any) -> None:
    source = build_source(write_gray(tmp_path, [2**bits - 1, 2**bits // 4], kind))
    assert source.levels == Levels(0, 2**bits - 1)
    bright, dark = load_images(source, 16, cache=cache).rows(torch.arange(2)).amax((1, 2, 3)).tolist()
    assert bright == 255
    assert dark == 64  # a dark image stays dark: the scale is that of all


def test_floats_share_one_scale() -> None:
    fits = {(0.0, 1.0): Levels(0, 1), (0.0, 200.0): Levels(0, 255), (-1000.0, 3000.0): Levels(-1000, 3000)}
    for (low, high), expected in fits.items():
        images = [Image.fromarray(np.full((2, 2), value, np.float32)) for value in (low, high, float("nan"))]
        assert levels_of(images) == expected
    half = Image.fromarray(np.full((1, 1), 1000.0, np.float32))
    assert np.asarray(to_rgb(half, Levels(-1000, 3000)))[0, 0].tolist() == [128] * 3


def test_values_beyond_the_levels_are_clipped() -> None:
    image = Image.fromarray(np.array([[0, 4095, 5000]], np.uint16))
    assert np.asarray(to_rgb(image, Levels(0, 4095)))[0, :, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("kind", ["png", "alpha.png", "tif"])
def test_color_files_of_16_bits_keep_the_bits_that_are_used(tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (8, 9, 3)).astype(np.uint16)
    values[0, 0] = 4095
    opaque = np.full((8, 9, 1), 65535, np.uint16)
    path = tmp_path / f"a.{kind}"
    if kind == "tif":
        write_color_tiff(path, values)
    else:
        write_color(path, np.concatenate([values, opaque], 2) if "alpha" in kind else values)
    opened = open_image(path)
    assert isinstance(opened, Image.Image)
    source = build_source(f"folder:{tmp_path}")
    assert source.levels == Levels(0, 4095)
    loaded = load_images(source, 8).rows(torch.tensor([0]))[0]
    expected = Image.fromarray((values >> 4).astype(np.uint8)).resize(
        (8, 8), Image.Resampling.BICUBIC, (0.5, 0, 8.5, 8)
    )
    assert (loaded.permute(1, 2, 0).int() - torch.tensor(np.asarray(expected)).int()).abs().max() <= 1


@pytest.mark.parametrize("bits", [12, 16])
def test_gray_files_with_alpha_of_16_bits_keep_the_bits_that_are_used(tmp_path: Path, bits: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (8, 8, 2)).astype(np.uint16)
    values[0, 0, 0], values[..., 1], values[1, 1, 1] = 2**bits - 1, 65535, 0
    write_color(tmp_path / "a.png", values)
    source = build_source(f"folder:{tmp_path}")
    assert source.levels == Levels(0, 2**bits - 1)
    loaded = load_images(source, 8).rows(torch.tensor([0]))[0]
    expected = (values[..., 0] >> (bits - 8)).astype(np.uint8)
    expected[1, 1] = 255  # transparent
    assert np.array_equal(loaded.numpy(), np.stack([expected] * 3))


def test_color_files_that_use_16_bits_are_what_pil_makes_of_them(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (8, 8, 3)).astype(np.uint16)
    write_color(tmp_path / "a.png", values)
    loaded = load_images(build_source(f"folder:{tmp_path}"), 8).rows(torch.tensor([0]))[0]
    assert np.array_equal(loaded.permute(1, 2, 0).numpy(), values >> 8)


@pytest.fixture
def few_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images give four patches, not 100,000."""
    monkeypatch.setattr("common.data.patches.ROWS", 4)
    monkeypatch.setattr("common.data.patches.EACH", 2)


@pytest.mark.usefixtures("few_patches")
def test_parts_and_patches_of_a_source_share_its_levels(tmp_path: Path) -> None:
    source = build_source(write_gray(tmp_path, [900, 4000]))
    assert Subset(source, torch.tensor([0]), "the dark one").levels == Levels(0, 4095)
    patches = build_source(f"patches:folder:{tmp_path}")
    assert patches.levels == patches.at(16).levels == Levels(0, 4095)
    assert load_images(patches, 16).rows(torch.tensor([0])).max() == 900 >> 4  # a patch of the whole dark image


def test_a_test_set_can_have_the_levels_of_the_training_set(tmp_path: Path) -> None:
    test = build_source(write_gray(tmp_path, [500]))
    assert load_images(test, 16).rows(torch.tensor([0])).max() == 500 >> 2
    scaled = load_images(test, 16, levels=Levels(0, 4095))
    assert scaled.rows(torch.tensor([0])).max() == 500 >> 4
    assert scaled.fingerprint != load_images(test, 16).fingerprint


def test_the_range_is_logged_and_8_bits_are_not_worth_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "retouch")
    load_images(build_source(write_gray(tmp_path / "deep", [4000])), 16)
    assert "images of more than 8 bits; their values 0 to 4095 (12 bits) become 0 to 255" in caplog.text
    caplog.clear()
    source = build_source("shapes:train:4")
    loaded = load_images(source, 32)
    assert loaded.levels is None
    assert loaded.fingerprint == source.at(32).fingerprint
    assert "bits" not in caplog.text


@pytest.mark.usefixtures("few_patches")
def test_levels_can_be_set(tmp_path: Path) -> None:
    spec = write_gray(tmp_path, [900, 4000])
    source = build_source(spec, levels=(0, 1023))
    assert source.levels == (0, 1023)
    images = load_images(source, 16)
    assert images.levels == (0, 1023)
    assert images.rows(torch.arange(2)).amax((1, 2, 3)).tolist() == [900 >> 2, 255]
    assert images.fingerprint != load_images(build_source(spec), 16).fingerprint
    assert Subset(source, torch.tensor([0]), "one").levels == (0, 1023)
    patches = build_source(f"patches:{spec}", levels=(0, 1023))
    assert load_images(patches, 16).rows(torch.tensor([0])).max() == 900 >> 2


def test_levels_for_images_of_8_bits_are_refused(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    for spec in (f"folder:{tmp_path}", "shapes", "photos:test:9"):
        with pytest.raises(
            UserError, match=r"data\.levels: .* has images of 8 bits, for which there is nothing to set"
        ):
            build_source(spec, levels=(0, 4095))
    with pytest.raises(UserError, match=r"data\.levels: folder:"):
        build_source(f"patches:folder:{tmp_path}", levels=(0, 4095))
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    assert build_source(f"folder:{tmp_path}", levels=(0, 4095)).levels == (0, 4095)


@pytest.mark.parametrize(("value", "what"), [(3, "nearly black"), (200, "of a single color")])
@pytest.mark.parametrize("cache", ["ram", "none"])
def test_empty_images_are_warned_of(
    tmp_path: Path, value: int, what: str, cache: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        Image.new("RGB", (16, 16), (value, value, value) if number else (255, 0, 0)).save(tmp_path / f"{number}.png")
    load_images(build_source(f"folder:{tmp_path}"), 8, cache=cache)
    count = 3 if what == "nearly black" else 4
    assert f"{count} of 4 images looked at are {what}" in caplog.text

"""Values of more than 8 bits, and pixels that mean no value: they are read as they were written."""

from __future__ import annotations

import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from common.data import build_source, load_images
from common.data.decode import open_image, upright
from common.data.levels import Levels, lone_value
from common.errors import UserError
from tests.common.data.samples import write_png

RAMP = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
NO_DATA = 42113


def write_tiff(path: Path, values: NDArray[Any], *, extra: list[int] | None = None, apart: bool = False) -> None:
    """An uncompressed little-endian TIFF of unsigned numbers ``[h w c]``; ``apart``: one plane per channel."""
    height, width, channels = values.shape
    bits = 8 * values.itemsize
    planes = [values[..., one] for one in range(channels)] if apart else [values]
    pixels = [plane.astype(plane.dtype.newbyteorder("<")).tobytes() for plane in planes]
    tags: list[tuple[int, list[int]]] = [(256, [width]), (257, [height]), (258, [bits] * channels), (259, [1])]
    tags += [(262, [2 if channels > 1 else 1]), (273, [0] * len(pixels)), (277, [channels]), (278, [height])]
    tags += [(279, [len(one) for one in pixels]), (284, [2 if apart else 1])]
    tags += [] if extra is None else [(338, extra)]
    tags += [(339, [1] * channels)]
    longer = 8 + 2 + 12 * len(tags) + 4
    first = longer + sum(4 * len(numbers) for _, numbers in tags if len(numbers) > 1)
    entries = blob = b""
    for tag, numbers in tags:
        if tag == 273:
            numbers = [first + sum(map(len, pixels[:one])) for one in range(len(pixels))]
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        place = packed if len(numbers) == 1 else struct.pack("<I", longer + len(blob))
        entries += struct.pack("<HHI", tag, 4, len(numbers)) + place
        blob += b"" if len(numbers) == 1 else packed
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(head + blob + b"".join(pixels))


def read(folder: Path) -> NDArray[np.uint8]:
    """The only picture of a folder, 8 px: ``[8 8 3]``."""
    return load_images(build_source(f"folder:{folder}"), 8).rows(torch.tensor([0]))[0].permute(1, 2, 0).numpy()


def test_numbers_of_32_bits_without_a_sign_are_none_with_one(tmp_path: Path) -> None:
    values = (np.arange(64, dtype=np.uint32).reshape(8, 8, 1) << 26) + 5
    write_tiff(tmp_path / "a.tif", values)
    expected = np.rint((values - 5.0) * (255 / (values.max() - 5.0)))
    assert np.abs(read(tmp_path) - expected).max() <= 1
    alone = open_image(tmp_path / "a.tif")
    assert np.abs(np.asarray(upright(alone)) - expected).max() <= 1


def test_color_of_16_bits_with_separate_planes_is_refused_and_of_8_bits_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (8, 8, 3)).astype(np.uint16)
    write_tiff(tmp_path / "a.tif", values, apart=True)
    with pytest.raises(UserError, match=r"keeps its channels apart: save it with them interleaved"):
        read(tmp_path)
    write_tiff(tmp_path / "a.tif", values)
    assert np.array_equal(read(tmp_path), values >> 8)
    write_tiff(tmp_path / "a.tif", (values >> 8).astype(np.uint8), apart=True)
    assert np.array_equal(read(tmp_path), values >> 8)


@pytest.mark.parametrize(("kind", "nothing"), [("float", -9999.0), ("float", -3.4e38), ("uint16", 65535)])
def test_missing_data_that_a_file_names_is_black_and_sets_no_scale(tmp_path: Path, kind: str, nothing: float) -> None:
    values = RAMP if kind == "float" else (RAMP * 4095).astype(np.uint16)
    holed = values.copy()
    holed[:2] = nothing
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[NO_DATA] = str(nothing)
    Image.fromarray(holed).save(tmp_path / "a.tif", tiffinfo=tags)
    found = read(tmp_path)[..., 0]
    assert (found[:2] == 0).all()
    assert np.abs(found[2:] - 255 * RAMP[2:]).max() <= 1


def test_a_value_far_from_all_others_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    holed = (RAMP * 3000).astype(np.uint16)
    holed[:2] = 65535
    Image.fromarray(holed).save(tmp_path / "a.png")
    with caplog.at_level(logging.WARNING):
        read(tmp_path)
    assert "the value 65535 lies far from all others (" in caplog.text
    assert "set data.levels=[" in caplog.text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (range(20), None),
        ([0, 1], None),  # a mask
        ([*range(20), 100], (100, (0, 19))),
        ([-9999, *range(20)], (-9999, (0, 19))),
        ([*range(20), 30], None),
    ],
)
def test_only_a_value_apart_by_half_of_the_range_is_alone(values: Any, expected: Any) -> None:
    assert lone_value(np.array(list(values), np.float64)) == expected


def test_wholly_transparent_pixels_set_no_scale(tmp_path: Path) -> None:
    values = np.zeros((8, 8, 4), np.uint16)
    values[..., :3], values[..., 3] = (RAMP * 4095).astype(np.uint16)[..., None], 65535
    values[0] = (65535, 65535, 65535, 0)
    write_tiff(tmp_path / "a.tif", values, extra=[2])
    assert build_source(f"folder:{tmp_path}").levels == Levels(0, 4095)
    found = read(tmp_path)
    assert (found[0] == 255).all()  # on white, as transparent pixels always are
    assert np.array_equal(found[1:], (values[1:, :, :3] >> 4).astype(np.uint8))


def test_infinity_is_white_or_black_by_its_sign_and_no_number_is_black(tmp_path: Path) -> None:
    values = RAMP.copy()
    values[0, :3] = np.inf, -np.inf, np.nan
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert read(tmp_path)[0, :3, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("bits", [12, 16])
def test_a_transparent_color_of_16_bits_is_that_color_alone(tmp_path: Path, bits: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (8, 8, 3)).astype(np.uint16)
    values[0, 0], values[0, 1], values[7, 7] = (1, 2, 3), (200, 200, 200), 2**bits - 1
    write_png(tmp_path / "a.png", values, (1, 2, 3))
    expected = (values >> (bits - 8)).astype(np.uint8)
    expected[0, 0] = 255
    assert np.array_equal(read(tmp_path), expected)


def test_a_fourth_channel_that_is_not_said_to_be_transparency_is_none(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 4)).astype(np.uint8)
    write_tiff(tmp_path / "a.tif", values)
    assert np.array_equal(read(tmp_path), values[..., :3])
    write_tiff(tmp_path / "a.tif", values, extra=[2])
    opaque = values[..., 3] == 255
    assert np.array_equal(read(tmp_path)[opaque], values[opaque][:, :3])
    assert not np.array_equal(read(tmp_path), values[..., :3])

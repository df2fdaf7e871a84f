"""Tiny sources of every kind, written to disk in their own formats."""

from __future__ import annotations

import io
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from PIL import Image


def picture(seed: int, width: int = 20, height: int = 16) -> Image.Image:
    """A small picture that differs from seed to seed."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


def gray_tiff(values: NDArray[Any], *, photometric: int = 1, sample_format: int = 1) -> bytes:
    """An uncompressed little-endian TIFF of one channel, of any type of number.

    Args:
        photometric: 0 where 0 is white, 1 where it is black.
        sample_format: 1 for numbers without a sign, 2 with one, 3 for floats.
    """
    height, width = values.shape
    pixels = values.astype(values.dtype.newbyteorder("<")).tobytes()
    tags = {256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    tags |= {279: len(pixels), 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4 if value > 65535 else 3, 1, value) for tag, value in tags.items())
    folder = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + folder


def write_folder(root: Path) -> Path:
    """Six pictures in the class folders cat and dog."""
    for number in range(6):
        path = root / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    return root


def write_csv(root: Path) -> Path:
    """The pictures of ``write_folder`` in ``root``, and a table of them with two labels."""
    write_folder(root)
    rows = [f"{('cat', 'dog')[number % 2]}/{number}.png,{('cat', 'dog')[number % 2]}" for number in range(6)]
    (root / "pictures.csv").write_text("\n".join(["file,animal", *rows]) + "\n")
    return root / "pictures.csv"


def write_list(root: Path) -> Path:
    """The pictures of ``write_folder`` in ``root``, and a list of them with a label after each."""
    write_folder(root)
    lines = [f"{('cat', 'dog')[number % 2]}/{number}.png {number % 2}\n" for number in range(6)]
    (root / "pictures.txt").write_text("".join(lines))
    return root / "pictures.txt"


def write_zip(root: Path) -> Path:
    """The pictures of ``write_folder`` in a zip file."""
    return Path(shutil.make_archive(str(root / "pictures"), "zip", write_folder(root / "pictures")))


def write_parquet(path: Path, rows: int = 6) -> Path:
    """Pictures with a ClassLabel, as the Hugging Face hub stores them."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    cells = {
        "image": [{"bytes": png(number), "path": None} for number in range(rows)],
        "label": [number % 2 for number in range(rows)],
    }
    datasets.Dataset.from_dict(cells, features=features).to_parquet(path)
    return path


def write_mnist(root: Path) -> Path:
    """Six digits for each split in MNIST's own format."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 28, 28), np.uint8)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, *pixels.shape) + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 6) + bytes([0, 1, 0, 1, 0, 9]))
    return root


def write_eurosat(root: Path) -> Path:
    """Six pictures in EuroSAT's layout: class folders, and no splits."""
    write_folder(root / "eurosat" / "2750")
    return root


def write_dtd(root: Path) -> Path:
    """Six pictures in DTD's layout, whose splits are lists of names: four to train, two to test."""
    dtd = root / "dtd" / "dtd"
    write_folder(dtd / "images")
    (dtd / "labels").mkdir()
    names = [f"{('cat', 'dog')[number % 2]}/{number}.png" for number in range(6)]
    (dtd / "labels" / "train1.txt").write_text("\n".join(names[:4]))
    (dtd / "labels" / "test1.txt").write_text("\n".join(names[4:]))
    return root


def write_png(path: Path, values: NDArray[np.uint16], transparent: tuple[int, int, int]) -> None:
    """A PNG of 3 x 16 bits with one transparent color."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", *values.shape[1::-1], 16, 2, 0, 0, 0))]
    parts += [(b"tRNS", struct.pack(">3H", *transparent)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in parts
        )
    )

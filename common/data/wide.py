"""The values of images with more than 8 bits per channel, of which PIL gives 8, and those that stand for missing data.

TIFF tags are those of TIFF 6.0, and GDAL's for missing data.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LOW = "low bytes"  # in `Image.info`: the same image, of which PIL will decode the low instead of the high bytes
_DEEP = re.compile(r"(RGB[AX]?|LA);16([BLN])")  # PIL's raw modes of which it keeps the high byte
_GRAY_ALPHA = "LA;16B"  # has no raw mode for its low bytes: its four bytes are read as four channels
# tags of a TIFF
BITS_PER_SAMPLE, PHOTOMETRIC, PLANES, EXTRA_SAMPLES, SAMPLE_FORMAT, NO_DATA = 258, 262, 284, 338, 339, 42113


def tag(image: Image.Image, number: int) -> Any:
    """A tag of a TIFF; ``None`` where it has none, and for other files."""
    return getattr(image, "tag_v2", {}).get(number)


def check_readable(image: Image.Image) -> None:
    """Refuse, by its header, what PIL would misread.

    Raises:
        ValueError: says what to save it as.
    """
    if image.mode == "L" and tag(image, SAMPLE_FORMAT) == (2,):
        raise ValueError("PIL reads signed 8-bit numbers as unsigned ones: save it with 16 bits")
    if tag(image, PLANES) == 2 and max(tag(image, BITS_PER_SAMPLE) or (8,)) > 8 and len(image.getbands()) > 1:
        raise ValueError("PIL misreads a 16-bit TIFF that keeps its channels apart: save it with them interleaved")


def fourth_is_alpha(image: Image.Image) -> bool:
    """Whether the fourth channel of a four-channel image is its transparency.

    A TIFF that does not say what it is may hold anything there, such as near infrared.
    """
    return tag(image, PHOTOMETRIC) is None or tag(image, EXTRA_SAMPLES) is not None


def load(image: Image.Image) -> None:
    """Decode it; what PIL refuses after the last pixel, such as a long text, does not cost the image."""
    try:
        image.load()
    except ValueError:
        if getattr(image, "tile", None):  # pixels are missing
            raise
        image.load()


def wide_values(image: Image.Image) -> NDArray[Any] | None:
    """The values ``[h w]`` or ``[h w 3]`` of an image of more than 8 bits per channel; ``None`` for one of 8 bits."""
    if image.mode.startswith(("I", "F")):
        load(image)
        wide = np.asarray(image)
        return wide.view(np.uint32) if _is_unsigned(image) else wide
    low = image.info.get(LOW)
    if low is None:
        return None
    load(image)
    channels = slice(1, 2) if low.info.get(_GRAY_ALPHA) else slice(0, 3)
    values: NDArray[np.uint16] = np.asarray(image)[..., :3].astype(np.uint16) << 8 | np.asarray(low)[..., channels]
    return values


def is_deep(image: Image.Image) -> bool:
    """Whether it is a color image of 16 bits, of which PIL will decode the high bytes."""
    tiles: list[Any] = getattr(image, "tile", [])  # what a file, opened but not decoded, has still to decode
    return bool(tiles) and _DEEP.search(str(tiles[0].args)) is not None


def with_low_bytes(image: Image.Image, again: Any) -> Image.Image:
    """A deep image with its low bytes in ``info[LOW]``, decoded from ``again``, the same file opened twice."""
    native = "L" if sys.byteorder == "little" else "B"
    if again.tile[0].args == _GRAY_ALPHA:
        again.tile = [tile._replace(args="RGBA") for tile in again.tile]
        again.info[_GRAY_ALPHA] = True
        image.info[LOW] = again
        return image

    def swapped(found: re.Match[str]) -> str:
        order = native if found[2] == "N" else found[2]
        return f"{found[1]};16{'B' if order == 'L' else 'L'}"

    tiles = []
    for tile in again.tile:
        given = tile.args
        parts = [given] if isinstance(given, str) else list(given or ())
        parts = [_DEEP.sub(swapped, part) if isinstance(part, str) else part for part in parts]
        tiles.append(tile._replace(args=parts[0] if isinstance(given, str) else tuple(parts)))
    again.tile = tiles
    image.info[LOW] = again
    return image


def missing(image: Image.Image, values: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Which pixels ``[h w]`` have no value: GDAL's missing data, and what is wholly transparent. ``None``: no pixel.

    Args:
        values: of the image (``wide_values``).
    """
    found = None
    with_alpha = image.mode == "RGBA" and fourth_is_alpha(image)
    if with_alpha or image.mode == "LA":
        found = np.asarray(image.getchannel("A")) == 0
    try:
        sentinel = float(str(tag(image, NO_DATA) or "nan").strip("\0 "))
    except ValueError:
        sentinel = np.nan
    if not np.isnan(sentinel):
        equal = values == (np.float32(sentinel) if values.dtype.kind == "f" else sentinel)
        equal = equal.all(2) if equal.ndim == 3 else equal
        found = equal if found is None else found | equal
    return found if found is not None and found.any() else None


def _is_unsigned(image: Image.Image) -> bool:
    """Whether its numbers are unsigned with 32 bits, which PIL reads as signed ones."""
    return image.mode == "I" and tag(image, BITS_PER_SAMPLE) == (32,) and tag(image, SAMPLE_FORMAT) in (None, (1,))

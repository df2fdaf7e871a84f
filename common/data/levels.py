"""Which values are black and white in images of more than 8 bits per channel.

A file of 16 bits may hold 8, 10, 12 or 14 of them, and says so nowhere; taken for 16, it is black or nearly so. So the
values decide, not the container, and those of a sample of the whole source, so that all of its images share one scale.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import AfterValidator
from torch import Tensor

from common.data.rows import even_rows

if TYPE_CHECKING:
    from common.data.source import Source

SAMPLE = 64  # images of a source that are looked at
BITS = (8, 10, 12, 14, 16)
LOW = "low bytes"  # in `Image.info`: the same image, of which PIL will decode the low instead of the high bytes
_DEEP = re.compile(r"(RGB[AX]?|LA);16([BLN])")  # PIL's raw modes of which it keeps the high byte
_GRAY_ALPHA = "LA;16B"  # has no raw mode for its low bytes: its four bytes are read as four channels


def _ascending(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError(f"must be [black, white], the smaller value first, got [{value[0]:g}, {value[1]:g}]")
    return value


LevelsSetting = Annotated[tuple[float, float], AfterValidator(_ascending)]  # a setting for which a user gives levels


class Levels(NamedTuple):
    """The values that become 0 and 255."""

    black: float
    white: float

    def __str__(self) -> str:
        bits = [bits for bits in BITS if self.black == 0 and self.white == 2**bits - 1]
        return f"{self.black:g} to {self.white:g}" + (f" ({bits[0]} bits)" if bits else "")

    def to_bytes(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Values of any shape and type -> 0..255: the high 8 bits of whole numbers from 0, else linear; clipped."""
        wide = np.nan_to_num(values.astype(np.float64), nan=self.black, posinf=self.black, neginf=self.black)
        if values.dtype.kind in "iu" and self.black == 0 and self.white >= 255:
            gray = np.floor(wide * (256 / (self.white + 1)))
        else:
            gray = np.rint((wide - self.black) * (255 / (self.white - self.black)))
        return gray.clip(0, 255).astype(np.uint8)


def source_levels(source: Source) -> Levels | None:
    """Measured on an evenly spread sample of its images; ``None`` if they have 8 bits, as most have."""
    return levels_of(filter(None, (_opened(source, row) for row in even_rows(len(source), SAMPLE).tolist())))


def has_deep(source: Source) -> bool:
    """Whether an image of that sample has more than 8 bits; true as well where none can be opened. Decodes none."""
    none_opened = True
    for row in even_rows(len(source), SAMPLE).tolist():
        try:
            image = source.image(row)
        except Exception:  # as below
            continue
        none_opened = False
        if not isinstance(image, Tensor) and (image.mode.startswith(("I", "F")) or LOW in image.info):
            return True
    return none_opened


def levels_of(images: Iterable[Image.Image]) -> Levels | None:
    """Levels that these images share; those of 8 bits have no say.

    Whole numbers from 0 up to 65535 have as many bits as their largest one needs. Floats are in [0, 1] or [0, 255] if
    they fit; whatever does not is stretched from the smallest to the largest value.
    """
    low, high, whole = np.inf, -np.inf, True
    for image in images:
        try:
            values = wide_values(image)
        except Exception:  # decoders raise anything on broken files, and others will speak of them
            continue
        if values is not None:
            finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
            if finite.size:
                low, high = min(low, float(finite.min())), max(high, float(finite.max()))
            whole = whole and values.dtype.kind in "iu"
    if low > high:
        return None
    if whole and low >= 0 and high < 2 ** BITS[-1]:
        return Levels(0, next(2**bits - 1 for bits in BITS if high < 2**bits))
    if not whole and low >= 0 and high <= 255:
        return Levels(0, 1 if high <= 1 else 255)
    return Levels(low, high if high > low else low + 1)


def load(image: Image.Image) -> None:
    """Decode it; what PIL refuses after the last pixel, such as a long text, costs no image."""
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
        return np.asarray(image)
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


def _opened(source: Source, row: int) -> Image.Image | None:
    try:
        image = source.image(row)
    except Exception:  # as above
        return None
    return None if isinstance(image, Tensor) else image

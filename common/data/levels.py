"""Which values are black and white in images of more than 8 bits per channel.

A 16-bit file may hold values of 8, 10, 12 or 14 bits without saying so; read as 16 bits, it is black or nearly so. The
values decide, not the container: those of a sample of the whole source, so that all of its images share one scale.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import AfterValidator
from torch import Tensor

from common.data.rows import even_rows
from common.data.wide import LOW, missing, wide_values

log = logging.getLogger("retouch")

if TYPE_CHECKING:
    from common.data.source import Source

SAMPLE = 64  # images of a source that are looked at
VALUES = 4096  # values of each, besides its smallest and largest
MANY = 16  # different values, of which one may lie apart from the others
FARTHEST, NEAREST = 1e18, 1e-18  # of levels that a user gives
BITS = (8, 10, 12, 14, 16)


def _usable(value: tuple[float, float]) -> tuple[float, float]:
    black, white = value
    if not black < white:
        raise ValueError(f"must be [black, white], the smaller value first, got [{black:g}, {white:g}]")
    if max(-black, white) > FARTHEST or white - black < NEAREST:
        raise ValueError(
            f"must be [black, white], at most {FARTHEST:g} from 0 and at least {NEAREST:g} apart, got "
            f"[{black:g}, {white:g}]"
        )
    return value


LevelsSetting = Annotated[tuple[float, float], AfterValidator(_usable)]  # a setting for which a user gives levels


class Levels(NamedTuple):
    """The values that become 0 and 255."""

    black: float
    white: float

    def __str__(self) -> str:
        bits = [bits for bits in BITS if self.black == 0 and self.white == 2**bits - 1]
        return f"{self.black:g} to {self.white:g}" + (f" ({bits[0]} bits)" if bits else "")

    def to_bytes(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Values of any shape and type -> 0..255: the high 8 bits of whole numbers from 0, else linear; clipped."""
        wide = np.nan_to_num(values.astype(np.float64), nan=self.black, posinf=self.white, neginf=self.black)
        if values.dtype.kind in "iu" and self.black == 0 and self.white >= 255:
            gray = np.floor(wide * (256 / (self.white + 1)))
        else:
            gray = np.rint((wide - self.black) * (255 / (self.white - self.black)))
        return gray.clip(0, 255).astype(np.uint8)


def source_levels(source: Source) -> Levels | None:
    """Measured on an evenly spread sample of its images; ``None`` if they have 8 bits, as most have."""
    seen = _seen(filter(None, (_opened(source, row) for row in even_rows(len(source), SAMPLE).tolist())))
    if apart := lone_value(seen.values):
        value, others = apart
        log.warning(
            "%s: the value %g lies far from all others (%g to %g) and sets the scale; if it stands for missing data, "
            "set data.levels=[%g, %g]",
            *(source.spec, value, *others, *others),
        )
    return _levels(seen)


def levels_of_training(source: Source, given: tuple[float, float] | None, trained_on: Levels | None) -> Levels | None:
    """Black and white of images that a trained network is applied to: those that it learned from.

    Args:
        given: those that the user set, which ``source`` has.
        trained_on: those of the network's training images; ``None`` for 8 bits, or if they are not known.

    Returns:
        ``None`` where they are the source's own.
    """
    return trained_on if given is None and source.levels is not None else None


def say_levels(levels: Levels | None, spec: str) -> None:
    """Log what becomes of the values of images of more than 8 bits, if there are any."""
    if levels is not None:
        log.info(
            "%s: has images of more than 8 bits; their values %s become 0 to 255 (data.levels sets others)",
            *(spec, levels),
        )


def lone_value(values: NDArray[np.float64]) -> tuple[float, tuple[float, float]] | None:
    """A smallest or largest value that lies apart from all others by more than half of the range, and their range.

    Such a value often stands for missing data. A few values only, as in masks, always lie apart.
    """
    known = np.unique(values)
    if len(known) >= MANY:
        half = (known[-1] - known[0]) / 2
        if known[-1] - known[-2] > half:
            return float(known[-1]), (float(known[0]), float(known[-2]))
        if known[1] - known[0] > half:
            return float(known[0]), (float(known[1]), float(known[-1]))
    return None


def has_deep(source: Source) -> bool:
    """Whether an image of that sample has more than 8 bits, or none can be opened. No image is decoded."""
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
    """Levels that these images share; images of 8 bits do not count.

    Whole numbers from 0 up to 65535 have as many bits as their largest one needs. Floats are in [0, 1] or [0, 255] if
    they fit; whatever does not is stretched from the smallest to the largest value.
    """
    return _levels(_seen(images))


class _Seen(NamedTuple):
    """Values of some images: the smallest and largest of each, and some between."""

    values: NDArray[np.float64]
    whole: bool


def _seen(images: Iterable[Image.Image]) -> _Seen:
    parts, whole = [np.empty(0)], True
    for image in images:
        try:
            values = wide_values(image)
        except Exception:  # decoders raise anything on broken files, which are reported elsewhere
            continue
        if values is None:
            continue
        whole = whole and values.dtype.kind in "iu"
        nothing = missing(image, values)
        known = values.ravel() if nothing is None else values[~nothing].ravel()
        known = known[np.isfinite(known)] if values.dtype.kind == "f" else known
        if known.size:
            some = known[even_rows(len(known), VALUES).numpy()]
            parts.append(np.concatenate([some, [known.min(), known.max()]]).astype(np.float64))
    return _Seen(np.concatenate(parts), whole)


def _levels(seen: _Seen) -> Levels | None:
    if not seen.values.size:
        return None
    low, high, whole = float(seen.values.min()), float(seen.values.max()), seen.whole
    if whole and low >= 0 and high < 2 ** BITS[-1]:
        return Levels(0, next(2**bits - 1 for bits in BITS if high < 2**bits))
    if not whole and low >= 0 and high <= 255:
        return Levels(0, 1 if high <= 1 else 255)
    return Levels(low, high if high > low else low + 1)


def _opened(source: Source, row: int) -> Image.Image | None:
    try:
        image = source.image(row)
    except Exception:  # as above
        return None
    return None if isinstance(image, Tensor) else image

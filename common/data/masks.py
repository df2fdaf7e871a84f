"""Masks of images: the class of each pixel, in squares with the geometry of the images.

A mask is a gray image or one with a palette, whose values (with a palette: its indices) are class numbers, 0 to 255.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from common.data.build import build_source
from common.data.decode import central_square
from common.data.folder import TreeSource
from common.data.images import FILL_ROWS, RAM_SHARE
from common.data.paired_files import SHOWN, paired_files
from common.data.source import Source
from common.data.split import first
from common.errors import UserError, one_line
from common.machine.memory import available_memory

log = logging.getLogger("retouch")

VALUES = 256  # that a mask may have, each a class number
SIDEWAYS = {5, 6, 7, 8}  # EXIF orientations that exchange width and height
ORIENTATION = 0x0112
OTHERWISE = "; images without one are left out by a CSV file with the columns path and mask"
TO_SAVE = "save one number per pixel: Image.fromarray(classes.astype('uint8')).save('mask.png')"


class NoMaskError(ValueError):
    """What an image is instead of a mask, and what to do."""


# ---- where they are


def find_masks(images: Source, spec: str, split: str, setting: str) -> Source:
    """The mask of each row of ``images``, as a source of the same length.

    Args:
        spec: one of the masks that ``images`` has by name (``Source.mask_columns``); or a folder or zip file of masks,
            each of the same relative path as its image, whatever the suffix.
        split: of these masks, where the folder has splits.
        setting: the setting that names ``spec``.

    Raises:
        UserError: there are none, or not one for each image.
    """
    if spec in images.mask_columns:
        return images.masks(spec)
    if not isinstance(images, TreeSource):
        known = f"it has {', '.join(images.mask_columns)}" if images.mask_columns else "it has none"
        raise UserError(
            f"{images.spec}: {setting}={spec}: no such masks; {known}; a table needs a column of masks, or of their "
            "paths, and a folder of masks goes with a folder of images"
        )
    try:
        masks = build_source(spec, split=split)
    except UserError as error:
        raise UserError(*(f"{setting}: {problem}" for problem in error.problems)) from None
    if not isinstance(masks, TreeSource):
        raise UserError(f"{setting}={spec}: must be a folder or a zip file, as the images are; or a column of a table")
    return paired_files(images, masks, setting, "mask", OTHERWISE)


# ---- what they hold


def read_mask(image: Image.Image | Tensor) -> NDArray[np.uint8]:
    """The class numbers of an opened mask ``[h w]``, upright, at its own resolution.

    Raises:
        NoMaskError: it is not an image of class numbers.
    """
    if isinstance(image, Tensor) or (image.mode not in ("1", "L", "P") and not image.mode.startswith("I")):
        raise NoMaskError(f"in color, but class numbers are needed, one per pixel: {TO_SAVE}")
    if image.format == "JPEG":
        raise NoMaskError(f"JPEG files, which change values: {TO_SAVE}")
    image.load()
    with contextlib.suppress(Exception):  # as for images, a broken orientation is ignored
        ImageOps.exif_transpose(image, in_place=True)
    values = np.asarray(image)
    if not 0 <= int(values.min()) <= int(values.max()) < VALUES:
        raise NoMaskError(
            f"of values above {VALUES - 1}: these are not classes; number them from 0 (masks of instances: by class)"
        )
    return values.astype(np.uint8)


def square_mask(values: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Class numbers ``[h w]`` -> ``[size size]``: the nearest pixels of the square that ``decode.square`` cuts."""
    height, width = values.shape
    if (width, height) == (size, size):
        return values
    box = central_square(width, height)
    return np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.NEAREST, box=box))


def side_lengths(image: Image.Image | Tensor) -> tuple[int, int]:
    """Width and height of an opened image, upright; of a file, only its header is read."""
    if isinstance(image, Tensor):
        return image.shape[2], image.shape[1]
    width, height = image.size
    with contextlib.suppress(Exception):
        if image.getexif().get(ORIENTATION) in SIDEWAYS:
            return height, width
    return width, height


class Seen(NamedTuple):
    """Which class numbers the squares of some masks hold."""

    values: Tensor  # bool [n VALUES]
    finer: Tensor  # bool [n VALUES], the same at the resolution of the masks

    def only(self, rows: Tensor) -> Seen:
        """Some of these masks."""
        return Seen(self.values[rows], self.finer[rows])

    @property
    def lost(self) -> list[int]:
        """The class numbers that have lost all their pixels: at a larger size, some would be left."""
        found: list[int] = (self.finer.any(0) & ~self.values.any(0)).nonzero().squeeze(1).tolist()
        return found

    @property
    def numbers(self) -> list[int]:
        """The class numbers in any of the masks, ascending."""
        found: list[int] = self.values.any(0).nonzero().squeeze(1).tolist()
        return found


def look_at_masks(masks: Source, images: Source, rows: Tensor, size: int) -> Seen:
    """Read the masks of ``rows`` ``[n]`` of both sources, and what classes each has in its square of ``size`` px.

    Masks of images that cannot be opened are not compared with them: such images are left out later.

    Raises:
        UserError: masks cannot be read, are not masks, or differ in size from their images: every kind of problem, with
            the number of masks that have it.
    """
    seen = Seen(*(torch.zeros(len(rows), VALUES, dtype=torch.bool) for _ in range(2)))

    def note(place: int, mask: NDArray[np.uint8]) -> None:
        left, top, right, bottom = central_square(mask.shape[1], mask.shape[0])
        whole = mask[int(top) : math.ceil(bottom), int(left) : math.ceil(right)]
        for found, pixels in ((seen.values, square_mask(mask, size)), (seen.finer, whole)):
            found[place, np.unique(pixels).astype(np.int64)] = True

    if masks.endless:  # generated: nothing can be wrong with them
        for start in range(0, len(rows), FILL_ROWS):
            made = masks.bulk(rows[start : start + FILL_ROWS])
            assert made is not None
            for place, one in enumerate(made, start):
                note(place, one[0].numpy())
        return seen
    problems: dict[str, list[str]] = defaultdict(list)
    for place, row in enumerate(rows.tolist()):
        try:
            mask = read_mask(masks.image(row))
        except NoMaskError as error:
            problems[str(error)].append(masks.where(row))
            continue
        except Exception as error:  # decoders raise anything on broken files
            problems["unreadable"].append(f"{masks.where(row)} ({one_line(error)})")
            continue
        sides = _size_of(images, row)
        if sides is not None and sides != mask.shape[::-1]:
            sizes = "{1}x{0}, image {2}x{3}".format(*mask.shape, *sides)
            problems["of another size than their images"].append(f"{masks.where(row)} ({sizes})")
        note(place, mask)
    if problems:
        raise UserError(
            *(
                f"{masks.spec}: {len(found):,} of {len(rows):,} masks are {what}: {first(found[:SHOWN])}"
                for what, found in problems.items()
            )
        )
    return seen


class Masks:
    """Squares of class numbers, by row: kept in memory if they take less than a quarter of what is free.

    Attributes:
        source: masks that ``look_at_masks`` has accepted.
        kept: int64 ``[N]``, the source row of each row here.
        size: side in pixels.
    """

    def __init__(self, source: Source, kept: Tensor, size: int) -> None:
        self.source, self.kept, self.size = source, kept, size
        self._pixels: Tensor | None = None
        if len(kept) * size * size <= available_memory() * RAM_SHARE:
            self._pixels = torch.cat([self._read(rows) for rows in torch.split(kept, FILL_ROWS)])

    def __len__(self) -> int:
        return len(self.kept)

    def rows(self, index: Tensor) -> Tensor:
        """Rows ``[b]`` -> uint8 ``[b S S]``."""
        return self._read(self.kept[index]) if self._pixels is None else self._pixels[index]

    def only(self, rows: Tensor) -> Masks:
        """Rows ``[n]`` of these masks, in that order."""
        found = copy.copy(self)
        found.kept, found._pixels = self.kept[rows], None if self._pixels is None else self._pixels[rows]
        return found

    def _read(self, numbers: Tensor) -> Tensor:
        """Rows ``[b]`` of the source."""
        made = self.source.bulk(numbers)
        values = (
            [read_mask(self.source.image(number)) for number in numbers.tolist()]
            if made is None
            else [one[0].numpy() for one in made]
        )
        return torch.from_numpy(np.stack([square_mask(one, self.size) for one in values]))


def _size_of(images: Source, row: int) -> tuple[int, int] | None:
    try:
        return side_lengths(images.image(row))
    except Exception:  # it is reported, and left out, where images are decoded
        return None

"""Contact sheets: some pictures before and after, and heat maps of where they are restored badly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from common.data.decode import to_rgb
from common.pixels import to_pil, to_uint8
from pretrain.report.panels import FAINT, LINE, PAPER, SMALL, in_rows

TILE = 192  # side of an image on a sheet, in pixels, about: small ones are enlarged by a whole factor
MOST = 256  # the largest side: a larger picture is shown in part
ACROSS = 6  # columns; more pictures go below
BAR = (76, 10)  # width and height of the bar that explains the colors of errors


class Shown(NamedTuple):
    """A column of a sheet: the images of its rows, uint8 ``[3 s s]``, by what the row shows; and lines of text."""

    rows: dict[str, Tensor]
    captions: Sequence[str]


class Place(NamedTuple):
    """A square part of a picture, in pixels."""

    top: int
    left: int
    side: int


def middle(hidden: Tensor) -> Place:
    """The part of a picture that is shown: around the middle of its hidden pixels (``[H W]``), or of the picture."""
    height, width = hidden.shape
    side = min(height, width, MOST)
    row, column = (_center(hidden.count_nonzero(across)) for across in (1, 0))
    return Place(_start(row, side, height), _start(column, side, width), side)


def _center(counts: Tensor) -> float:
    """The mean position, where ``counts`` says how much is at each, int64 ``[n]``; the middle if there is nothing."""
    total = int(counts.sum())
    return int((counts * torch.arange(len(counts))).sum()) / total if total else len(counts) / 2


def _start(center: float, side: int, length: int) -> int:
    return min(max(round(center - side / 2), 0), length - side)


def part_of(picture: Tensor, place: Place) -> Tensor:
    """``[C H W]`` -> ``[C side side]``, a copy: a view would keep the whole picture in memory."""
    top, left, side = place
    return picture[:, top : top + side, left : left + side].clone()


def read_back(path: Path) -> Tensor:
    """A picture that was written, uint8 ``[3 H W]``, on white."""
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(to_rgb(picture))).permute(2, 0, 1)


def sheet(shown: Sequence[Shown], title: str, keys: Mapping[str, Image.Image] | None = None) -> Image.Image:
    """All of them, ``ACROSS`` side by side. Rows are those of the first.

    Args:
        keys: by row, what explains its colors.
    """
    bands = list(_bands(shown, title, keys))
    picture = Image.new("RGB", (max(one.width for one in bands), sum(one.height for one in bands)), PAPER)
    top = 0
    for band in bands:
        picture.paste(band, (0, top))
        top += band.height
    return picture


def _bands(shown: Sequence[Shown], title: str, keys: Mapping[str, Image.Image] | None) -> Iterator[Image.Image]:
    fitted = [{label: _fitted(one.rows[label]) for label in shown[0].rows} for one in shown]
    tile = max(picture.height for one in fitted for picture in one.values())
    for start in range(0, len(shown), ACROSS):
        some = slice(start, start + ACROSS)
        rows = {label: [one[label] for one in fitted[some]] for label in shown[0].rows}
        yield in_rows(rows, tile, "" if start else title, [one.captions for one in shown[some]], keys)


def _fitted(image: Tensor) -> Image.Image:
    """A square as large as a sheet shows it; small ones are enlarged by a whole factor, every pixel a crisp square."""
    picture, side = to_pil(image), image.shape[2]
    if side > MOST:
        return picture.resize((MOST, MOST), Image.Resampling.LANCZOS)
    zoom = max(1, round(TILE / side))
    return picture.resize((zoom * side, zoom * side), Image.Resampling.NEAREST)


def name_of(spec: str) -> str:
    """What a sheet calls a source: its folder or files, without the folders around them."""
    return spec.rstrip("/").rpartition("/")[2]


def heat_key(most: float) -> Image.Image:
    """The colors of ``heat``, from 0 to ``most``, as a bar with both numbers below."""
    width, height = BAR
    bar = to_pil(heat(torch.linspace(0, most, width).expand(height, -1), most))
    key = Image.new("RGB", (width, height + LINE), PAPER)
    key.paste(bar)
    pen, font = ImageDraw.Draw(key), ImageFont.load_default(SMALL)
    pen.text((0, height + 2), "0", fill=FAINT, font=font)
    pen.text((width, height + 2), f"{most:.2g}", fill=FAINT, font=font, anchor="ra")
    return key


def heat(error: Tensor, most: float) -> Tensor:
    """Errors ``[S S]`` from 0 to ``most`` -> black, red, yellow and white, uint8 ``[3 S S]``."""
    share = 3 * error / max(most, 1e-12)
    return to_uint8(torch.stack([share, share - 1, share - 2]))

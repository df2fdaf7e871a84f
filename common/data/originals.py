"""What images were before they were made squares: how many cannot be read, and their sizes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from common.data.patches import PatchesSource
from common.data.rows import even_rows
from common.data.source import Source
from common.runs.results import Record

LOOKED_AT = 256  # images whose sizes are read: of most files, from their first bytes

Size = tuple[int, int]  # width and height in px


class Sizes(Record):
    """Sizes of some images as they are stored, by their number of pixels."""

    images: int  # evenly spread over the source
    smallest: Size
    median: Size
    largest: Size


class Originals(Record):
    """The images of a source."""

    unreadable: int  # left out
    sizes: Sizes | None = None  # None: nothing of the sample can be read


def find_originals(source: Source, kept: Tensor, unreadable: Mapping[int, str]) -> Originals | None:
    """What is known of the readable rows ``kept`` of a source, int64 ``[N]``; ``None`` where images are generated.

    For patches, of the images that they are cut from.
    """
    if isinstance(source, PatchesSource):
        whole = (torch.unique(kept // source.rows_per_image), {row // source.rows_per_image: "" for row in unreadable})
        return find_originals(source.source, *whole)
    if source.endless:
        return None
    rows = kept[even_rows(len(kept), LOOKED_AT)].tolist()
    sizes = sorted(filter(None, (_size(source, row) for row in rows)), key=_area)
    if not sizes:
        return Originals(unreadable=len(unreadable))
    found = Sizes(images=len(sizes), smallest=sizes[0], median=sizes[len(sizes) // 2], largest=sizes[-1])
    return Originals(unreadable=len(unreadable), sizes=found)


def _area(size: Size) -> tuple[int, Size]:
    return size[0] * size[1], size


def _size(source: Source, row: int) -> Size | None:
    try:
        image = source.image(row)
    except Exception:  # decoders raise anything; a row that could be read before is reported where it is needed
        return None
    return (image.shape[2], image.shape[1]) if isinstance(image, Tensor) else image.size

"""Files of several pages or frames: stacks, animations. The first of each is the image, and a warning says so."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from common.data.levels import SAMPLE
from common.data.patches import PatchesSource
from common.data.rows import even_rows
from common.data.source import Source, Subset
from common.runs.logs import say_once

# what else these hold are not pages: the layers of a drawing, and what a phone adds to a photograph
SINGLE = {"PSD", "MPO", "HEIF"}
SMALLER = 254  # TIFF's tag NewSubfileType, 1 for a smaller copy of another page


def warn_of_pages(source: Source) -> None:
    """Warn, once, if files of a sample of the source have several pages or frames."""
    while isinstance(source, (Subset, PatchesSource)):
        source = source.source
    if source.endless:
        return
    rows = even_rows(len(source), SAMPLE).tolist()
    counts = {row: count for row in rows if (count := _pages(source, row)) > 1}
    if counts:
        first, pages = next(iter(counts.items()))
        say_once(
            logging.WARNING,
            f"{source.spec}: {len(counts)} of {len(rows)} files looked at have several pages or frames (such as "
            f"{source.where(first)}, with {pages:,}); the first of each file is read: to use the others, save each as "
            "a file of its own",
        )


def _pages(source: Source, row: int) -> int:
    """How many pages or frames a file has; smaller copies of the first page in a TIFF do not count."""
    try:
        image: Any = source.image(row)
        if isinstance(image, Tensor) or image.format in SINGLE or not getattr(image, "is_animated", False):
            return 1
        if image.format == "TIFF":
            image.seek(1)
            if image.tag_v2.get(SMALLER, 0) & 1:
                return 1
        return int(image.n_frames)
    except Exception:  # decoders raise anything on broken files, which are reported elsewhere
        return 1

"""Which images of a source cannot be read, remembered between runs: finding out takes a pass over all of them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from torch import Tensor

from common.data.source import Source, digest
from common.errors import one_line
from common.files import write_json
from common.machine.cache import cache_folder
from common.machine.versions import version_of

log = logging.getLogger("retouch")

VERSION = 1  # raise it whenever decoding accepts or refuses other files
DECODERS = ("pillow", "torchvision", "pillow-heif")


def read_findings(source: Source, size: int, kept: Tensor) -> dict[int, str] | None:
    """Unreadable rows of the source among ``kept`` and why, as an earlier run found them; ``None`` without one.

    Findings hold for these very files (``Source.fingerprint``), this size and these versions of the decoders.
    """
    try:
        found = json.loads(_path(source, size, kept).read_text(encoding="utf-8"))["unreadable"]
        return {int(row): str(why) for row, why in found.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def write_findings(source: Source, size: int, kept: Tensor, unreadable: dict[int, str]) -> None:
    """Remember them; where the cache cannot be written, the next run looks again."""
    path = _path(source, size, kept)
    try:
        write_json(path, {"source": source.spec, "images": len(kept), "unreadable": unreadable})
    except OSError as error:
        log.info(
            "%s: which images can be read is not remembered in %s (%s); set RETOUCH_CACHE to another folder",
            *(source.spec, path.parent, one_line(error)),
        )


def _path(source: Source, size: int, kept: Tensor) -> Path:
    versions = [version_of(name) or "" for name in DECODERS]
    key = digest([VERSION, *versions, source.fingerprint, size, kept.numpy().tobytes()])
    return cache_folder() / "readable" / f"{key}.json"

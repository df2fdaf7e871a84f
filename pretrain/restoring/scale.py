"""How large pictures are next to what a network sees at a time, and the ``scale`` that fits."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from copy import copy

from common.data.rows import even_rows
from pretrain.restoring.config import RestoreConfig
from pretrain.restoring.pictures import Picture, Pictures, scaled
from pretrain.restoring.restorer import PictureRestorer

log = logging.getLogger("retouch")

SMALL = 0.5  # tiles that show a smaller part of a picture than this look unlike the whole pictures of training


def say_of_scale(restorer: PictureRestorer, pictures: Pictures, config: RestoreConfig) -> None:
    """Warn if tiles look unlike what the network has learned from, or ``scale`` leaves less than a tile."""
    tile, card = restorer.grid.tile, restorer.card
    whole = copy(pictures)
    whole.scale = 1.0
    sides = [min(picture.image.shape[1:]) for picture in _some(whole, 3)]
    if not sides:
        return
    smallest = scaled(min(sides), config.scale)
    fits = _rounded_up(tile / min(sides))
    if config.scale < 1 and smallest < tile:
        log.warning(
            "scale=%g makes pictures %d px or smaller, but the network sees %d px at a time: the rest is their mirror "
            "image. %s",
            *(config.scale, smallest, tile),
            f"Use scale={fits:g}" if fits < 1 else "Restore small pictures without scale, apart from large ones",
        )
    elif not card.learned_at_own_resolution and tile < SMALL * smallest:
        log.warning(
            "the network learned from whole pictures of %d px, but a tile of %d px is a small part of these pictures "
            "(one has %d px), whose details it has never seen. Use scale=%g to show it what it knows; to learn "
            "details, pretrain with data=patches:FOLDER",
            *(card.image_size, tile, smallest, fits),
        )


def _rounded_up(scale: float) -> float:
    """With two digits, and not smaller: pictures of that size would be smaller than a tile."""
    unit = 10.0 ** (math.floor(math.log10(scale)) - 1)
    return round(math.ceil(round(scale / unit, 6)) * unit, 6)


def _some(pictures: Pictures, count: int) -> Iterator[Picture]:
    for place in even_rows(len(pictures.rows), count).tolist():
        try:
            yield pictures.read(pictures.rows[place])
        except Exception:  # it is reported when it is its turn
            continue

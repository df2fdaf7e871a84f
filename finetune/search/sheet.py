"""Queries and the images found for them, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from common.pixels import to_pil

SIDE, GAP, TEXT = 96, 6, 16  # px: a thumbnail, between two, and the line below
ROWS, COLUMNS = 12, 10  # at most
PAPER, INK = (255, 255, 255), (40, 40, 40)


class SheetRow(NamedTuple):
    """One query with what was found for it, nearest first."""

    query: Tensor  # uint8 [3 SIDE SIDE]
    found: Tensor  # uint8 [k 3 SIDE SIDE]
    similar: Sequence[float]


def contact_sheet(rows: Sequence[SheetRow]) -> Image.Image:
    """A row per query: the query, then the nearest images with their similarity below."""
    across = 1 + max(len(row.found) for row in rows)
    step = SIDE + GAP
    width, height = GAP + across * step + 2 * GAP, GAP + len(rows) * (step + TEXT)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for number, row in enumerate(rows):
        top = GAP + number * (step + TEXT)
        sheet.paste(to_pil(row.query), (GAP, top))
        draw.rectangle((GAP - 2, top - 2, GAP + SIDE + 1, top + SIDE + 1), outline=INK, width=2)
        draw.text((GAP, top + SIDE + 2), "query", INK, font)
        for place, (image, similar) in enumerate(zip(row.found, row.similar, strict=True), start=1):
            left = 3 * GAP + place * step
            sheet.paste(to_pil(image), (left, top))
            draw.text((left, top + SIDE + 2), f"{similar:.2f}", INK, font)
    return sheet

"""Text on pictures: a font that has its letters, or other letters where no font has them. Never empty boxes."""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from PIL import ImageFont

Font = Any  # Pillow's own, of one of two types
WIDER = "DejaVuSans.ttf"  # Latin, Greek, Cyrillic and more; matplotlib brings it along, and many systems have it
NO_LETTER = "\uffff"  # no font has it: what is drawn in its place is drawn for every letter that is missing
SPELLED = {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "−": "-"}


def lettering(text: str, size: int) -> tuple[str, Font]:
    """A text as it can be drawn, and a font of ``size`` pixels that has all its letters.

    Where no font has a letter, it is drawn without its accent, spelled in Latin letters or, if neither can be, as its
    number: ``é -> e``, ``ß -> ss``, ``中 -> \\u4e2d``. Pillow's own font has the letters of ASCII only.
    """
    text = unicodedata.normalize("NFC", text)
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    for font in fonts(size):
        if all(has(font, letter) for letter in shown):
            return shown, font
    font = fonts(size)[-1]
    return "".join(letter if has(font, letter) else _other(letter, font) for letter in shown), font


def has(font: Font, letter: str) -> bool:
    """Whether a font has a letter; if not, it draws a box."""
    return letter == " " or _drawn(font, letter) != _drawn(font, NO_LETTER)


def _other(letter: str, font: Font) -> str:
    bare = SPELLED.get(letter) or "".join(
        one for one in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(one)
    )
    if bare and all(has(font, one) for one in bare):
        return bare
    return letter.encode("ascii", "backslashreplace").decode("ascii")


def _drawn(font: Font, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


@cache
def fonts(size: int) -> tuple[Font, ...]:
    """Pillow's own first, then those with more letters that are installed."""
    return (ImageFont.load_default(size), *wider_fonts(size))


def wider_fonts(size: int) -> Iterator[Font]:
    """Those with more letters than Pillow's own that are installed."""
    for path in (*_of_matplotlib(), WIDER):
        try:
            yield ImageFont.truetype(path, size)
        except OSError:  # it is not installed
            continue


def _of_matplotlib() -> Iterator[str]:
    found = importlib.util.find_spec("matplotlib")  # does not import it
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        yield str(Path(folder) / "mpl-data" / "fonts" / "ttf" / WIDER)

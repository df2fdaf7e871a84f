"""Text on pictures: its letters, or readable ones in their place, and never an empty box."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import ImageFont

from common import letters
from common.letters import has, lettering


@pytest.fixture
def only_pillow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No font is installed but Pillow's own."""
    letters.fonts.cache_clear()
    monkeypatch.setattr(letters, "wider_fonts", lambda size: iter(()))
    yield
    letters.fonts.cache_clear()


def test_the_font_of_pillow_writes_plain_text() -> None:
    shown, font = lettering("Bild 113 (2).jpg", 13)
    assert shown == "Bild 113 (2).jpg"
    assert bytes(font.getmask(shown)) == bytes(ImageFont.load_default(13).getmask(shown))


@pytest.mark.usefixtures("only_pillow")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Bild 113 ä", "Bild 113 a"),
        ("Bild 113 a\u0308", "Bild 113 a"),  # as a Mac writes it
        ("Straße", "Strasse"),
        ("写真", "\\u5199\\u771f"),
        ("a\nb", "a?b"),
    ],
)
def test_letters_that_no_font_has_are_written_in_others(text: str, shown: str) -> None:
    assert lettering(text, 13)[0] == shown


@pytest.mark.parametrize("text", ["Bild 113 ä", "Ελλάδα", "写真 ä", "\U0001f600", "−2 dB"])
def test_nothing_is_drawn_as_a_box(text: str) -> None:
    shown, font = lettering(text, 13)
    assert all(has(font, letter) for letter in shown)
    assert not has(font, "\uffff")


def test_a_font_that_is_installed_has_accents_and_greek() -> None:
    pytest.importorskip("matplotlib")
    assert lettering("Bild 113 ä, Ελλάδα", 13)[0] == "Bild 113 ä, Ελλάδα"

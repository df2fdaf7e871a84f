"""The blocks of which parts of the page consist: content without layout."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from retouch.reporting.pictures import Picture


class Block:
    """One block of a part."""

    @property
    def kind(self) -> str:
        """``table``, ``prose``, ...: the macro of the template that renders it."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a text, with a fainter one below it, or a small chart."""

    text: str = ""
    below: str = ""
    strong: bool = False
    chart: Markup | None = None


@dataclass(frozen=True)
class Column:
    """The head of a column."""

    text: str
    below: str = ""
    numeric: bool = True  # aligned to the right
    chart: bool = False  # left out on narrow screens and in Markdown: the facts are in other columns
    fact: str = ""  # what it is called in a table of facts; empty: the same

    @property
    def named(self) -> str:
        """What it is called in a table of facts."""
        return self.fact or ", ".join(filter(None, [self.text, self.below]))


@dataclass(frozen=True)
class Table(Block):
    """Rows under columns."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    note: str = ""  # next to the title
    foot: str = ""  # below
    folded: str = ""  # if not empty, the line that the reader clicks to open the table


@dataclass(frozen=True)
class Prose(Block):
    """Sentences of one paragraph."""

    sentences: tuple[str, ...]
    small: bool = False
    wide: bool = False  # about charts that are left out on narrow screens


@dataclass(frozen=True)
class Points(Block):
    """Statements, one below the other."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """A chart with a caption."""

    chart: Markup
    caption: str


@dataclass(frozen=True)
class Figures(Block):
    """Charts next to each other."""

    items: tuple[Figure, ...]
    folded: str = ""  # as in a table


@dataclass(frozen=True)
class Thumbnails:
    """Small images with what they have in common."""

    title: str
    note: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Confusion(Block):
    """The errors of one classifier: its confusion matrix, unless it is too large, and the most frequent errors."""

    title: str
    chart: Markup | None
    errors: tuple[Thumbnails, ...]
    note: str = ""


@dataclass(frozen=True)
class Places(Block):
    """A map of images, marked by class."""

    title: str
    chart: Markup
    legend: tuple[tuple[Markup, str], ...]
    caption: str


@dataclass(frozen=True)
class Neighbor:
    """An image near another one; without a picture if it cannot be shown."""

    name: str  # of its class
    same: bool  # as the other's class
    picture: Picture | None


@dataclass(frozen=True)
class Nearby:
    """An image and its neighbors, nearest first."""

    image: Neighbor
    note: str
    neighbors: tuple[Neighbor, ...]


@dataclass(frozen=True)
class Neighbors(Block):
    """Some images with their neighbors."""

    items: tuple[Nearby, ...]


@dataclass(frozen=True)
class Grid(Block):
    """Rows of images, equally many in each, with the name of each row."""

    rows: tuple[tuple[str, tuple[Picture, ...]], ...]
    caption: str

    @property
    def across(self) -> int:
        return max(len(pictures) for _, pictures in self.rows)


@dataclass(frozen=True)
class Panel(Block):
    """A picture as wide as the page allows."""

    picture: Picture
    caption: str


@dataclass(frozen=True)
class Panels(Block):
    """Pictures below each other, folded."""

    items: tuple[Panel, ...]
    folded: str  # as in a table


@dataclass(frozen=True)
class Frame(Block):
    """A page with a script, inside the page."""

    page: str  # HTML
    title: str
    digest: str  # sha256 of its script in base64: no other script may run


@dataclass(frozen=True)
class Commands(Block):
    """Lines for a shell."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """One part of the page."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]

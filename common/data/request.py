"""What a user asks of a source, and what kinds of sources there are to be asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from common.data.source import Source
from common.errors import UserError


@dataclass(frozen=True)
class Request:
    """A source as a user names it, with the settings that belong to it.

    Attributes:
        spec: all that names it: ``scheme:rest``, or the path of one image.
        rest: ``spec`` without its scheme.
        split: ``train`` or ``test``, for sources that have both, unless ``rest`` names one.
        image: column of images or their paths; ``None`` for the obvious one.
        label: column, or task, that ``labels(None)`` returns; ``None`` for the obvious one.
        root: folder for downloads; ``None`` for the user's cache.
        seed: of images that are generated, and of the positions of patches.
    """

    spec: str
    rest: str
    split: str = "train"
    image: str | None = None
    label: str | None = None
    root: str | None = None
    seed: int = 0

    @property
    def scheme(self) -> str:
        """What ``spec`` begins with."""
        return self.spec.partition(":")[0]

    @property
    def name(self) -> str:
        """``NAME``, where ``rest`` is ``NAME[:SPLIT]``."""
        return self.rest.partition(":")[0]

    @property
    def named_split(self) -> str:
        """``SPLIT``, where ``rest`` is ``NAME:SPLIT``; otherwise ``split``."""
        return self.rest.partition(":")[2] or self.split


@dataclass(frozen=True)
class Scheme:
    """A kind of source.

    Attributes:
        form: what a user writes, as messages show it; ``shapes[...]`` is complete without what is in brackets.
        open: opens a source, without decoding an image or reading a label. Raises ``UserError`` for what is not there.
        takes: the settings that ``open`` reads or refuses by itself; others are refused before.
        path: whether the rest is a path of this machine, or may be one.
        files: whether its images are files of their own, which a CSV file can name.
        remote: whether opening it may ask a server.
        suffixes: of files that are recognized as such sources without their scheme.
    """

    form: str
    open: Callable[[Request], Source]
    takes: tuple[Literal["image", "label"], ...] = ()
    path: bool = False
    files: bool = False
    remote: bool = False
    suffixes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the scheme alone names a source."""
        return "[" in self.form.partition(":")[0]

    def check(self, request: Request) -> None:
        """Refuse settings that do not belong to such a source.

        Raises:
            UserError: says which to remove.
        """
        problems = []
        if request.image is not None and "image" not in self.takes:
            problems.append(f"data.image: {request.spec} has no columns to choose from; remove it")
        if request.label not in (None, "label") and "label" not in self.takes:
            problems.append(f"data.label: {request.spec} has no label {request.label!r}; remove it, or use label")
        if problems:
            raise UserError(*problems)

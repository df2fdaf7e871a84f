"""Opens the generated sources, `shapes` and `photos`, which are always available, at any length."""

from __future__ import annotations

from common.data.photos import PhotosSource
from common.data.request import Request
from common.data.shapes import ShapesSource
from common.errors import UserError

FORM = "[:train|test[:LENGTH]]"  # what follows their scheme
LONGEST = 100_000_000  # images of one pass over them: their order alone takes 8 bytes per image


def shapes_source(request: Request) -> ShapesSource:
    """``shapes[:train|test[:LENGTH]]``.

    Raises:
        UserError: there is no such split, length or task.
    """
    tasks = ShapesSource().tasks
    unknown = request.label is not None and request.label not in tasks
    split, length = _read(request, f"no label {request.label!r}; it has {', '.join(tasks)}" if unknown else "")
    return ShapesSource(split, length, request.seed, request.label)


def photos_source(request: Request) -> PhotosSource:
    """``photos[:train|test[:LENGTH]]``.

    Raises:
        UserError: there is no such split or length, or a label is asked for.
    """
    split, length = _read(request, "no labels; remove it" if request.label is not None else "")
    return PhotosSource(split, length, request.seed)


def _read(request: Request, wrong_label: str) -> tuple[str, int | None]:
    """The split, and the length of a pass where one is given."""
    spec, scheme = request.spec, request.scheme
    name, _, length = request.rest.partition(":")
    name = name or request.split
    problems = []
    if name not in ("train", "test"):
        problems.append(f"{spec!r}: no split {name!r}; the form is {scheme}{FORM}")
    digits = length.lstrip("0")
    if length and not (length.isascii() and length.isdecimal() and digits):
        problems.append(f"{spec!r}: {length!r} is not a number of images; the form is {scheme}{FORM}")
    elif len(digits) > len(str(LONGEST)) or (length and int(length) > LONGEST):
        problems.append(
            f"{scheme}:{name}: a pass has at most {LONGEST:,} images; use {scheme}:{name}:{LONGEST}, or less"
        )
    if wrong_label:
        problems.append(f"data.label: {scheme} has {wrong_label}")
    if problems:
        raise UserError(*problems)
    return name, int(length) if length else None

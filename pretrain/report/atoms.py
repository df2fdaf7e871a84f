"""Pictures of dictionaries: all atoms at a glance, and the patches that excite some of them most."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from PIL import Image, ImageChops, ImageDraw
from torch import Tensor

from common.letters import lettering
from common.pixels import save_png, to_pil
from pretrain.report.panels import EDGE, FAINT, INK, PAPER

GRID = 880  # maximum width, in pixels, of a grid of enlarged atoms
ATOM = 96  # maximum pixels per atom: a small dictionary need not fill a screen
TILE = 64  # pixels of one atom or patch in the picture of exciting patches
GAP, ASIDE = 3, 18  # between atoms or patches, and between an atom and its patches
TITLE, SMALL, HEAD = 22, 17, 44  # font sizes of the title and of the note next to it, and their height
DIMMED = 0.7  # how much of the background shows through an unused atom
STROKE = (176, 179, 184)  # the line through an unused atom: pale, since there may be many


def atoms_picture(atoms: Tensor, use: Tensor | None = None, title: str = "") -> Image.Image:
    """All atoms in a near-square grid, the most used first, row by row.

    Every atom is scaled to its own largest magnitude around mid-gray: its sign and shape are shown, its size is not.
    Pixels are enlarged by an integer factor. Unused atoms come last, dimmed and struck through, and are counted next to
    the title.

    Args:
        atoms: ``[h 3 p p]``, any real values.
        use: ``[h]``, how often, or how much, each atom is used; without it atoms keep their own order.

    Raises:
        ValueError: shapes do not match, or there are no atoms.
    """
    atoms, use = _checked(atoms, use)
    count, side = len(atoms), atoms.shape[3]
    order = torch.arange(count) if use is None else use.argsort(descending=True, stable=True)
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    zoom = max(1, min((GRID // columns - GAP) // side, ATOM // side))
    tile = side * zoom
    picture, pen, head = _sheet(columns * (tile + GAP) - GAP, rows * (tile + GAP) - GAP, title, _count(use, count))
    for place, atom in enumerate(order.tolist()):
        row, column = divmod(place, columns)
        left, top = EDGE + column * (tile + GAP), EDGE + head + row * (tile + GAP)
        dead = use is not None and float(use[atom]) == 0
        shown = _enlarged(around_gray(atoms[atom]), tile)
        if dead:
            shown = Image.blend(shown, Image.new("RGB", shown.size, PAPER), DIMMED)
        picture.paste(shown, (left, top))
        if dead:
            pen.line((left, top + tile - 1, left + tile - 1, top), fill=STROKE)
    return picture


def exciting_picture(atoms: Tensor, patches: Tensor, title: str = "") -> Image.Image:
    """One row per atom: the atom, then the patches that excite it most.

    Args:
        atoms: ``[k 3 p p]``, any real values; each is scaled to its own largest magnitude around mid-gray.
        patches: ``[k m 3 p p]``, RGB in [0, 1], in the order to be shown.

    Raises:
        ValueError: shapes do not match, or there are no atoms.
    """
    atoms, _ = _checked(atoms, None)
    if patches.ndim != 5 or len(patches) != len(atoms) or patches.shape[2:] != atoms.shape[1:]:
        raise ValueError(f"patches {list(patches.shape)} do not match atoms {list(atoms.shape)}: expected [k m 3 p p]")
    count, many, side = len(atoms), patches.shape[1], atoms.shape[3]
    tile = side * max(1, round(TILE / side))
    most = "patch that excites it most" if many == 1 else f"{many:,} patches that excite it most"
    width = tile + ASIDE + many * (tile + GAP) - GAP
    picture, _, head = _sheet(width, count * (tile + GAP) - GAP, title, f"{_number(count)}, each with the {most}")
    for row in range(count):
        top = EDGE + head + row * (tile + GAP)
        picture.paste(_enlarged(around_gray(atoms[row]), tile), (EDGE, top))
        for column in range(many):
            left = EDGE + tile + ASIDE + column * (tile + GAP)
            picture.paste(_enlarged(patches[row, column], tile), (left, top))
    return picture


def tiles_alone(picture: Image.Image, count: int, *, exciting: bool = False) -> Image.Image | None:
    """The atoms of a picture on a clear ground, for a page of any color: without the title, and without the paper.

    Args:
        picture: what ``atoms_picture`` has drawn, or ``exciting_picture``.
        count: the number of atoms in it.
        exciting: whether it is the latter.

    Returns:
        RGBA; None if the picture is laid out in another way.
    """
    across, height = picture.width - 2 * EDGE, picture.height - 2 * EDGE - HEAD
    columns = 1 if exciting else math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    tile, below = divmod(height + GAP, rows)
    tile -= GAP
    if below or tile < 1:
        return None
    lefts = [column * (tile + GAP) for column in range(columns)]
    if exciting:  # as many patches as were drawn; a title may be wider than they are
        room = range(tile + ASIDE, across - tile + 1, tile + GAP)
        lefts += [left for left in room if not _is_paper(picture, EDGE + left, EDGE + HEAD, tile, height)]
    if lefts[-1] + tile > across:
        return None
    alone = Image.new("RGBA", (lefts[-1] + tile, height))
    for place in range(rows * len(lefts) if exciting else count):
        row, column = divmod(place, len(lefts))
        left, top = lefts[column], row * (tile + GAP)
        box = (EDGE + left, EDGE + HEAD + top, EDGE + left + tile, EDGE + HEAD + top + tile)
        alone.paste(picture.crop(box).convert("RGBA"), (left, top))
    return alone


def _is_paper(picture: Image.Image, left: int, top: int, width: int, height: int) -> bool:
    """Whether nothing is drawn in this part of a picture."""
    part = picture.convert("RGB").crop((left, top, left + width, top + height))
    return ImageChops.difference(part, Image.new("RGB", part.size, PAPER)).getbbox() is None


def around_gray(atom: Tensor) -> Tensor:
    """Any real values, any shape -> [0, 1]: zero is mid-gray, the largest magnitude black or white."""
    atom = atom.detach().float().cpu()
    return 0.5 + 0.5 * atom / atom.abs().max().clamp_min(torch.finfo(torch.float32).tiny)


def save_atoms(path: str | Path, atoms: Tensor, use: Tensor | None = None, title: str = "") -> Path:
    """Write ``atoms_picture`` as PNG, atomically."""
    return save_png(atoms_picture(atoms, use, title), path)


def save_exciting(path: str | Path, atoms: Tensor, patches: Tensor, title: str = "") -> Path:
    """Write ``exciting_picture`` as PNG, atomically."""
    return save_png(exciting_picture(atoms, patches, title), path)


def _checked(atoms: Tensor, use: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if atoms.ndim != 4 or atoms.shape[1] != 3 or atoms.shape[2] != atoms.shape[3] or 0 in atoms.shape:
        raise ValueError(f"atoms {list(atoms.shape)} cannot be shown: expected [h 3 p p]")
    if use is not None and use.shape != atoms.shape[:1]:
        raise ValueError(f"use {list(use.shape)} of {len(atoms)} atoms: expected one number per atom")
    return atoms.detach().float().cpu(), None if use is None else use.detach().cpu()


def _count(use: Tensor | None, count: int) -> str:
    """``256 atoms, most used first, 3 unused``."""
    if use is None:
        return _number(count)
    dead = int((use == 0).sum())
    return f"{_number(count)}, most used first" + (f", {dead:,} unused" if dead else "")


def _number(atoms: int) -> str:
    return "1 atom" if atoms == 1 else f"{atoms:,} atoms"


def _sheet(width: int, height: int, title: str, note: str) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """Paper for ``width`` x ``height`` pixels under a title with a fainter note; also returns the title's height."""
    title, large = lettering(title, TITLE)
    note, small = lettering(note, SMALL)
    indent = round(large.getlength(title)) + 14 if title else 0
    across = max(width, indent + math.ceil(small.getlength(note)))
    picture = Image.new("RGB", (EDGE + across + EDGE, EDGE + HEAD + height + EDGE), PAPER)
    pen = ImageDraw.Draw(picture)
    baseline = EDGE + TITLE - 4
    pen.text((EDGE, baseline), title, fill=INK, font=large, anchor="ls")
    pen.text((EDGE + indent, baseline), note, fill=FAINT, font=small, anchor="ls")
    return picture, pen, HEAD


def _enlarged(image: Tensor, tile: int) -> Image.Image:
    """RGB ``[3 p p]`` in [0, 1], every pixel a crisp square; ``tile`` is a whole multiple of p."""
    return to_pil(image.cpu()).resize((tile, tile), Image.Resampling.NEAREST)

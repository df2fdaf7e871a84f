"""Images of a source as functions of ``retouch``: as files, as tensors, and atoms as a picture."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from common.errors import UserError, check_all, one_line
from common.files import as_utf8, check_place, in_full

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from common.data import Labels, Source

log = logging.getLogger("retouch")


class ReadImages(NamedTuple):
    """Images as a network takes them.

    Attributes:
        images: float ``[N 3 S S]``, RGB in [0, 1].
        labels: the number of the class of each, int64 ``[N]``; None unless ``task`` was given.
        names: the classes, by number.
        paths: where each comes from: a path, or a source and a row.
    """

    images: Tensor
    labels: Tensor | None
    names: tuple[str, ...]
    paths: tuple[str, ...]


def write_images(
    source: str, folder: str | Path, limit: int | None = None, *, skip: int = 0, task: str | None = None
) -> tuple[Path, ...]:
    """Write images as PNG files, named by their rows: a folder to try Retouch on, from images that are not files.

        retouch.write_images("shapes", "my/pictures", 1200)
        retouch.write_images("shapes", "my/labeled", 800, skip=1200, task="texture")  # my/labeled/dots/1203.png

    Args:
        source: as for ``data=``, such as ``shapes``, ``torchvision:CIFAR10`` or ``memory:NAME``.
        folder: files that are there already stay; none is replaced.
        limit: write this many images at most.
        skip: leave out this many at the beginning.
        task: the labels that name a folder for each class; by default, no class folders are made.

    Returns:
        The files. Images that cannot be read are left out, and a warning names them.

    Raises:
        UserError: the images or labels cannot be used, there are none, or a file is there already; nothing has been
            written.
    """
    from common.data import build_source
    from common.data.decode import upright
    from common.data.split import first
    from common.pixels import save_png

    folder = in_full(folder)
    opened, _ = check_all(lambda: build_source(source), lambda: check_place(folder, "folder"))
    rows = _rows(opened, limit, skip)
    classes = None if task is None else _class_folders(opened, rows, task)
    width = max(4, len(str(rows[-1])))
    paths = [
        folder / ("" if classes is None else classes[place]) / f"{row:0{width}d}.png" for place, row in enumerate(rows)
    ]
    check_all(
        *(lambda place=place: check_place(place, "folder") for place in dict.fromkeys(path.parent for path in paths))
    )
    if taken := [str(path) for path in paths if os.path.lexists(path)]:  # also a link that leads nowhere
        raise UserError(f"{folder}: there already: {first(taken)}; give a new folder")
    written, failed = list[Path](), list[str]()
    for row, path in zip(rows, paths, strict=True):
        try:
            image = upright(opened.image(row), opened.levels)
        except Exception as error:  # decoders raise anything on broken files
            failed.append(f"{as_utf8(opened.where(row))} ({one_line(error, 200)})")
            continue
        written.append(save_png(image, path))
    if failed and not written:
        raise UserError(f"{source}: no image can be read, for example {failed[0]}")
    if failed:
        log.warning("%d of %d images cannot be read and are left out, such as %s", len(failed), len(rows), failed[0])
    return tuple(written)


def read_images(
    source: str, limit: int | None = None, *, skip: int = 0, image_size: int = 32, task: str | None = None
) -> ReadImages:
    """Read images as a tensor, as stages see them: squares, the shorter side scaled to ``image_size``.

        found = retouch.read_images("my/labeled", task="label")
        features = retouch.load_encoder("runs/mine").encode(found.images)

    All are in memory as floats: 12 KB for each image of 32 px.

    Args:
        source: as for ``data=``: a folder, ``shapes``, ``photos``, ``torchvision:CIFAR10``, ...
        limit: read this many images at most.
        skip: leave out this many at the beginning.
        image_size: side of the squares in px.
        task: the labels to read as well, such as ``label`` for class folders; by default none.

    Returns:
        ``images``, ``labels``, ``names`` and ``paths``. Images that cannot be read are left out, with a warning.

    Raises:
        UserError: the images or labels cannot be used, or there are none.
    """
    import torch

    from common.data import Subset, build_source, load_images
    from common.pixels import to_float

    if image_size < 1:
        raise UserError(f"image_size={image_size}: give a side of 1 px or more")
    opened = build_source(source)
    rows = torch.tensor(_rows(opened, limit, skip))
    if task is not None:
        _labels(opened, rows, task)  # before anything is decoded
    images = load_images(Subset(opened, rows, f"rows {int(rows[0])} to {int(rows[-1])}"), image_size)
    every = torch.arange(len(images))
    labels = None if task is None else images.labels(task)
    return ReadImages(
        to_float(images.rows(every)),
        None if labels is None else labels.values,
        () if labels is None else labels.names,
        tuple(map(as_utf8, images.places(every))),
    )


def atoms_picture(atoms: Tensor, use: Tensor | None = None, title: str = "") -> Image.Image:
    """Draw atoms, such as those of ``retouch.fit``, in a near-square grid, each scaled to its own largest magnitude.

        pca = retouch.fit({"kind": "pca", "components": 36}, patches)  # [N 3 12 12]
        retouch.atoms_picture(pca.code.weight.detach().reshape(-1, 3, 12, 12))

    Args:
        atoms: ``[h 3 p p]``, any real values; mid-gray is 0.
        use: ``[h]``, how much each is used: the most used come first.

    Raises:
        ValueError: shapes do not match, or there are no atoms.
    """
    from pretrain.report.atoms import atoms_picture as work

    return work(atoms, use, title)


def _rows(source: Source, limit: int | None, skip: int) -> list[int]:
    """The rows that are wanted, at least one."""
    if skip < 0 or (limit is not None and limit < 1):
        raise UserError("limit is at least 1, and skip at least 0")
    rows = list(range(skip, len(source) if limit is None else min(len(source), skip + limit)))
    if not rows:
        raise UserError(f"skip={skip}: {source.spec} has {len(source):,} images; skip fewer")
    return rows


def _labels(source: Source, rows: Tensor, task: str) -> Labels:
    try:
        return source.labels(task, rows)
    except UserError as error:  # what settings call data.task is an argument here
        raise UserError(*(line.replace("data.task", "task") for line in error.lines)) from None


def _class_folders(source: Source, rows: list[int], task: str) -> list[str]:
    """The name of the folder of each row."""
    import torch

    from common.data.split import first

    labels = _labels(source, torch.tensor(rows), task)
    names = [labels.names[value] for value in labels.values.tolist()]
    if odd := sorted({name for name in names if "/" in name or "\0" in name or name in ("", ".", "..")}):
        raise UserError(f"{source.spec}: classes that cannot name a folder: {first(odd)}; leave task out")
    return names

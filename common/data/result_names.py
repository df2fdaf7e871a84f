"""The names of images that are made from other images, one from each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from common.data.folder import TreeSource
from common.data.lists import ListSource
from common.data.source import Source


def result_names(source: Source, rows: list[int]) -> list[str]:
    """Where results are written: paths with forward slashes, all different, none outside the folder of results.

    A path is that of the picture below its folder, with the suffix ``.png`` in place of its own, or after it where two
    pictures differ in their suffix alone. Pictures without such a path are named by the number of their row.
    """
    paths = [_inside(source, row) for row in rows]
    plain = [
        f"{row:08d}.png" if path is None else str(path.with_suffix(".png"))
        for path, row in zip(paths, rows, strict=True)
    ]
    taken = _taken(plain)
    names = [
        one if one.casefold() not in taken or path is None else f"{path}.png"
        for one, path in zip(plain, paths, strict=True)
    ]
    taken = _taken(names)  # a.jpg and a.png are a.jpg.png and a.png.png, which may be there too
    return [
        one if one.casefold() not in taken else f"{row:08d}-{PurePosixPath(one).name}"
        for one, row in zip(names, rows, strict=True)
    ]


def _taken(names: Sequence[str]) -> set[str]:
    """Names, in lower case, that two results share, or a result and a folder of others."""
    known = Counter(map(str.casefold, names))
    folders = {name.rpartition("/")[0] for name in known}
    folders |= {str(above) for folder in folders for above in PurePosixPath(folder).parents}
    return {name for name, count in known.items() if count > 1 or name in folders}


def _inside(source: Source, row: int) -> PurePosixPath | None:
    """The path of a picture below the common folder; None for pictures without one."""
    if not isinstance(source, TreeSource | ListSource):
        return None
    path = PurePosixPath(source.paths[row].replace(os.sep, "/"))
    return None if path.is_absolute() or ".." in path.parts or not path.name else path

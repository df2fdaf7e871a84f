"""`folder:PATH`: every image file below a folder. A million files take seconds to open: only folders are read."""

from __future__ import annotations

import os
from collections import Counter
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.data.decode import image_suffixes, open_image
from common.data.source import Labels, Source, digest
from common.errors import UserError


class FolderSource(Source):
    """Image files below ``folder``, sorted by path, without hidden files and folders.

    Symbolic links are followed, but a file or folder reached twice counts once, so cycles of links end. The class of an
    image is the first folder below ``folder``.

    Raises:
        UserError: there is no such folder, it cannot be listed, or it contains no image.
    """

    def __init__(self, folder: str, spec: str | None = None) -> None:
        self.root = os.path.expanduser(folder)  # noqa: PTH111 -- a string, since it is joined a million times
        self.spec = spec or f"folder:{folder}"
        if not Path(self.root).is_dir():
            what = "is a file, not a folder" if Path(self.root).exists() else "no such folder"
            raise UserError(f"{self.spec}: {what}: {Path(self.root).absolute()}")
        try:
            found, others = _image_paths(self.root, image_suffixes())
        except OSError as error:
            raise UserError(f"{self.spec}: cannot list {error.filename}: {error.strerror}") from None
        if not found:
            raise UserError(f"{self.spec}: {_nothing(self.root, others)}")
        # one block of bytes instead of a million strings: small, and fast to send to worker processes
        paths = [os.fsencode(path) for path in sorted(found)]
        self._ends = np.cumsum([len(path) for path in paths], dtype=np.int64)
        self._bytes = b"".join(paths)
        self.tasks = ("label",) if all(b"/" in path for path in paths) else ()

    @cached_property
    def fingerprint(self) -> str:
        parts: list[object] = []
        for index in range(len(self)):
            path = self.path(index)
            try:
                status = os.stat(f"{self.root}/{path}")  # noqa: PTH116 -- a million times
            except OSError as error:
                raise UserError(
                    f"{self.spec}: {self.root}/{path} has disappeared since the folder was listed ({error.strerror}): "
                    "start again once the folder no longer changes"
                ) from None
            parts += (os.fsencode(path), status.st_size, status.st_mtime_ns)
        return digest(parts)

    def __len__(self) -> int:
        return len(self._ends)

    def path(self, index: int) -> str:
        """Path of one image, relative to the folder, with forward slashes."""
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._bytes[start : int(self._ends[index])])

    def image(self, index: int) -> Image.Image | Tensor:
        return open_image(self.where(index))

    def where(self, index: int) -> str:
        return f"{self.root}/{self.path(index)}"

    def resolve(self, task: str | None) -> str:
        if not self.tasks:
            raise UserError(
                f"{self.spec}: labels are needed, but some images (such as {self._stray()}) are not in a class folder: "
                "put each image into a folder named after its class"
            )
        return super().resolve(task)

    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        task = self.resolve(task)
        names, values = np.unique([self.path(i).partition("/")[0] for i in range(len(self))], return_inverse=True)
        chosen = torch.from_numpy(values.astype(np.int64))
        return Labels(chosen if rows is None else chosen[rows], tuple(str(name) for name in names), task)

    def _stray(self) -> str:
        return next(path for path in map(self.path, range(len(self))) if "/" not in path)


def _image_paths(root: str, suffixes: frozenset[str]) -> tuple[list[str], Counter[str]]:
    """Relative paths of the image files below ``root``, unordered, and a count of the other files by suffix."""
    found: list[str] = []
    others: Counter[str] = Counter()
    visited: set[str] = set()  # real paths of the folders listed so far
    links: list[tuple[str, str]] = []  # links to files: (relative path, real path)
    pending = [("", os.path.realpath(root))]  # folders to list; links to folders come after all real ones
    waiting: list[tuple[str, str]] = []
    while pending or waiting:
        if not pending:
            waiting.sort(reverse=True)
        relative, real = pending.pop() if pending else waiting.pop()
        if real in visited:
            continue
        visited.add(real)
        with os.scandir(real) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = relative + entry.name
                if entry.is_symlink():
                    target = os.path.realpath(entry.path)
                    if os.path.isdir(target):  # noqa: PTH112 -- False also for a link to itself
                        waiting.append((path + "/", target))
                    elif os.path.isfile(target):  # noqa: PTH113
                        links.append((path, target))
                elif entry.is_dir():
                    pending.append((path + "/", entry.path))
                elif _suffix(entry.name) in suffixes:
                    found.append(path)
                else:
                    others[_suffix(entry.name)] += 1
    taken: set[str] = set()
    for path, target in sorted(links):
        folder, _, name = target.rpartition("/")
        listed = folder in visited and _suffix(name) in suffixes and not name.startswith(".")
        if _suffix(path) in suffixes and not listed and target not in taken:
            taken.add(target)
            found.append(path)
    return found, others


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 -- a million times


def _nothing(root: str, others: Counter[str]) -> str:
    """Why a folder has no images, and what to do."""
    if not others:
        return f"the folder is empty: {Path(root).absolute()}"
    kinds = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in others.most_common(3))
    hint = "; for parquet files use parquet:PATH/*.parquet" if others[".parquet"] else ""
    return f"no image files in {Path(root).absolute()} (found {kinds}){hint}"

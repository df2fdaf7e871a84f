"""`folder:PATH`: every image file below a folder. A million files take seconds to open: only folders are read."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.data.decode import image_suffixes, open_image
from common.data.listing import Listing, list_images
from common.data.source import Labels, Source, class_name, digest
from common.data.split import Split, choose_split, first, split_of
from common.errors import UserError
from common.runs.logs import say_once

log = logging.getLogger("retouch")


class FolderSource(Source):
    """Image files below ``folder``, sorted by path, without hidden ones and what is no image of the user (``listing``).

    Symbolic links are followed, but a file or folder reached twice counts once, so cycles of links end. The class of an
    image is the first folder below ``folder``.

    Raises:
        UserError: there is no such folder, it cannot be listed, or it contains no image.
    """

    test: FolderSource | None = None

    def __init__(self, folder: str, spec: str | None = None) -> None:
        self.root = os.path.expanduser(folder)  # noqa: PTH111 -- a string, since it is joined a million times
        self.spec = spec or f"folder:{folder}"
        if not Path(self.root).is_dir():
            what = "is a file, not a folder" if Path(self.root).exists() else "no such folder"
            raise UserError(f"{self.spec}: {what}: {Path(self.root).absolute()}")
        try:
            listing = list_images(self.root, image_suffixes())
        except OSError as error:
            raise UserError(f"{self.spec}: cannot list {error.filename}: {error.strerror}") from None
        listing.report(self.spec)
        if not listing.images:
            raise UserError(f"{self.spec}: {_nothing(self.root, listing)}")
        self._empty = listing.empty
        self._keep(sorted(listing.images))

    def _keep(self, paths: Sequence[str]) -> None:
        # one block of bytes instead of a million strings: small, and fast to send to worker processes
        encoded = [os.fsencode(path) for path in paths]
        self._ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        self._bytes = b"".join(encoded)
        self.tasks = ("label",) if all(b"/" in path for path in encoded) else ()

    def splits(self) -> dict[Split, FolderSource]:
        """Its parts, if all of its folders are named after splits, or all folders of every class."""
        paths = [self.path(index) for index in range(len(self))]
        return self._parts(paths, 0) or self._parts(paths, 1)

    def _parts(self, paths: list[str], level: int) -> dict[Split, FolderSource]:
        """The parts by their folders ``level`` folders down; none if one is not named after a split, or two alike."""
        chosen: dict[str, list[str]] = {}
        for path in paths:
            folders = path.split("/")[:-1]
            chosen.setdefault(folders[level] if len(folders) > level else "", []).append(path)
        named = {split_of(folder): folder for folder in chosen}
        if None in named or len(named) < len(chosen) or (level and len(named) == 1):
            return {}
        parts: dict[Split, FolderSource] = {}
        for name, folder in named.items():
            if name is None:
                continue
            part = parts[name] = copy.copy(self)
            if level:
                part.spec = f"{self.spec} ({folder})"
                part._keep(chosen[folder])
            else:  # the same as if the user had named this folder
                part.root, part.spec = f"{self.root.rstrip('/')}/{folder}", f"{self.spec.rstrip('/')}/{folder}"
                part._empty = [path.partition("/")[2] for path in self._empty if path.startswith(f"{folder}/")]
                part._keep([path.partition("/")[2] for path in chosen[folder]])
        return parts

    def published_test(self) -> Source | None:
        """The folder of test images next to this one of training images, where the user named the folder of both."""
        return self.test

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
        names, values = np.unique(
            [class_name(self.path(i).partition("/")[0]) for i in range(len(self))], return_inverse=True
        )
        if empty := sorted(path for path in self._empty if "/" not in path and class_name(path) not in names):
            say_once(logging.WARNING, f"{self.spec}: no images in {first(empty)}, so there is no such class")
        named = [str(name) for name in names if split_of(str(name))]
        if len({split_of(name) for name in named}) > 1:
            log.warning(
                "%s: %s are taken for classes, but look like splits; if they are, name one: %s/%s",
                *(self.spec, " and ".join(named), self.spec, named[-1]),
            )
        chosen = torch.from_numpy(values.astype(np.int64))
        return Labels(chosen if rows is None else chosen[rows], tuple(str(name) for name in names), task)

    def _stray(self) -> str:
        return next(path for path in map(self.path, range(len(self))) if "/" not in path)


def folder_source(spec: str, folder: str, split: str = "train") -> FolderSource:
    """``folder:PATH``; if the folders there are splits (train, test, val), the one that is asked for.

    The test set of ``train`` is then ``test``, or ``val`` where there is no ``test``.

    Raises:
        UserError: as ``FolderSource``; or it has splits, but not this one.
    """
    whole = FolderSource(folder, spec)
    parts = whole.splits()
    if not parts:
        return whole
    chosen, test = choose_split(parts, split)
    if chosen is None:
        raise UserError(f"{spec}: no {split} folder among its splits {', '.join(part.spec for part in parts.values())}")
    counts = ", ".join(f"{name} ({len(part):,} images)" for name, part in parts.items())
    log.info("%s holds the splits %s: %s is used", spec, counts, chosen.spec)
    chosen.test = test
    return chosen


def _nothing(root: str, listing: Listing) -> str:
    """Why a folder has no images, and what to do."""
    others = listing.others
    if listing.runs or listing.added:
        return f"no image files in {Path(root).absolute()}, except in folders that are left out"
    if not others:
        return f"the folder is empty: {Path(root).absolute()}"
    kinds = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in others.most_common(3))
    hint = "; for parquet files use parquet:PATH/*.parquet" if others[".parquet"] else ""
    return f"no image files in {Path(root).absolute()} (found {kinds}){hint}"

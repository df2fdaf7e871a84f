"""`folder:PATH`: every image file below a folder. A million files take seconds to open: only folders are read."""

from __future__ import annotations

import copy
import logging
import os
from abc import ABC
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.data.decode import image_suffixes, open_image
from common.data.listing import Listing, list_images
from common.data.names import Names
from common.data.request import Request
from common.data.source import Labels, Source, class_name, digest
from common.data.split import Split, choose_split, first, split_of
from common.errors import UserError
from common.files import command, in_full, run_stage
from common.runs.logs import say_once

log = logging.getLogger("retouch")


class TreeSource(Source, ABC):
    """Images by their paths below ``root``, sorted. The class of an image is the first folder of its path.

    Attributes:
        paths: relative to ``root``, with forward slashes.
    """

    root: str
    paths: Names
    test: TreeSource | None = None
    _empty: Sequence[str] = ()  # folders without images

    def _keep(self, paths: Sequence[str]) -> None:
        self.paths = Names(paths)
        self.tasks = ("label",) if all("/" in path for path in paths) else ()

    def split(self, name: str) -> Self:
        """Itself, or the one of its splits that is asked for, where its folders are splits (train, test, val).

        The test set of ``train`` is then ``test``, or ``val`` where there is no ``test``. Images in none of the splits
        are left out, with a warning. A single folder around the splits does not matter.

        Raises:
            UserError: it has splits, but not this one, or two folders for one split.
        """
        outer, parts = self, self._parts(0)
        while not parts and (inner := outer._only_folder()) is not None:
            outer, parts = inner, inner._parts(0)
        if not parts:
            outer, parts = self, self._parts(1)
        if not parts:
            return self
        chosen, test = choose_split(parts, name)
        if chosen is None:
            specs = ", ".join(part.spec for part in parts.values())
            raise UserError(f"{outer.spec}: no {name} folder among its splits {specs}")
        counts = ", ".join(f"{name} ({len(part):,} images)" for name, part in parts.items())
        log.info("%s holds the splits %s: %s is used", outer.spec, counts, chosen.spec)
        if stray := len(outer) - sum(map(len, parts.values())):
            kept = {path for part in parts.values() for path in map(part.where, range(len(part)))}
            one = next(path for path in map(outer.where, range(len(outer))) if path not in kept)
            say_once(logging.WARNING, f"{outer.spec}: {stray:,} images in no split are left out, such as {one}")
        chosen.test = test
        return chosen

    def _parts(self, level: int) -> dict[Split, Self]:
        """The parts by their folders ``level`` folders down, where two are named after splits or the only one is.

        Raises:
            UserError: two are named after the same split, and others after another.
        """
        chosen: dict[str, list[str]] = {}
        with_splits: dict[str, bool] = {}  # whether a folder of the first level holds a split
        for path in self.paths:
            folders = path.split("/")[:-1]
            folder = folders[level] if len(folders) > level else ""
            chosen.setdefault(folder, []).append(path)
            if folders:
                with_splits[folders[0]] = with_splits.get(folders[0], False) or split_of(folder) is not None
        named = [(split, folder) for folder in chosen if (split := split_of(folder)) is not None]
        folders, splits = [folder for _, folder in named], dict(named)
        if len(splits) < 2:
            if not level and splits.keys() & {"test", "val"} and len(chosen) > 1:
                say_once(
                    logging.WARNING,
                    f"{self.spec}: {first(folders)} is taken as the other folders are; if its images are for testing, "
                    "put the others into a folder train",
                )
            if level or len(chosen) > 1:
                return {}
        if len(splits) < len(named):
            raise UserError(
                f"{self.spec}: {', '.join(folders)} are folders of splits, two for the same split: join them, or name "
                f"one to use, such as {self.spec.rstrip('/')}/{folders[0]}"
            )
        if level and (without := [folder for folder, has in with_splits.items() if not has]):
            say_once(
                logging.WARNING,
                f"{self.spec}: all images are taken: some of its folders have {', '.join(folders)} inside, which look "
                f"like splits, but {first(without)} not",
            )
            return {}
        return {split: self._part(folder, chosen[folder], level) for split, folder in splits.items()}

    def _part(self, folder: str, paths: Sequence[str], level: int) -> Self:
        """The images at ``paths``, all of the same folder ``level`` folders down."""
        part = copy.copy(self)
        if level:
            part.spec = f"{self.spec} ({folder})"
            part._keep(paths)
        else:  # the same as if the user had named this folder
            part.root, part.spec = f"{self.root.rstrip('/')}/{folder}", f"{self.spec.rstrip('/')}/{folder}"
            part._empty = [path.partition("/")[2] for path in self._empty if path.startswith(f"{folder}/")]
            part._keep([path.partition("/")[2] for path in paths])
        return part

    def _only_folder(self) -> Self | None:
        """The folder that holds everything; ``None`` if there is none."""
        folders = {path.partition("/")[0] if "/" in path else "" for path in self.paths}
        return None if len(folders) > 1 or "" in folders else self._part(folders.pop(), self.paths, 0)

    def published_test(self) -> Source | None:
        """The folder of test images next to this one of training images, where the user named the folder of both."""
        return self.test

    def __len__(self) -> int:
        return len(self.paths)

    def where(self, index: int) -> str:
        return f"{self.root}/{self.paths[index]}"

    def resolve(self, task: str | None) -> str:
        if not self.tasks:
            stray = next(path for path in self.paths if "/" not in path)
            raise UserError(
                f"{self.spec}: labels are needed, but some images (such as {stray}) are not in a class folder: "
                "put each image into a folder named after its class, or label them with the page that "
                f"`retouch label encoder=RUN data={self.spec.partition(':')[2]}` writes"
            )
        return super().resolve(task)

    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        task = self.resolve(task)
        names, values = np.unique([class_name(path.partition("/")[0]) for path in self.paths], return_inverse=True)
        if empty := sorted(path for path in self._empty if "/" not in path and class_name(path) not in names):
            say_once(logging.WARNING, f"{self.spec}: no images in {first(empty)}, so there is no such class")
        named = [str(name) for name in names if split_of(str(name))]
        if len({split_of(name) for name in named}) > 1:
            log.warning(
                "%s: %s are taken for classes, but look like splits; if they are splits, name one: %s/%s",
                *(self.spec, " and ".join(named), self.spec, named[-1]),
            )
        chosen = torch.from_numpy(values.astype(np.int64))
        return Labels(chosen if rows is None else chosen[rows], tuple(str(name) for name in names), task)


class FolderSource(TreeSource):
    """Image files below ``folder``, sorted by path, except hidden ones and those that are not the user's (``listing``).

    Symbolic links are followed, but a file or folder reached twice counts once, so cycles of links end.

    Raises:
        UserError: there is no such folder, it cannot be listed, or it contains no image.
    """

    def __init__(self, folder: str, spec: str | None = None) -> None:
        self.root = str(in_full(folder)) if folder.startswith("~") else folder  # a string, joined a million times
        self.spec = spec or f"folder:{folder}"
        if not Path(self.root).is_dir():
            what = "is a file, not a folder" if Path(self.root).exists() else "no such folder"
            raise UserError(f"{self.spec}: {what}: {Path(self.root).absolute()}")
        if (mark := run_stage(self.root)) is not None:
            raise UserError(f"{self.spec}: {_own_run(self.root, mark)}")
        try:
            listing = list_images(self.root, image_suffixes())
        except OSError as error:
            raise UserError(f"{self.spec}: cannot list {error.filename}: {error.strerror}") from None
        listing.report(self.spec)
        if not listing.images:
            raise UserError(f"{self.spec}: {_nothing(self.root, listing)}")
        self._empty = listing.empty
        self._keep(sorted(listing.images))

    @cached_property
    def fingerprint(self) -> str:
        parts: list[object] = []
        for path in self.paths:
            try:
                status = os.stat(f"{self.root}/{path}")  # noqa: PTH116 -- a million times
            except OSError as error:
                raise UserError(
                    f"{self.spec}: {self.root}/{path} has disappeared since the folder was listed ({error.strerror}): "
                    "start again once the folder no longer changes"
                ) from None
            parts += (path, status.st_size, status.st_mtime_ns)
        return digest(parts)

    def image(self, index: int) -> Image.Image | Tensor:
        return open_image(self.where(index))


def folder_source(request: Request) -> FolderSource:
    """``folder:PATH``, or the one of its splits that is asked for.

    Raises:
        UserError: as ``FolderSource`` and ``TreeSource.split``.
    """
    return FolderSource(request.rest, request.spec).split(request.split)


def _own_run(root: str, mark: str) -> str:
    """Why a run folder is not data: its panels and sheets are not the user's images."""
    restored = Path(root, "pictures")
    hint = f"the pictures that it wrote: {restored}" if restored.is_dir() else "a folder of images"
    return f"{command(mark)} wrote this folder, and its pictures are not your images; give {hint}"


def _nothing(root: str, listing: Listing) -> str:
    """Why a folder has no images, and what to do."""
    others = listing.others
    if listing.runs or listing.added:
        return f"no image files in {Path(root).absolute()}, except in folders that are left out"
    if not others:
        return f"the folder is empty: {Path(root).absolute()}"
    hint = "; for parquet files use parquet:PATH/*.parquet" if others[".parquet"] else ""
    return f"no image files in {Path(root).absolute()} (found {listing.kinds}){hint}"

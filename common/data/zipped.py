"""`zip:PATH`: every image in a zip file, read in place. Opening it reads its list of entries, and no image."""

from __future__ import annotations

import logging
import os
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from common.data.decode import image_suffixes, open_image
from common.data.folder import TreeSource
from common.data.listing import list_names
from common.data.request import Request
from common.data.source import digest
from common.errors import UserError, one_line
from common.files import LONGEST_MARK, command, in_full, stage_of
from common.runs.logs import say_once


class ZipSource(TreeSource):
    """Image files in a zip, sorted by path, or those below a folder in it (``zip:PATH/FOLDER``).

    A single folder that holds everything is not a class: many programs pack the folder itself.

    Raises:
        UserError: there is no such file, it is not a zip or is encrypted, or it contains no image.
    """

    def __init__(self, spec: str, path: str) -> None:
        self.spec = spec
        self.archive, inside = _archive(spec, in_full(path))
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        try:
            entries = self._zip().infolist()
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{spec}: {self.archive} is not readable as a zip file: {one_line(error)}") from None
        names = {_plain(one.filename): one.filename for one in entries if not one.filename.endswith(("/", "\\"))}
        if twice := sum(not one.filename.endswith(("/", "\\")) for one in entries) - len(names):
            say_once(logging.WARNING, f"{spec}: {twice} of its files have the name of a later one, and are left out")
        self._stored = {name: stored for name, stored in names.items() if name != stored}
        if (stage := stage_of(self._first_line(f"{inside}config.yaml"))) is not None:
            raise UserError(
                f"{spec}: {command(stage)} wrote what is in it, and its drawings are not your images; give a zip file "
                "of images"
            )
        listing = list_names(
            [name.removeprefix(inside) for name in names if name.startswith(inside)],
            image_suffixes(),
            lambda name: self._first_line(inside + name),
        )
        listing.report(spec)
        if not listing.images:
            found = f" (found {listing.kinds})" if listing.others else ""
            found = ", except in folders that are left out" if listing.runs or listing.added else found
            raise UserError(f"{spec}: no image files in it{found}")
        locked = sum(one.flag_bits & 1 for one in entries)
        if locked:
            raise UserError(f"{spec}: {locked} of its {len(entries)} entries are encrypted: unpack it")
        while len({path.partition("/")[0] for path in listing.images}) == 1 and all("/" in p for p in listing.images):
            folder = listing.images[0].partition("/")[0]
            inside, self.spec = f"{inside}{folder}/", f"{self.spec.rstrip('/')}/{folder}"
            listing.images = [path.partition("/")[2] for path in listing.images]
        self.root = f"{self.archive}/{inside}".rstrip("/")
        self._keep(sorted(listing.images))

    @cached_property
    def fingerprint(self) -> str:
        status = self.archive.stat()
        return digest([status.st_size, status.st_mtime_ns, *map(self.where, range(len(self)))])

    def image(self, index: int) -> Image.Image | Tensor:
        name = self.where(index)[len(str(self.archive)) + 1 :]
        return open_image(self._zip().read(self._stored.get(name, name)))

    def _first_line(self, name: str) -> bytes:
        """Of one of its files; empty where there is none, or it cannot be read."""
        try:
            with self._zip().open(self._stored.get(name, name)) as file:
                return file.readline(LONGEST_MARK)
        except Exception:  # damaged and encrypted entries raise anything, and others will speak of them
            return b""

    def _zip(self) -> zipfile.ZipFile:
        """The file, opened once per process: a forked one would share its position with its parent."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), zipfile.ZipFile(self.archive))
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}  # an open file cannot be sent to a worker


def zip_source(request: Request) -> ZipSource:
    """``zip:PATH``, or the one of its splits that is asked for.

    Raises:
        UserError: as ``ZipSource`` and ``TreeSource.split``.
    """
    return ZipSource(request.spec, request.rest).split(request.split)


def _plain(name: str) -> str:
    """``./cat\\0.png``, as some programs write it, is ``cat/0.png``."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _archive(spec: str, path: Path) -> tuple[Path, str]:
    """The zip file in a path that may go on inside it, and the folder inside, empty or with a slash at its end."""
    for file in (path, *path.parents):
        if file.is_file():
            inside = path.relative_to(file).as_posix()
            return file, "" if inside == "." else f"{inside}/"
    what = "is a folder, not a zip file" if path.exists() else "no such file"
    raise UserError(f"{spec}: {what}: {path.absolute()}")

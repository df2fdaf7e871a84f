"""Which files below a folder are images of the user: not what a drive, an archive or a run of Retouch has put there."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from common.files import run_stage, stage_of
from common.runs.logs import say_once

# folders that network drives, archive programs, desktops and W&B add, in lower case; some hold copies of the images
ADDED = {
    "#recycle", "#snapshot", "$recycle.bin", "@__thumb", "@eadir", "@recently-snapshot", "@recycle", "@tmp",
    "@transcode", "__macosx", "__pycache__", "lost+found", "node_modules", "recycler", "site-packages",
    "system volume information", "wandb",
}  # fmt: skip
SHOWN = 3  # folders named in the log


@dataclass
class Listing:
    """What is below a folder. Paths are relative, with forward slashes, and unordered."""

    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)  # other files, by suffix
    empty: list[str] = field(default_factory=list)  # folders without images and folders, of the first two levels
    runs: list[str] = field(default_factory=list)  # run folders, left out
    added: list[str] = field(default_factory=list)  # other folders that are left out
    again: list[str] = field(default_factory=list)  # links to images and folders that are listed already

    @property
    def kinds(self) -> str:
        """The most frequent types of other files, with their numbers."""
        return ", ".join(f"{count:,} {suffix or 'without suffix'}" for suffix, count in self.others.most_common(3))

    def report(self, spec: str) -> None:
        """Say what is left out, once per program."""
        hold = "holds" if len(self.added) == 1 else "hold"
        for folders, what in ((self.runs, "written by retouch"), (self.added, f"that {hold} no images of yours")):
            if folders:
                shown = ", ".join(sorted(folders)[:SHOWN]) + (", ..." if len(folders) > SHOWN else "")
                say_once(
                    logging.INFO, f"{spec}: {len(folders)} folder{'s' * (len(folders) > 1)} {what} left out: {shown}"
                )
        if self.again:
            say_once(
                logging.INFO,
                f"{spec}: {len(self.again)} link{'s' * (len(self.again) > 1)} to what is listed already left out: "
                f"{', '.join(sorted(self.again)[:SHOWN])}{', ...' * (len(self.again) > SHOWN)}",
            )
        if self.images and self.others.total() > len(self.images):
            say_once(
                logging.INFO, f"{spec}: {len(self.images):,} images; files of other types are not read ({self.kinds})"
            )


def list_images(root: str, suffixes: frozenset[str]) -> Listing:
    """The image files below ``root``, without hidden ones, ``ADDED`` folders and run folders.

    Otherwise the next run would train on a run folder below the images, and would find other data when resumed.
    """
    listing = Listing()
    visited: set[str] = set()  # real paths of the folders listed so far
    links: list[tuple[str, str]] = []  # links to files: (relative path, real path)
    pending = [("", os.path.realpath(root))]  # folders to list; links to folders come after all real ones
    waiting: list[tuple[str, str]] = []
    while pending or waiting:
        if not pending:
            waiting.sort(reverse=True)
        relative, real = pending.pop() if pending else waiting.pop()
        if real in visited:
            listing.again.append(relative.rstrip("/"))
            continue
        with os.scandir(real) as found:
            entries = list(found)
        if relative and (left_out := _left_out(real, {entry.name for entry in entries}, listing)) is not None:
            left_out.append(relative.rstrip("/"))
            continue
        visited.add(real)
        before = len(listing.images) + len(pending) + len(waiting) + len(links)
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
            elif _suffix(entry.name) in suffixes and entry.is_file():  # not a pipe: reading it would block
                listing.images.append(path)
            else:
                listing.others[_suffix(entry.name)] += 1
        if 0 < relative.count("/") <= 2 and len(listing.images) + len(pending) + len(waiting) + len(links) == before:
            listing.empty.append(relative.rstrip("/"))
    taken: set[str] = set()
    for path, target in sorted(links):
        folder, _, name = target.rpartition("/")
        listed = folder in visited and _suffix(name) in suffixes and not name.startswith(".")
        if _suffix(path) not in suffixes:
            continue
        if listed or target in taken:
            listing.again.append(path)
        else:
            taken.add(target)
            listing.images.append(path)
    return listing


def list_names(names: Collection[str], suffixes: frozenset[str], first_line: Callable[[str], bytes]) -> Listing:
    """The image files among the paths of an archive's files, by the rules of ``list_images``.

    Args:
        first_line: gives the first line of a file, by its path; called per ``config.yaml``.
    """
    listing = Listing()
    runs, environments = set(), set()  # their folders
    for path in names:
        folder, _, name = path.rpartition("/")
        if name == "config.yaml" and folder and stage_of(first_line(path)):
            runs.add(folder)
        elif name == "pyvenv.cfg":
            environments.add(folder)
    for path in names:
        *folders, name = path.split("/")
        out = None
        for number, one in enumerate(folders, 1):
            if one.lower() in ADDED or ((runs or environments) and "/".join(folders[:number]) in runs | environments):
                out = "/".join(folders[:number])
                break
        if out is not None:
            left_out = listing.runs if out in runs else listing.added
            left_out += [] if out in left_out else [out]
        elif not any(part.startswith(".") and part != "." for part in (*folders, name)):
            if _suffix(name) in suffixes:
                listing.images.append(path)
            else:
                listing.others[_suffix(name)] += 1
    return listing


def run_folders(root: Path) -> list[Path]:
    """The run folders below ``root``, not those in other run folders."""
    found = []
    for folder, inside, _ in os.walk(root):
        runs = [name for name in inside if run_stage(f"{folder}/{name}")]
        found += [Path(folder, name) for name in runs]
        inside[:] = [name for name in inside if name not in runs and not name.startswith(".")]
    return sorted(found)


def in_run_folder(file: Path, root: Path) -> bool:
    """Whether a run folder below ``root`` holds the file, at any depth."""
    return any(run_stage(folder) for folder in file.parents if root in folder.parents)


def _left_out(folder: str, names: set[str], listing: Listing) -> list[str] | None:
    """The list that a folder with entries ``names`` belongs to, if it is left out."""
    if "config.yaml" in names and run_stage(folder):
        return listing.runs
    if os.path.basename(folder).lower() in ADDED or "pyvenv.cfg" in names:  # noqa: PTH119
        return listing.added
    return None


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 -- a million times

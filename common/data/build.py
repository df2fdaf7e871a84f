"""From the string a user writes to a source of images."""

from __future__ import annotations

import difflib
import glob
import logging
import os
import re
from pathlib import Path

from common.data.decode import image_suffixes
from common.data.folder import FolderSource
from common.data.given import held
from common.data.levels import Levels, has_deep
from common.data.lists import list_source, one_image
from common.data.patches import PatchesSource
from common.data.photos import PhotosSource
from common.data.shapes import ShapesSource
from common.data.source import Source
from common.data.zipped import ZipSource
from common.errors import UserError, check_all
from common.files import is_too_long, refuse_stream

log = logging.getLogger("retouch")

FORMS = {
    "shapes": "shapes[:train|test[:LENGTH]]",
    "photos": "photos[:train|test[:LENGTH]]",
    "folder": "folder:PATH",
    "parquet": "parquet:GLOB",
    "hf": "hf:NAME[:SPLIT]",
    "torchvision": "torchvision:NAME[:SPLIT]",
    "csv": "csv:PATH",
    "list": "list:PATH",
    "zip": "zip:PATH",
    "patches": "patches:SOURCE",
    "memory": "memory:NAME",
}
GENERATED = ("shapes", "photos")  # always available, at any length
REMOTE = {"hf", "torchvision"}  # that may ask a server
OF_FILES = ("folder", "csv", "list")  # whose images are files of their own, which a CSV file can name
LONGEST = 100_000_000  # images of one pass over them: their order alone takes 8 bytes per image
SUFFIXES = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".txt": "list", ".lst": "list", ".zip": "zip"}
PLAIN = (
    "a folder, a .zip, a .csv or .txt that lists images, .parquet files, shapes, photos, hf:NAME, torchvision:NAME or "
    "patches:SOURCE"
)


def build_source(
    spec: str,
    *,
    split: str = "train",
    image: str | None = None,
    label: str | None = None,
    root: str | None = None,
    seed: int = 0,
    levels: tuple[float, float] | None = None,
    single: bool = False,
) -> Source:
    """Open the images that ``spec`` names (see ``FORMS``). No image is decoded and no label is read.

    Args:
        spec: ``scheme:rest``, or a plain path (see ``recognize``).
        split: ``train`` or ``test``, for sources that have both, unless ``spec`` names one. Folders, files and
            rows have both if two of them are named after splits; otherwise they are taken whole.
        image: column of images or their paths, if it is not the obvious one (``parquet``, ``hf``, ``csv``).
        label: column, or task, that ``labels(None)`` returns.
        root: folder for downloads (``hf``, ``torchvision``); by default in the user's cache.
        seed: seed of ``shapes`` and ``photos``, which are generated, and of the positions of ``patches``.
        levels: black and white of images of more than 8 bits; by default, a sample decides (``Source.levels``).
        single: whether it may be one image file, for what applies a network and learns nothing.

    Raises:
        UserError: the scheme is unknown, there is nothing to read, or an argument does not suit the source; each
            problem says what to do about it.
    """
    if "\0" in spec:
        raise UserError(f"{spec!r}: no path has a zero byte in it; remove it")
    if single and is_image(spec):
        scheme, rest = "image", spec
    else:
        spec = recognize(spec)
        scheme, _, rest = spec.partition(":")
    if not rest and scheme not in GENERATED:
        raise UserError(f"{spec!r} is incomplete; the form is {FORMS[scheme]}")
    if scheme == "patches":
        return _patches(spec, rest, split, image, label, root, seed, levels)
    source: Source
    source, _ = check_all(
        lambda: _opened(spec, scheme, rest, split, image, label, root, seed),
        lambda: _check_columns(spec, scheme, image, label),
    )
    if levels is not None:
        if source.endless or not has_deep(source):
            raise UserError(f"data.levels: {spec} has images of 8 bits, for which there is nothing to set; remove it")
        source.levels = Levels(*levels)
    return source


def reopened(spec: str | None) -> Source | None:
    """The images that an encoder has learned from, as its provenance names them.

    None where they are unknown, or where opening them might ask a server.

    Raises:
        UserError: they cannot be opened, or not any more.
    """
    return None if not spec or REMOTE & set(spec.split(":")) else build_source(spec)


def _opened(
    spec: str, scheme: str, rest: str, split: str, image: str | None, label: str | None, root: str | None, seed: int
) -> Source:
    name, _, part = rest.partition(":")
    if scheme not in (*GENERATED, "torchvision", "memory"):
        refuse_stream(Path(rest).expanduser(), spec)
    match scheme:
        case "shapes" | "photos":
            return _generated(spec, scheme, rest, split, label, seed)
        case "parquet":
            from common.data.tables import parquet_source  # takes a second to import

            return parquet_source(spec, rest, image, label, split)
        case "hf":
            from common.data.hub import hub_source

            return hub_source(spec, name, part or split, root, image, label)
        case "torchvision":
            from common.data.published import TorchvisionSource

            return TorchvisionSource(spec, name, part or split, root)
        case "csv" | "list":
            return list_source(spec, rest, split, image, label)
        case "image":
            return one_image(rest)
        case "memory":
            return held(rest)
        case "zip":
            return ZipSource(spec, rest).split(split)
        case _:
            return FolderSource(rest, spec).split(split)


def _check_columns(spec: str, scheme: str, image: str | None, label: str | None) -> None:
    """Refuse the columns of a table for a source that is none."""
    problems = []
    if image is not None and scheme not in ("parquet", "hf", "csv"):
        problems.append(f"data.image: {spec} has no columns to choose from; remove it")
    if label not in (None, "label") and scheme in ("folder", "zip", "torchvision", "memory"):
        problems.append(f"data.label: {spec} has no label {label!r}; remove it, or use label")
    if problems:
        raise UserError(*problems)


def _generated(spec: str, scheme: str, rest: str, split: str, label: str | None, seed: int) -> Source:
    name, _, length = rest.partition(":")
    name = name or split
    problems = []
    if name not in ("train", "test"):
        problems.append(f"{spec!r}: no split {name!r}; the form is {FORMS[scheme]}")
    digits = length.lstrip("0")
    if length and not (length.isascii() and length.isdecimal() and digits):
        problems.append(f"{spec!r}: {length!r} is not a number of images; the form is {FORMS[scheme]}")
    elif len(digits) > len(str(LONGEST)) or (length and int(length) > LONGEST):
        problems.append(
            f"{scheme}:{name}: a pass has at most {LONGEST:,} images; use {scheme}:{name}:{LONGEST}, or less"
        )
    tasks = ShapesSource().tasks if scheme == "shapes" else ()
    if label is not None and label not in tasks:
        known = f"no label {label!r}; it has {', '.join(tasks)}" if tasks else "no labels; remove it"
        problems.append(f"data.label: {scheme} has {known}")
    if problems:
        raise UserError(*problems)
    count = int(length) if length else None
    return PhotosSource(name, count, seed) if scheme == "photos" else ShapesSource(name, count, seed, label)


def _patches(
    spec: str,
    rest: str,
    split: str,
    image: str | None,
    label: str | None,
    root: str | None,
    seed: int,
    levels: tuple[float, float] | None,
) -> Source:
    scheme = rest.partition(":")[0]
    problems = []
    if scheme in ("photos", "patches"):
        problems.append(f"{spec!r}: {scheme} are already patches; use {rest}")
    if label is not None:
        problems.append("data.label: patches have no labels; remove it")
    if problems:
        raise UserError(*problems)
    return PatchesSource(build_source(rest, split=split, image=image, root=root, seed=seed, levels=levels), seed)


def is_image(spec: str) -> bool:
    """Whether it is the path of one image file."""
    path = Path(spec).expanduser()
    return path.suffix.lower() in image_suffixes() and path.is_file()


def recognize(spec: str) -> str:
    """``scheme:rest`` for what a user writes: a plain path gets its scheme by what lies there.

    A folder, a folder or pattern of parquet files, a zip file, a CSV file, or a text file that lists images. A known
    scheme comes first: ``photos`` is the built-in source, and ``./photos`` a folder.

    Raises:
        UserError: it has no known scheme, and is no path of these; says what was looked for.
    """
    scheme = spec.partition(":")[0]
    if scheme in FORMS:
        if scheme == spec and Path(spec).exists():
            log.warning("%s is the built-in source; for the folder of this name, write ./%s", spec, spec)
        return spec
    path = Path(spec).expanduser()
    if is_too_long(path):
        raise UserError(
            f"{spec[:60]}...: no path may have {len(spec):,} characters here; move the images to a shorter one"
        )
    refuse_stream(path, repr(spec))
    if path.is_dir():
        return f"parquet:{glob.escape(spec.rstrip('/'))}/*.parquet" if _holds_tables(path) else f"folder:{spec}"
    known = SUFFIXES.get(path.suffix.lower())
    if known and path.is_file():
        return f"{known}:{glob.escape(spec) if known == 'parquet' else spec}"
    if known == "parquet" and glob.has_magic(spec):
        return f"parquet:{spec}"
    raise UserError(f"{spec!r}: {_not_recognized(spec, path)}")


def _holds_tables(folder: Path) -> bool:
    """Whether there are parquet files in a folder, and neither images nor folders."""
    images, tables = image_suffixes(), False
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                suffix = Path(entry.name).suffix.lower()
                if suffix in images or entry.is_dir():
                    return False
                tables = tables or suffix == ".parquet"
    except OSError:  # opening it will say so
        return False
    return tables


def _not_recognized(spec: str, path: Path) -> str:
    """Why a text is no source, and what to do."""
    if spec == "null":
        return "this is no source; leave the setting out for its default, or write ./null for a folder of this name"
    if "://" in spec:
        return "images are not read from the network: download them, and give their folder (or use hf:NAME)"
    if path.is_file():
        if is_image(spec):
            return f"this is a single image; give the folder that it is in: {path.parent}"
        if path.suffix.lower() == ".jsonl":
            return "save it as metadata.jsonl in the folder of the images, with a column file_name, and use hf:FOLDER"
        return f"this file is of no known kind; give {PLAIN}"
    if os.sep == "/" and re.match(r"[A-Za-z]:[\\/]|.*\\", spec):
        return "this looks like a Windows path; write it as this machine names it, with forward slashes"
    if glob.has_magic(spec):
        return "a pattern may name .parquet files only; for images, give their folder"
    scheme, mark, _ = spec.partition(":")
    known = difflib.get_close_matches(scheme.lower(), FORMS, n=1, cutoff=0.6)
    if mark and len(scheme) > 1 and "/" not in scheme:
        return f"unknown source {scheme!r}; " + (
            f"did you mean {known[0]!r}?" if known else f"use one of {', '.join(FORMS.values())}"
        )
    there = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = [str(path.with_name(name)) for name in difflib.get_close_matches(path.name, there, n=1, cutoff=0.6)]
    near = [f"./{one}" if one in FORMS else one for one in near]
    hint = f"did you mean {' or '.join(known + near)}?" if known or near else f"give {PLAIN}"
    return f"no such file or folder: {path.absolute()}; {hint}"

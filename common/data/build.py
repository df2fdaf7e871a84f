"""From the string a user writes to a source of images."""

from __future__ import annotations

import difflib
import glob
import logging
import os
import re
from pathlib import Path

from common.data.decode import image_suffixes
from common.data.folder import folder_source
from common.data.generated import FORM as GENERATED_FORM
from common.data.generated import photos_source, shapes_source
from common.data.given import given_source
from common.data.levels import Levels
from common.data.lists import list_source, one_image
from common.data.part import Part
from common.data.patches import PatchesSource
from common.data.request import Request, Scheme
from common.data.source import Source
from common.data.split import split_source
from common.data.zipped import zip_source
from common.errors import UserError, check_all
from common.files import in_full, is_too_long, refuse_stream

log = logging.getLogger("retouch")


def _parquet(request: Request) -> Source:
    from common.data.tables import parquet_source  # takes a second to import

    return parquet_source(request)


def _hub(request: Request) -> Source:
    from common.data.hub import hub_source

    return hub_source(request)


def _torchvision(request: Request) -> Source:
    from common.data.published import torchvision_source

    return torchvision_source(request)


def _patches(request: Request) -> Source:
    problems = []
    if request.name in ("photos", "patches"):
        problems.append(f"{request.spec!r}: {request.name} are already patches; use {request.rest}")
    if request.label is not None:
        problems.append("data.label: patches have no labels; remove it")
    if problems:
        raise UserError(*problems)
    whole = build_source(request.rest, split=request.split, image=request.image, root=request.root, seed=request.seed)
    return PatchesSource(whole, request.seed)


SOURCES = {
    "shapes": Scheme(f"shapes{GENERATED_FORM}", shapes_source, takes=("label",)),
    "photos": Scheme(f"photos{GENERATED_FORM}", photos_source, takes=("label",)),
    "folder": Scheme("folder:PATH", folder_source, path=True, files=True),
    "parquet": Scheme("parquet:GLOB", _parquet, takes=("image", "label"), path=True, suffixes=(".parquet",)),
    "hf": Scheme("hf:NAME[:SPLIT]", _hub, takes=("image", "label"), path=True, remote=True),
    "torchvision": Scheme("torchvision:NAME[:SPLIT]", _torchvision, remote=True),
    "csv": Scheme("csv:PATH", list_source, takes=("image", "label"), path=True, files=True, suffixes=(".csv", ".tsv")),
    "list": Scheme("list:PATH", list_source, takes=("label",), path=True, files=True, suffixes=(".txt", ".lst")),
    "zip": Scheme("zip:PATH", zip_source, path=True, suffixes=(".zip",)),
    "patches": Scheme("patches:SOURCE", _patches, takes=("image", "label")),
    "memory": Scheme("memory:NAME", given_source),
}
ONE_IMAGE = Scheme("PATH", one_image, takes=("label",), path=True)
REMOTE = {name for name, scheme in SOURCES.items() if scheme.remote}
OF_FILES = {name for name, scheme in SOURCES.items() if scheme.files}
SUFFIXES = {suffix: name for name, scheme in SOURCES.items() for suffix in scheme.suffixes}
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
    """Open the images that ``spec`` names (see ``SOURCES``). No image is decoded and no label is read.

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
        scheme, rest = ONE_IMAGE, spec
    else:
        spec = recognize(spec)
        name, _, rest = spec.partition(":")
        scheme = SOURCES[name]
    if not rest and not scheme.complete:
        raise UserError(f"{spec!r} is incomplete; the form is {scheme.form}")
    request = Request(spec, rest, split, image, label, root and str(in_full(root)), seed)
    source, _ = check_all(lambda: _opened(scheme, request), lambda: scheme.check(request))
    if levels is not None:
        source.set_levels(Levels(*levels))
    return source


def _opened(scheme: Scheme, request: Request) -> Source:
    if scheme.path:
        refuse_stream(in_full(request.rest), request.spec)
    return scheme.open(request)


def reopened(spec: str | None, part: Part | None = None) -> Source | None:
    """The images that an encoder has learned from, as its provenance names them: all, or a part that is drawn again.

    None where they are unknown, or where opening them might ask a server.

    Raises:
        UserError: they cannot be opened, or not any more, or are no longer those that the part was drawn from.
    """
    if not spec or REMOTE & set(spec.split(":")):
        return None
    if part is None:
        return build_source(spec)
    whole = build_source(spec, image=part.image, label=part.label)
    train, _ = split_source(
        whole, part.task, fraction=part.test_fraction, seed=part.seed, image=part.image, label=part.label
    )
    if train.part != part:
        raise UserError(f"{spec}: has other images or labels than when it was split ({part.text})")
    return train


def is_image(spec: str) -> bool:
    """Whether it is the path of one image file."""
    path = in_full(spec)
    return path.suffix.lower() in image_suffixes() and path.is_file()


def recognize(spec: str) -> str:
    """``scheme:rest`` for what a user writes: a plain path gets its scheme by what lies there.

    A folder, a folder or pattern of parquet files, a zip file, a CSV file, or a text file that lists images. A known
    scheme comes first: ``photos`` is the built-in source, and ``./photos`` a folder.

    Raises:
        UserError: it has no known scheme, and is not such a path; says what was looked for.
    """
    scheme = spec.partition(":")[0]
    if scheme in SOURCES:
        if scheme == spec and Path(spec).exists():
            log.warning("%s is the built-in source; for the folder of this name, write ./%s", spec, spec)
        return spec
    path = in_full(spec)
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
    """Why a text does not name a source, and what to do."""
    if spec == "null":
        return "this is not a source; leave the setting out for its default, or write ./null for a folder of this name"
    if "://" in spec:
        return "images are not read from the network: download them, and give their folder (or use hf:NAME)"
    if path.is_file():
        if is_image(spec):
            return f"this is a single image; give the folder that it is in: {path.parent}"
        if path.suffix.lower() == ".jsonl":
            return "save it as metadata.jsonl in the folder of the images, with a column file_name, and use hf:FOLDER"
        return f"this is not a file of a known kind; give {PLAIN}"
    if os.sep == "/" and re.match(r"[A-Za-z]:[\\/]|.*\\", spec):
        return "this looks like a Windows path; write it as this machine names it, with forward slashes"
    if glob.has_magic(spec):
        return "a pattern may name .parquet files only; for images, give their folder"
    scheme, mark, _ = spec.partition(":")
    known = difflib.get_close_matches(scheme.lower(), SOURCES, n=1, cutoff=0.6)
    if mark and len(scheme) > 1 and "/" not in scheme:
        forms = ", ".join(one.form for one in SOURCES.values())
        return f"unknown source {scheme!r}; " + (f"did you mean {known[0]!r}?" if known else f"use one of {forms}")
    there = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = [str(path.with_name(name)) for name in difflib.get_close_matches(path.name, there, n=1, cutoff=0.6)]
    near = [f"./{one}" if one in SOURCES else one for one in near]
    hint = f"did you mean {' or '.join(known + near)}?" if known or near else f"give {PLAIN}"
    return f"no such file or folder: {path.absolute()}; {hint}"

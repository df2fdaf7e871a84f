"""From the string a user writes to a source of images."""

from __future__ import annotations

import difflib
from pathlib import Path

from common.data.folder import folder_source
from common.data.levels import Levels, has_deep
from common.data.patches import PatchesSource
from common.data.photos import PhotosSource
from common.data.shapes import ShapesSource
from common.data.source import Source
from common.errors import UserError, check_all

FORMS = {
    "shapes": "shapes[:train|test[:LENGTH]]",
    "photos": "photos[:train|test[:LENGTH]]",
    "folder": "folder:PATH",
    "parquet": "parquet:GLOB",
    "hf": "hf:NAME[:SPLIT]",
    "torchvision": "torchvision:NAME[:SPLIT]",
    "patches": "patches:SOURCE",
}
GENERATED = ("shapes", "photos")  # always available, at any length


def build_source(
    spec: str,
    *,
    split: str = "train",
    image: str | None = None,
    label: str | None = None,
    root: str | None = None,
    seed: int = 0,
    levels: tuple[float, float] | None = None,
) -> Source:
    """Open the images that ``spec`` names (see ``FORMS``). No image is decoded and no label is read.

    Args:
        spec: ``scheme:rest``.
        split: ``train`` or ``test``, for sources that have both, unless ``spec`` names one. Folders and parquet files
            have both if all of them are named after a split; otherwise they are taken whole.
        image: column that holds images, if it is not the obvious one (``parquet``, ``hf``).
        label: column, or task, that ``labels(None)`` returns.
        root: folder for downloads (``hf``, ``torchvision``); by default in the user's cache.
        seed: seed of ``shapes`` and ``photos``, which are generated, and of the positions of ``patches``.
        levels: black and white of images of more than 8 bits; by default, a sample decides (``Source.levels``).

    Raises:
        UserError: the scheme is unknown, there is nothing to read, or an argument does not suit the source; each
            problem says what to do about it.
    """
    scheme, _, rest = spec.partition(":")
    if scheme not in FORMS:
        raise UserError(_unknown(spec, scheme))
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


def _opened(
    spec: str, scheme: str, rest: str, split: str, image: str | None, label: str | None, root: str | None, seed: int
) -> Source:
    name, _, part = rest.partition(":")
    match scheme:
        case "shapes" | "photos":
            return _generated(spec, scheme, rest, split, label, seed)
        case "parquet":
            from common.data.tables import parquet_source  # takes a second to import

            return parquet_source(spec, rest, image, label, split)
        case "hf":
            from common.data.tables import hub_source

            return hub_source(spec, name, part or split, root, image, label)
        case "torchvision":
            from common.data.published import TorchvisionSource

            return TorchvisionSource(spec, name, part or split, root)
        case _:
            return folder_source(spec, rest, split)


def _check_columns(spec: str, scheme: str, image: str | None, label: str | None) -> None:
    """Refuse the columns of a table for a source that is none."""
    problems = []
    if image is not None and scheme not in ("parquet", "hf"):
        problems.append(f"data.image: {spec} has no columns to choose from; remove it")
    if label not in (None, "label") and scheme in ("folder", "torchvision"):
        problems.append(f"data.label: {spec} has no label {label!r}; remove it, or use label")
    if problems:
        raise UserError(*problems)


def _generated(spec: str, scheme: str, rest: str, split: str, label: str | None, seed: int) -> Source:
    name, _, length = rest.partition(":")
    name = name or split
    problems = []
    if name not in ("train", "test"):
        problems.append(f"{spec!r}: no split {name!r}; the form is {FORMS[scheme]}")
    if length and not (length.isdecimal() and int(length) > 0):
        problems.append(f"{spec!r}: {length!r} is not a number of images; the form is {FORMS[scheme]}")
    tasks = ShapesSource().tasks if scheme == "shapes" else ()
    if label is not None and label not in tasks:
        known = f"no label {label!r}; it has {', '.join(tasks)}" if tasks else "no labels; remove it"
        problems.append(f"data.label: {scheme} has {known}")
    if problems:
        raise UserError(*problems)
    count = int(length) if length else None
    return PhotosSource(name, count, seed) if scheme == "photos" else ShapesSource(name, count, seed, label or "shape")


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


def _unknown(spec: str, scheme: str) -> str:
    path = Path(spec).expanduser()
    near = difflib.get_close_matches(scheme.lower(), list(FORMS), n=1, cutoff=0.6)
    if path.is_dir():
        hint = f"did you mean folder:{spec}?"
    elif path.suffix == ".parquet":
        hint = f"did you mean parquet:{spec}?"
    elif path.suffix in (".csv", ".jsonl"):
        hint = (
            f"save the table as metadata{path.suffix} in the folder of the images, with their names in a column "
            "file_name, and use hf:FOLDER"
        )
    elif near:
        hint = f"did you mean {near[0]!r}?"
    else:
        hint = "use one of " + ", ".join(FORMS.values())
    return f"{spec!r}: unknown source {scheme!r}; {hint}"

"""Files that belong to images and have the same paths in another folder, whatever the suffix: masks, clean versions."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import torch

from common.data.folder import TreeSource
from common.data.source import Source, Subset
from common.data.split import first
from common.errors import UserError

SHOWN = 3  # images that a message names, of each kind of problem


def paired_files(images: TreeSource, others: TreeSource, setting: str, what: str, otherwise: str = "") -> Source:
    """One of ``others`` for each of ``images``, in their order.

    Args:
        setting: the setting that names ``others``.
        what: what one of them is called, such as ``mask``.
        otherwise: what to do where some are missing.

    Raises:
        UserError: there is not one for each image.
    """
    if Path(images.root).resolve() in Path(others.root).resolve().parents:
        raise UserError(
            f"{setting}={others.spec} lies in the folder of images {images.spec}, so that {what}s would be taken for "
            "images: give the folder that holds the images alone"
        )
    rows: dict[str, list[int]] = defaultdict(list)
    for row, path in enumerate(others.paths):
        rows[_stem(path)].append(row)
    stems = [_stem(path) for path in images.paths]
    missing = [path for path, stem in zip(images.paths, stems, strict=True) if stem not in rows]
    double = [others.paths[row] for stem in stems for row in rows.get(stem, [])[1:]]
    problems = []
    if missing:
        problems.append(
            f"{setting}: {len(missing):,} of {len(stems):,} images of {images.spec} have no {what} in {others.spec}, "
            f"such as {first(missing[:SHOWN])}: a {what} has the path of its image there ({_stem(missing[0])}.png)"
            f"{otherwise}"
        )
    if double:
        problems.append(f"{setting}: {others.spec} has two {what}s for one image, such as {double[0]}: remove one")
    if problems:
        raise UserError(*problems)
    return Subset(others, torch.tensor([rows[stem][0] for stem in stems]), "by path")


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]  # noqa: PTH122 -- by image

"""The images of a study: a pool to learn from without labels, and labeled sets whose test images are not in it."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.data import Images, Labels, Source, build_source, load_images, stratified_split
from common.data.duplicates import Prints, exact_rows, fingerprints, near_pairs
from common.data.rows import even_rows
from common.errors import UserError, check_all
from common.words import counted
from finetune.data import LabeledImages, Sources, check_enough, load_labeled, open_sources
from retouch.studies.config import StudyConfig

log = logging.getLogger("retouch")

HELD = 0.1  # share of the training images that can be held out to choose on: there must be enough for that
LOOKED_AT = 64  # images whose sizes decide the size for all
SIZES = (32, 64, 128)  # sides in px; the last one on a GPU only


@dataclass(frozen=True)
class Opened:
    """Sources, before any image is decoded."""

    unlabeled: Source | None  # None: the training images of the first label set
    labeled: tuple[Sources, ...]


@dataclass(frozen=True)
class LabelSet:
    """Labeled images, and the rows of the training images for each use."""

    images: LabeledImages
    judged: Tensor  # int64 [n]: all choices are made on these
    fitted: Tensor  # int64 [m]: tested classifiers are fitted on these


@dataclass(frozen=True)
class StudyImages:
    """All images, decoded."""

    size: int  # px
    pool: Images
    sets: tuple[LabelSet, ...]
    repeated: int  # images removed from the pool because they repeat a test image

    @property
    def judged(self) -> int:
        """Number of labeled training images that all choices are made on."""
        return sum(len(one.judged) for one in self.sets)

    @property
    def fitted(self) -> int:
        """Number of labeled training images that tested classifiers are fitted on."""
        return sum(len(one.fitted) for one in self.sets)

    @property
    def labeled(self) -> int:
        """Number of all labeled training images."""
        return sum(len(one.images.train) for one in self.sets)

    @property
    def tested(self) -> int:
        """Number of test images."""
        return sum(len(one.images.test) for one in self.sets)


def open_images(config: StudyConfig) -> Opened:
    """Open all sources, and check their labels.

    Raises:
        UserError: with every problem, before any image is decoded.
    """
    data = config.data

    def unlabeled() -> Source | None:
        if data.source is None:
            return None
        return build_source(data.source, image=data.image, root=data.root, levels=data.levels)

    pool, *labeled = check_all(
        unlabeled, *(lambda one=one: open_sources(one, config.seed, HELD) for one in config.label_sets)
    )
    return Opened(pool, tuple(labeled))


def inputs(config: StudyConfig, opened: Opened) -> dict[str, str]:
    """Fingerprints of the images, by the setting that names them."""
    keys = ["labels", *(f"more_labels.{place}" for place in range(len(config.more_labels)))]
    found = {} if opened.unlabeled is None else {"data.source": opened.unlabeled.fingerprint}
    for key, one in zip(keys, opened.labeled, strict=True):
        found |= one.inputs(key)
    return found


def image_size(source: Source, *, gpu: bool) -> int:
    """The image size of the study if the user gives none: the largest of ``SIZES`` that most images reach.

    Generated images have no size of their own and get the smallest. So do smaller images, which are enlarged.
    """
    if source.endless:
        return SIZES[0]
    sides = []
    for row in even_rows(len(source), LOOKED_AT).tolist():
        try:
            image = source.image(row)
        except Exception:  # unreadable files are reported when all images are decoded
            continue
        sides.append(min(image.shape[1:] if isinstance(image, Tensor) else image.size))
    typical = statistics.median(sides) if sides else 0
    return max([SIZES[0], *(size for size in SIZES[: 3 if gpu else 2] if size <= typical)])


def load(config: StudyConfig, opened: Opened, size: int) -> tuple[Images, list[LabeledImages], int]:
    """Decode all images: the pool without repeats of test images, the labeled sets, and how many repeats there were.

    Raises:
        UserError: there are too few readable images.
    """
    labeled = [
        load_labeled(sources, data.model_copy(update={"image_size": size}), size, config.seed)
        for sources, data in zip(opened.labeled, config.label_sets, strict=True)
    ]
    check_all(*(lambda images=images: check_enough(images, HELD, config.seed) for images in labeled))
    if opened.unlabeled is None:
        pool = labeled[0].train
    else:
        data = config.data
        pool = load_images(opened.unlabeled, size, limit=data.limit, workers=data.workers, cache=data.cache)
        _warn_of_levels(pool, [images.train for images in labeled])
    known, seen = fingerprints(pool, config.data.workers), torch.zeros(len(pool), dtype=torch.bool)
    for images in labeled:
        seen[_repeated(known, fingerprints(images.test, config.data.workers))] = True
    repeated = int(seen.sum())
    if repeated == len(pool):
        raise UserError("data: every image repeats a test image, so none is left to learn from; add other images")
    if repeated:
        repeats = counted(repeated, "image")
        log.info("left out of pretraining: %s of %s that repeat test images", repeats, pool.source.spec)
        pool = pool.only((~seen).nonzero().squeeze(1))
    return pool, labeled, repeated


def _warn_of_levels(pool: Images, labeled: Sequence[Images]) -> None:
    """Warn if unlabeled and labeled images are scaled to gray levels in different ways."""
    for images in labeled:
        if images.levels != pool.levels:
            ours, theirs = (f"values {one}" if one else "8-bit images" for one in (pool.levels, images.levels))
            log.warning(
                "%s has %s, but %s has %s, so the same value is a different gray in each; set data.levels and "
                "labels.levels to the same range, or convert the images",
                *(pool.source.spec, ours, images.source.spec, theirs),
            )


def _repeated(pool: Prints, test: Prints) -> Tensor:
    """Rows of the pool that repeat a test image exactly or nearly; only exactly if all images look alike."""
    pairs = near_pairs(test, pool)
    return exact_rows(pool, test) if pairs is None else torch.tensor([pair.other for pair in pairs], dtype=torch.int64)


def chosen_rows(labels: Labels, count: int, seed: int) -> Tensor:
    """At most ``count`` rows, seeded and stratified: int64, ascending."""
    if count >= len(labels.values):
        return torch.arange(len(labels.values))
    return stratified_split(labels.values, count / len(labels.values), seed)[1]


def label_set(images: LabeledImages, *, judged: int, fitted: int, tested: int, seed: int) -> LabelSet:
    """Labeled images with at most this many rows for each use, stratified by the first task; all contestants get the
    same rows."""
    train, test = next(iter(images.tasks.values()))
    rows = chosen_rows(test, tested, seed)
    if len(rows) < len(images.test):
        images = images.only(test=rows)
    return LabelSet(images, chosen_rows(train, judged, seed), chosen_rows(train, fitted, seed + 1))


def titled_tasks(sets: Sequence[LabelSet]) -> list[tuple[LabelSet, dict[str, str]]]:
    """Each set with its tasks by title; where two tasks have the same name, their titles include the set."""
    names = [name for one in sets for name in one.images.tasks]

    def title(name: str, one: LabelSet) -> str:
        return name if names.count(name) == 1 else f"{name} ({one.images.train.source.spec})"

    return [(one, {title(name, one): name for name in one.images.tasks}) for one in sets]

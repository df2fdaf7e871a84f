"""Images with a mask each: a training set, and a test set of the same classes or some of them."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
from torch import Tensor

from common.data import Images, Source, Subset
from common.data.images import FILL_ROWS, kept_rows
from common.data.masks import Masks, Seen, find_masks, look_at_masks
from common.data.multilabel import iterative_parts
from common.data.split import first, with_counts
from common.encoders.provenance import Provenance
from common.errors import UserError, check_all
from common.words import counted
from finetune.data import Pair, Sources, load_pair, open_source, open_test
from finetune.dense.cells import cell_counts
from finetune.leaks import Leaks
from finetune.multilabel.data import ProbeData

log = logging.getLogger("retouch")


class Classes(NamedTuple):
    """The classes of masks: the numbers in training masks, without the one that is ignored."""

    numbers: tuple[int, ...]  # ascending, 0..255
    names: tuple[str, ...]

    def truth(self, masks: Tensor) -> Tensor:
        """Class numbers uint8 ``[B S S]`` -> places among the classes, int64; -1 where nothing counts."""
        table = torch.full((256,), -1)
        table[list(self.numbers)] = torch.arange(len(self.numbers))
        return table.to(masks.device)[masks.long()]


class MaskedSources(NamedTuple):
    """Opened sources of images and of their masks; no image is decoded yet, and every mask has been looked at."""

    images: Sources
    masks: Sources
    classes: Classes

    @property
    def split(self) -> bool:
        """Whether both sets are parts of one source without a test set, which the seed draws."""
        return self.images.split

    def inputs(self, key: str = "data") -> dict[str, str]:
        """The fingerprints of images and masks, by the setting ``key`` that names them."""
        masks = {f"{key}.masks": self.masks.train.fingerprint, f"{key}.test_masks": self.masks.test.fingerprint}
        return self.images.inputs(key) | masks


class MaskedSet(NamedTuple):
    """Images, and the mask of each."""

    images: Images
    masks: Masks
    classes: Classes

    @property
    def source(self) -> Source:
        return self.images.source

    def truth(self, rows: Tensor) -> Tensor:
        """The classes of the pixels of ``rows`` ``[b]``: int64 ``[b S S]``, -1 where nothing counts."""
        return self.classes.truth(self.masks.rows(rows))

    def only(self, rows: Tensor) -> MaskedSet:
        """Some of the rows."""
        return self._replace(images=self.images.only(rows), masks=self.masks.only(rows))


class MaskedImages(NamedTuple):
    """Images with their masks. All images are readable."""

    train: MaskedSet
    test: MaskedSet
    present: Tensor  # bool [n C], the classes that each training image shows
    leaks: Leaks
    left_out: int = 0

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes.names

    @property
    def pair(self) -> Pair:
        """The images without their masks."""
        return Pair(self.train.images, self.test.images, self.leaks, self.left_out)


def open_masked(data: ProbeData, size: int, seed: int) -> MaskedSources:
    """Open the training and test sets with their masks, and read all masks that will be used, at ``size`` pixels.

    A source without a test set is split so that each class keeps its share of the images (iterative stratification).
    Classes are those that the training masks show, in the rows that will be used and at that size.

    Raises:
        UserError: a source cannot be opened, an image has no mask, or one that is unreadable or of another size, there
            are fewer than two classes, the test set has classes that training lacks, or there are too few images.
    """
    named = data.masks
    assert named is not None
    train, given = check_all(lambda: open_source(data, data.train, "train"), lambda: open_test(data))
    separate: Source | None = given or train.published_test()
    if separate is None:
        return _split(train, named, data, size, seed)
    spec, setting = (named, "data.masks") if data.test_masks is None else (data.test_masks, "data.test_masks")
    masks, test_masks = check_all(
        lambda: find_masks(train, named, "train", "data.masks"),
        lambda: find_masks(separate, spec, "test", setting),
    )
    seen, tested = check_all(
        lambda: look_at_masks(masks, train, kept_rows(train, data.limit, seed), size),
        lambda: look_at_masks(test_masks, separate, kept_rows(separate, data.test_limit, 0), size),
    )
    classes = _classes(masks, seen, data, size)
    _check_test(test_masks, tested, classes, data)
    return MaskedSources(Sources(train, separate), Sources(masks, test_masks), classes)


def _split(source: Source, named: str, data: ProbeData, size: int, seed: int) -> MaskedSources:
    """A source without a test set -> training and test parts."""
    if data.test_masks is not None:
        raise UserError(f"data.test_masks: {source.spec} has no test set; set data.test, or remove it")
    masks = find_masks(source, named, "train", "data.masks")
    seen = look_at_masks(masks, source, torch.arange(len(source)), size)
    shown = seen.values[:, [number for number in seen.numbers if number != data.mask_ignore]]
    part = iterative_parts(shown, [1 - data.test_fraction, data.test_fraction], seed)
    rows = [(part == one).nonzero().squeeze(1) for one in (0, 1)]
    if any(not len(some) for some in rows):
        raise UserError(f"{source.spec}: too few images to hold out a test set; set data.test, or add images")
    names = f"{1 - data.test_fraction:.0%} for training, seed {seed}", f"{data.test_fraction:.0%} held out, seed {seed}"
    images, of_masks = (
        Sources(*(Subset(one, some, name) for some, name in zip(rows, names, strict=True))) for one in (source, masks)
    )
    training = seen.only(rows[0])
    used = training.only(kept_rows(images.train, data.limit, seed))
    classes = _classes(of_masks.train, used, data, size)
    limited = [str(number) for number in training.numbers if number not in (*classes.numbers, data.mask_ignore)]
    if limited:
        log.warning(
            "%s: no training image of data.limit=%s shows class %s, so it is dropped; raise data.limit to keep it",
            *(masks.spec, data.limit, first(limited)),
        )
    tested = seen.only(rows[1]).only(kept_rows(images.test, data.test_limit, 0))
    _check_test(of_masks.test, tested, classes, data)
    return MaskedSources(images, of_masks, classes)


def _classes(masks: Source, seen: Seen, data: ProbeData, size: int) -> Classes:
    """The classes of training masks, by the names that the user or the source gives them."""
    numbers = tuple(number for number in seen.numbers if number != data.mask_ignore)
    if lost := [str(number) for number in seen.lost if number != data.mask_ignore]:
        log.warning(
            "%s: class %s has no pixel left at %d px, the size that is measured: a larger data.image_size may show it",
            *(masks.spec, first(lost), size),
        )
    if len(numbers) < 2:
        hint = ""
        if data.mask_ignore in seen.numbers:
            hint = (
                f"; {data.mask_ignore} is ignored: if it is a class, set data.mask_ignore=null, or to the number of "
                "the pixels to ignore"
            )
        found = f"only class {numbers[0]}" if numbers else "no class"
        raise UserError(
            f"{masks.spec}: masks hold {found}, so there is nothing to tell apart: at least two are needed{hint}"
        )
    names = data.mask_names or masks.mask_names
    unnamed = [str(number) for number in numbers if names and number >= len(names)]
    if unnamed:
        raise UserError(
            f"data.mask_names: masks hold {first(unnamed)}, but there are only {len(names)} names, for the "
            f"numbers 0 to {len(names) - 1}: name every number, whether masks hold it or not"
        )
    return Classes(numbers, tuple(names[number] if names else str(number) for number in numbers))


def _check_test(masks: Source, seen: Seen, classes: Classes, data: ProbeData) -> None:
    numbers = [number for number in seen.numbers if number != data.mask_ignore]
    unknown = [str(number) for number in numbers if number not in classes.numbers]
    if unknown:
        raised = "" if data.limit is None else f" (perhaps by raising data.limit above {data.limit:,})"
        raise UserError(
            f"{masks.spec}: masks of test images hold class {first(unknown)}, and those of training images do not; "
            f"training has {first(list(map(str, classes.numbers)))}: add such images to training{raised}, or take them "
            "out of the test set"
        )
    if not numbers:
        raise UserError(f"{masks.spec}: no pixel of a test image has a class, so nothing can be measured")


def load_masked(
    sources: MaskedSources, data: ProbeData, size: int, seed: int, trained_on: Provenance | None = None
) -> MaskedImages:
    """Decode the images of both sets at ``size`` pixels as ``load_labeled`` does, with the masks of those it reads."""
    train, test, leaks, left_out = load_pair(sources.images, data, size, seed, trained_on)
    found = (
        MaskedSet(images, Masks(masks, images.kept, size), sources.classes)
        for images, masks in zip((train, test), sources.masks, strict=True)
    )
    training, testing = found
    names, present = sources.classes.names, _present(training)
    counts = counted(len(names), "class", "classes"), f"{len(train):,}", counted(len(test), "test image")
    log.info("masks: %s, %s training and %s", *counts)
    log.info("%s", with_counts("training images that show ", names, present.sum(0).tolist()))
    return MaskedImages(training, testing, present, leaks, left_out)


def _present(some: MaskedSet) -> Tensor:
    """The classes that each image shows, bool ``[n C]``."""
    rows = torch.split(torch.arange(len(some.images)), FILL_ROWS)
    return torch.cat([cell_counts(some.truth(part), 1, 1, len(some.classes.names)).flatten(1) for part in rows]) > 0

"""Test images that images of training or pretraining repeat, at least nearly: counted, listed, left out if asked."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from common.data import Images, load_images
from common.data.build import reopened
from common.data.duplicates import Pair, Prints, exact_rows, fingerprints, near_pairs
from common.encoders.provenance import Provenance
from common.errors import UserError, one_line
from common.files import as_utf8, replacing
from common.words import counted
from finetune.records import GENERATED, NearDuplicates, Repeat

log = logging.getLogger("retouch")

DUPLICATES = "duplicates.csv"
SHOWN = 20  # pairs in results.json; all are in the file
POOL = 100_000  # images of pretraining that are looked at, at most
ALIKE = "all images look too much alike to compare"


class Found(NamedTuple):
    """Test images that images of one set repeat, pair by pair, the most alike first."""

    images: str  # training, or pretraining
    repeats: list[Repeat] | None  # None: all images look too much alike to compare
    test: Tensor  # int64 [pairs], rows of the test set's source
    others: Tensor  # int64 [pairs], rows of the other set's source
    compared: int  # images of the other set
    of: int  # all that can be read, or are beyond a limit

    @property
    def facts(self) -> NearDuplicates | None:
        """What results say of it; None where it cannot be detected."""
        if self.repeats is None:
            return None
        return NearDuplicates(
            test_images=len(torch.unique(self.test)),
            pairs=len(self.repeats),
            most_alike=tuple(self.repeats[:SHOWN]),
            compared=self.compared,
            of=self.of,
        )

    def among(self, test: Tensor, others: Tensor | None = None) -> Found:
        """The same of some test images, and of some of the others, by their rows in the sources."""
        if self.repeats is None:
            return self
        kept, compared, of = torch.isin(self.test, test), self.compared, self.of
        if others is not None:
            kept &= torch.isin(self.others, others)
            compared = of = len(others)
        repeats = [self.repeats[place] for place in kept.nonzero().squeeze(1).tolist()]
        return Found(self.images, repeats, self.test[kept], self.others[kept], compared, of)


class Leaks(NamedTuple):
    """What was found in one data set."""

    identical: Tensor  # int64, rows of the test set's source: the very pixels of a training image
    training: Found
    pretraining: Found | None  # None: its images were not compared
    unseen: tuple[str, ...] = ()  # images of pretraining that were not, each with why

    @property
    def exact(self) -> int:
        """Test images whose very pixels are a training image's."""
        return len(self.identical)

    @property
    def found(self) -> list[Found]:
        return [self.training, *([] if self.pretraining is None else [self.pretraining])]

    @property
    def not_compared(self) -> dict[str, str]:
        """What is not known of training and pretraining, and why, as ``DataFacts.not_compared``."""
        found = {}
        if self.training.repeats is None:
            found["near_duplicates"] = ALIKE
        seen = self.pretraining
        why = [one for one in self.unseen if one != GENERATED]
        if seen is not None and seen.repeats is None:
            why.append(ALIKE)
        elif seen is not None and seen.compared < seen.of:
            why.append(f"{seen.of - seen.compared:,} of {seen.of:,} images were not looked at")
        if not why and seen is None:
            why = list(self.unseen)
        return found | ({"in_pretraining": "; ".join(why)} if why else {})

    def among(self, train: Tensor, test: Tensor) -> Leaks:
        """The same of some training and test images, by their rows in the sources.

        Where all images look alike, pairs are unknown, and every test image that any training image repeats is counted.
        """
        training = self.training.among(test, train)
        identical = self.identical[torch.isin(self.identical, test)]
        if training.repeats is not None:
            same = torch.tensor([one.alike == 1 for one in training.repeats], dtype=torch.bool)
            identical = torch.unique(training.test[same])
        return self._replace(
            identical=identical,
            training=training,
            pretraining=None if self.pretraining is None else self.pretraining.among(test),
        )


def find_leaks(test: Images, train: Images, trained_on: Provenance | None, workers: int) -> Leaks:
    """Look for test images among those of training, and of pretraining where they can be opened without a server.

    One pass over each set; images of pretraining that are those of training are not decoded again. ``trained_on``: the
    provenance of the encoder.
    """
    ours, theirs = fingerprints(test, workers), fingerprints(train, workers)
    identical = test.kept[exact_rows(ours, theirs)]
    exact = len(identical)
    if exact:
        log.warning(
            "%s of %s test images are identical to training images: test accuracy may be too high",
            *(f"{exact:,}", f"{len(ours.rows):,}"),
        )
    training = _found("training", test, train, near_pairs(ours, theirs), len(theirs.rows), len(theirs.rows))
    if training.facts is not None and training.facts.test_images > exact:
        log.warning(
            "%s of %s test images nearly repeat training images: test accuracy may be too high; data.leaks=drop leaves "
            "these training images out",
            *(f"{training.facts.test_images:,}", f"{len(ours.rows):,}"),
        )
    seen: dict[str, Found] = {}  # by the images of each training that the encoder came from
    unseen: list[str] = []
    for one in () if trained_on is None else trained_on.chain:
        pool = _pool(one, test, (train,), workers)
        if isinstance(pool, str):
            unseen.append(pool)
        elif pool.fingerprint == train.fingerprint and torch.equal(pool.kept, train.kept):  # an encoder of these images
            seen[pool.fingerprint] = training._replace(images="pretraining")
        elif pool.fingerprint not in seen:
            found = _in_pool(test, ours, pool, workers)
            if isinstance(found, str):
                unseen.append(found)
            else:
                seen[pool.fingerprint] = found
    for why in unseen:
        level = logging.DEBUG if why == GENERATED else logging.INFO
        log.log(level, "images of pretraining are not compared with the test images: %s", why)
    return Leaks(identical, training, _together(list(seen.values())), tuple(dict.fromkeys(unseen)))


def without_leaks(train: Images, leaks: Leaks) -> Images:
    """The training images that repeat no test image."""
    rows = (~torch.isin(train.kept, leaks.training.others)).nonzero().squeeze(1)
    log.info("left out: %s that repeat test images", counted(len(train) - len(rows), "training image"))
    if not len(rows):
        raise UserError(
            f"{train.source.spec}: every training image repeats a test image, and data.leaks=drop leaves none; use "
            "another test set, or data.leaks=keep"
        )
    return train.only(rows)


def write_leaks(folder: Path, named: Sequence[tuple[str, Leaks]]) -> None:
    """Write all pairs to ``duplicates.csv``, with the data set that they were found in; no file if there are none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["data", "images", "test", "other", "alike"])
    rows = [
        (data, one.images, pair.test, pair.other, pair.alike)
        for data, leaks in named
        for one in leaks.found
        for pair in one.repeats or ()
    ]
    writer.writerows(rows)
    if rows:
        with replacing(folder / DUPLICATES) as unfinished:
            unfinished.write_text(text.getvalue(), encoding="utf-8")


def _found(images: str, test: Images, other: Images, pairs: list[Pair] | None, compared: int, of: int) -> Found:
    rows = torch.tensor([[pair.test, pair.other] for pair in pairs or ()], dtype=torch.int64).view(-1, 2)
    if pairs is None:
        log.info("images of %s and test look so much alike that near-duplicates cannot be detected", images)
        repeats = None
    else:
        repeats = [
            Repeat(test=as_utf8(test.where(pair.test)), other=as_utf8(other.where(pair.other)), alike=pair.alike)
            for pair in pairs
        ]
    return Found(images, repeats, test.kept[rows[:, 0]], other.kept[rows[:, 1]], compared, of)


def _together(found: Sequence[Found]) -> Found | None:
    """What was found in several sets, joined; ``None`` without sets. A set whose images all look alike is left out."""
    known = [one for one in found if one.repeats is not None]
    if not known:
        return next(iter(found), None)
    repeats = [repeat for one in known for repeat in one.repeats or ()]
    order = sorted(range(len(repeats)), key=lambda place: -repeats[place].alike)
    test, others = torch.cat([one.test for one in known]), torch.cat([one.others for one in known])
    return Found(
        known[0].images,
        [repeats[place] for place in order],
        test[order],
        others[order],
        sum(one.compared for one in known),
        sum(one.of for one in found),
    )


def _named_before(pool: Images, others: Sequence[Images]) -> dict[int, str]:
    """Unreadable images of ``pool`` that were named as images of the others, which would be named again."""
    known = {one.source.where(row): why for one in others for row, why in one.unreadable.items()}
    found = ((int(row), pool.source.where(int(row))) for row in pool.kept if known)
    return {row: known[where] for row, where in found if where in known}


def _pool(trained_on: Provenance, test: Images, others: Sequence[Images], workers: int) -> Images | str:
    """The images of a training, at most 100,000 of them, or why they cannot be opened here."""
    spec = trained_on.source
    if not spec:
        return "the encoder does not name the images that it was trained on"
    try:
        source = reopened(spec, trained_on.part)
        if source is None:
            return f"{as_utf8(spec)}: opening it may ask a server"
        if source.endless:
            return GENERATED
        levels = trained_on.levels
        pool = load_images(*(source, test.size), limit=POOL, workers=workers, cache="none", check=False, levels=levels)
        pool.unreadable = _named_before(pool, (test, *others))
        return pool
    except (UserError, OSError, TypeError) as error:
        return as_utf8(f"{spec}: {one_line(error)}")


def _in_pool(test: Images, ours: Prints, pool: Images, workers: int) -> Found | str:
    """What of these images repeats test images, or why that is not known."""
    try:
        theirs = fingerprints(pool, workers)
    except UserError as error:  # none can be read any more
        return as_utf8(f"{pool.source.spec}: {one_line(error)}")
    beyond = len(pool.source) - len(pool.kept)  # the limit
    compared = len(theirs.rows)
    return _found("pretraining", test, pool, near_pairs(ours, theirs), compared, compared + beyond)

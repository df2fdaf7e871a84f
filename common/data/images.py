"""Decoded images: every row a square of uint8 pixels, kept in memory if they fit, otherwise decoded by workers.

Rows that cannot be read are left out before anything is ordered, drawn or counted. An order of training, a sample and a
mean are then those of a source without these rows, and both ways give the same numbers. Filling the memory finds them;
without a cache, one pass decodes every row and keeps none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.data.findings import read_findings, write_findings
from common.data.levels import SAMPLE, Levels, say_levels
from common.data.originals import Originals, find_originals
from common.data.pages import warn_of_pages
from common.data.reader import Decoded, Decoder, Failure, decode_ahead
from common.data.rows import even_rows
from common.data.source import Labels, MultiLabels, Source, digest
from common.errors import UserError
from common.machine.cores import warn_of_workers
from common.machine.distributed import gather, place
from common.machine.memory import available_memory, readable_size
from common.machine.started import started

log = logging.getLogger("retouch")

Cache = Literal["auto", "ram", "none"]
RAM_SHARE = 0.25  # largest share of the free memory that cache="auto" takes, for all processes of a machine together
FILL_ROWS = 256  # rows per request while filling the cache, and while looking for unreadable rows
BLACK = 16  # an image without this value or a larger one is nearly black
PLAIN = 3  # an image of which no channel varies by this much is of a single color
SHOWN = 3  # paths listed in one warning about unreadable images
WARNED = 10  # unreadable images reported one by one by a single pass


class Fetched(NamedTuple):
    images: Tensor  # uint8 [b 3 S S]
    index: Tensor  # type: ignore[assignment]  # int64 [b]: their rows


class Images:
    """Square images of one size, by row.

    Attributes:
        size: side in pixels.
        kept: int64 ``[N]``, the source row of each row here.
        pixels: uint8 ``[N 3 S S]`` if kept in memory, else ``None``.
        checked: whether all rows are known to be readable. Rows that are not are unknown until a pass has met them.
        levels: which values are black and white in images of more than 8 bits; ``None`` for 8 bits.
        unreadable: rows of the source that cannot be read, and why: left out if ``checked``, else those met so far.
        sample_readable: whether one of a sample could be read when the images were opened; ``False`` if nobody looked.
    """

    def __init__(
        self,
        source: Source,
        size: int,
        kept: Tensor,
        pixels: Tensor | None = None,
        unreadable: Mapping[int, str] | None = None,
        *,
        checked: bool = False,
        levels: Levels | None = None,
    ) -> None:
        self.source, self.size, self.kept, self.pixels = source, size, kept, pixels
        self.unreadable: dict[int, str] = dict(unreadable or {})
        self.checked = checked or pixels is not None or source.endless
        self.levels = levels
        self.sample_readable = False
        self._passed = self.checked  # whether a pass has met every row

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def fingerprint(self) -> str:
        """Identifies the images of the source and the scale of their values."""
        return self.source.fingerprint if self.levels is None else digest([self.source.fingerprint, *self.levels])

    @cached_property
    def originals(self) -> Originals | None:
        """What is known of the images as they are stored, once a pass has met every row; ``None`` if generated."""
        return find_originals(self.source, self.kept, self.unreadable)

    def rows(self, index: Tensor) -> Tensor:
        """Rows ``[b]`` -> uint8 ``[b 3 S S]``, in this process."""
        return next(self.batches([index])).images

    def labels(self, task: str | None = None) -> Labels:
        """Labels of these rows (not of all rows of the source)."""
        return self.source.labels(task, self.kept)

    def multi_labels(self, columns: Sequence[str]) -> MultiLabels:
        """Several labels of each of these rows."""
        return self.source.multi_labels(columns, self.kept)

    def where(self, row: int) -> str:
        """Where a row comes from: a path, or a file and a row."""
        return self.source.where(int(self.kept[row]))

    def places(self, rows: Tensor) -> list[str]:
        """Where each of the rows ``[n]`` comes from, as ``where`` says."""
        return [self.source.where(number) for number in self.kept[rows].tolist()]

    def only(self, rows: Tensor) -> Images:
        """Rows ``[n]`` of these images, in that order."""
        pixels = None if self.pixels is None else self.pixels[rows]
        return Images(
            self.source, self.size, self.kept[rows], pixels, self.unreadable, checked=self.checked, levels=self.levels
        )

    def readable(self, workers: int = 0) -> Images:
        """These images without the rows that cannot be read, the same ones in every process.

        If no pass has met every row yet, each process decodes its share of them now.

        Raises:
            UserError: no row is readable.
        """
        if self.checked:
            return self
        looks = not self._passed and not self._remember()
        if looks:
            self._look(workers)
        found = _all_found(self.unreadable)
        if looks and place()[0] == 0:
            write_findings(self.source, self.size, self.kept, found)
        left = self.only(_without(self.kept, found))
        if not len(left):
            raise UserError(_none_readable(self.source, found))
        left.unreadable, left.checked = found, True
        if not self._passed:  # a pass has warned of what it met
            _report(self.source, found, len(self))
        return left

    def batches(self, rows: Iterable[Tensor], workers: int = 0) -> Iterator[Fetched]:
        """Each requested batch of rows, in order, whatever the number of workers, which start at once.

        Unless the images are ``checked``, rows that cannot be read are skipped, with one warning for each.

        Raises:
            UserError: a row of checked images can no longer be read; no requested row is readable.
        """
        if self.pixels is not None:
            pixels = self.pixels.numpy()
            # numpy copies whole rows on this thread: several times faster than torch's index_select, which copies
            # element by element and wakes the threads that the training step uses
            return (Fetched(torch.from_numpy(np.take(pixels, index.numpy(), axis=0)), index) for index in rows)
        return self._noted(decode_ahead(Decoder(self.source, self.size, self.kept, self.levels), rows, workers))

    def _noted(self, decoded: Iterator[Decoded]) -> Iterator[Fetched]:
        """The same, after what could not be read has been noted."""
        came, asked = 0, False
        for batch in decoded:
            self._note(batch.failures)
            came, asked = came + len(batch.rows), True
            yield Fetched(torch.from_numpy(batch.pixels), torch.from_numpy(batch.rows))
        if asked and not came:
            raise UserError(_none_readable(self.source, self.unreadable))

    def passed(self) -> None:
        """A pass has met every row: those that cannot be read are known."""
        self._passed = True

    def _note(self, failures: list[Failure]) -> None:
        if failures and self.checked:
            row, why = failures[0]
            raise UserError(
                f"{self.where(row)} could be read before, but not any more ({why}): bring it back and start again "
                "(with resume=true if a run has left checkpoints)"
            )
        for row, why in failures:
            number = int(self.kept[row])
            if number in self.unreadable:
                continue
            self.unreadable[number] = why
            if len(self.unreadable) <= WARNED:
                log.warning("unreadable image, left out: %s (%s)", self.source.where(number), why)
            elif len(self.unreadable) == WARNED + 1:
                log.warning("more than %d images are unreadable and left out; no others are listed", WARNED)

    def _remember(self) -> bool:
        """Use what an earlier run found, if it still holds."""
        known = read_findings(self.source, self.size, self.kept)
        if known is None:
            return False
        decoder = Decoder(self.source, self.size, self.kept, self.levels, send=False)
        rows = np.flatnonzero(np.isin(decoder.kept, list(known)))
        if not all(decoder[np.array([row])].failures for row in rows):
            return False
        self.unreadable = known
        return True

    def _look(self, workers: int) -> None:
        """Find the unreadable rows of this process's share by decoding it."""
        rank, processes = place()
        start = logged = time.monotonic()
        spec, done, whole = self.source.spec, 0, len(self)
        log.info("%s: looking for images that cannot be read, once before they are used", spec)
        decoder = Decoder(self.source, self.size, self.kept, self.levels, send=False)
        for batch in decode_ahead(decoder, torch.split(torch.arange(whole), FILL_ROWS)[rank::processes], workers):
            self.unreadable |= {int(self.kept[row]): why for row, why in batch.failures}
            done += len(batch.rows) + len(batch.failures)
            if time.monotonic() - logged > 5:
                logged = time.monotonic()
                log.info("%s: %s of %s images looked at", spec, f"{done * processes:,}", f"{whole:,}")
        log.info("%s: %s images looked at in %.1f s", spec, f"{whole:,}", time.monotonic() - start)


def load_images(
    source: Source,
    size: int,
    *,
    limit: int | None = None,
    workers: int = 0,
    cache: Cache = "auto",
    seed: int = 0,
    check: bool = True,
    levels: Levels | None = None,
) -> Images:
    """Open ``source`` as squares of ``size`` pixels: shorter side scaled to ``size``, center cropped, uint8 RGB.

    Sources that generate images (``Source.at``) generate them at that size. Images that cannot be read are left out,
    with a warning.

    ``cache="ram"`` decodes all images now and keeps them. ``"none"`` decodes each image when it is needed. ``"auto"``
    keeps them if they take at most a quarter of the free memory. The images are the same in all cases, so a run may be
    resumed, or shared by processes, with a different cache.

    Args:
        limit: use this many rows only: the first of a fixed shuffle (a folder is sorted by class), so that a smaller
            limit takes a subset of a larger one; they stay in the source's order. Generated sources simply have this
            length.
        workers: processes that decode; 0 decodes in this one. The result does not depend on it.
        seed: seed of the shuffle behind ``limit``.
        check: without a cache, look for unreadable rows now, which takes a pass over all. Otherwise they are skipped by
            a first pass in order, and ``Images.readable`` leaves them out after it.
        levels: black and white of images of more than 8 bits: those of the training set, for a test set. By default
            the source's own, measured on a sample.

    Raises:
        UserError: every image is unreadable.
    """
    warn_of_workers(workers)
    source = source.at(size)
    kept = kept_rows(source, limit, seed)
    levels = gather(levels or source.levels)[0]  # of the first process, if one has read a sample that others cannot
    source = source.scaled(levels)
    say_levels(levels, source.spec)
    need = len(kept) * 3 * size * size
    room = int(available_memory() * RAM_SHARE / started().local_size)
    if cache == "none" or (cache == "auto" and need > room):
        sizes = f"they would take {readable_size(need)}, a quarter of the free memory is {readable_size(room)}"
        reason = "" if cache == "none" else f": {sizes}"
        level = logging.INFO if reason else logging.DEBUG  # shown only where it is slower than what was asked for
        log.log(level, "%s: %s images, decoded when needed%s", source.spec, f"{len(kept):,}", reason)
        images = Images(source, size, kept, levels=levels)
        images = images.readable(workers) if check else images
    else:
        images = _fill(source, size, kept, workers, levels)
    if source.endless:
        return images
    warn_of_pages(source)
    sample = _sampled(images)
    images.sample_readable = bool(len(sample))
    _warn_of_empty(sample, source.spec)
    return images


def some_readable(images: Images, workers: int = 0) -> Images:
    """The images as they are if one of a sample can be read; otherwise those that can, after a pass over all.

    Raises:
        UserError: no image is readable.
    """
    known = images.checked or images.sample_readable
    return images if known or len(_sampled(images)) else images.readable(workers)


def paired(first: Images, second: Images) -> tuple[Images, Images]:
    """Both without the pairs in which an image cannot be read. Row i of one belongs to row i of the other's source."""
    if torch.equal(first.kept, second.kept):
        return first, second
    both = np.intersect1d(first.kept.numpy(), second.kept.numpy())
    log.warning(
        "%d pairs of %s and %s are left out: one of their images cannot be read",
        len(np.union1d(first.kept.numpy(), second.kept.numpy())) - len(both),
        *(first.source.spec, second.source.spec),
    )
    left = [images.only(torch.from_numpy(np.flatnonzero(np.isin(images.kept, both)))) for images in (first, second)]
    if not len(both):
        raise UserError(f"{first.source.spec} and {second.source.spec}: in every pair, an image cannot be read")
    return left[0], left[1]


def kept_rows(source: Source, limit: int | None, seed: int = 0) -> Tensor:
    """The rows that ``limit`` selects, in the source's order, int64; see ``load_images``."""
    if limit is None or (limit >= len(source) and not source.endless):
        return torch.arange(len(source))
    if source.endless:
        return torch.arange(limit)
    chosen = np.random.default_rng([seed, len(source)]).permutation(len(source))[:limit]
    return torch.from_numpy(np.sort(chosen))


def _fill(source: Source, size: int, kept: Tensor, workers: int, levels: Levels | None) -> Images:
    """Decode every row now, and keep the readable ones."""
    start = logged = time.monotonic()
    pixels = torch.empty((len(kept), 3, size, size), dtype=torch.uint8)
    readable, found, done = [], dict[int, str](), 0
    for batch in decode_ahead(
        Decoder(source, size, kept, levels), torch.split(torch.arange(len(kept)), FILL_ROWS), workers
    ):
        pixels[done : done + len(batch.rows)] = torch.from_numpy(batch.pixels)
        readable.append(torch.from_numpy(batch.rows))
        found |= {int(kept[row]): why for row, why in batch.failures}
        done += len(batch.rows)
        if time.monotonic() - logged > 5:
            logged = time.monotonic()
            log.info("%s: %s of %s images decoded", source.spec, f"{done:,}", f"{len(kept):,}")
    images = Images(source, size, kept[torch.cat(readable)], pixels[:done], found, levels=levels)
    everywhere = _all_found(found)
    if len(everywhere) > len(found):  # another process could not read what this one can
        images = images.only(_without(images.kept, everywhere))
        images.unreadable = everywhere
    if not len(images):
        raise UserError(_none_readable(source, everywhere))
    _report(source, everywhere, len(kept))
    seconds = time.monotonic() - start
    log.debug(
        "%s: %s images decoded in %.1f s, %s in memory",
        source.spec,
        f"{len(images):,}",
        seconds,
        readable_size(len(images) * 3 * size * size),
    )
    return images


def _sampled(images: Images) -> NDArray[np.uint8]:
    """The readable ones of an evenly spread sample, ``[n 3 S S]``."""
    rows = even_rows(len(images), SAMPLE)
    if images.pixels is not None:
        return images.pixels[rows].numpy()
    return Decoder(images.source, images.size, images.kept, images.levels)[rows.numpy()].pixels


def _warn_of_empty(pixels: NDArray[np.uint8], spec: str) -> None:
    """Warn if most images ``[n 3 S S]`` are black or of one color: their values may have been misread."""
    flat = pixels.reshape(len(pixels), 3, pixels.shape[2] ** 2)
    black, plain = int((flat.max((1, 2)) < BLACK).sum()), int((np.ptp(flat, 2).max(1) < PLAIN).sum())
    for count, what in ((black, f"nearly black (no value above {BLACK - 1} of 255)"), (plain, "of a single color")):
        if 2 * count > len(flat):
            log.warning(
                "%s: %d of %d images looked at are %s; check that they hold what you expect",
                *(spec, count, len(flat), what),
            )
            return


def _all_found(found: Mapping[int, str]) -> dict[int, str]:
    """What any process found unreadable, so that all of them order the same rows."""
    every = {row: why for part in gather(dict(found)) for row, why in part.items()}
    return dict(sorted(every.items()))


def _without(kept: Tensor, found: Mapping[int, str]) -> Tensor:
    """Positions in ``kept`` of the rows that are not in ``found``."""
    return torch.from_numpy(np.flatnonzero(~np.isin(kept.numpy(), list(found))))


def _report(source: Source, found: Mapping[int, str], count: int) -> None:
    if found and place()[0] == 0:  # every process would say the same
        numbers = (f"{len(found):,}", f"{count:,}")
        log.warning("%s of %s images cannot be read and are left out: %s", *numbers, _shown(source, found))


def _none_readable(source: Source, found: Mapping[int, str]) -> str:
    return f"{source.spec}: no image can be read, for example {_shown(source, found)}"


def _shown(source: Source, found: Mapping[int, str]) -> str:
    """The first few of them, and why."""
    rows = sorted(found)
    shown = "; ".join(f"{source.where(row)} ({found[row]})" for row in rows[:SHOWN])
    return f"{shown}{'; ...' if len(rows) > SHOWN else ''}"

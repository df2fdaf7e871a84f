"""Decoded images: every row a square of uint8 pixels, kept in memory if they fit, otherwise decoded by workers.

Both ways give the same numbers, even if some rows are unreadable: these keep their position, so that the order of
training does not depend on them, and training uses the next readable row instead; a single pass over all rows skips
them.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.data.decode import square
from common.data.source import Labels, Source
from common.errors import UserError, one_line
from common.machine.cores import warn_of_workers
from common.machine.memory import available_memory, readable_size

log = logging.getLogger("retouch")

Cache = Literal["auto", "ram", "none"]
RAM_SHARE = 0.25  # largest share of the free memory that cache="auto" takes, for all processes of a machine together
FILL_ROWS = 256  # rows per request while filling the cache
SHOWN = 3  # paths listed in one warning about unreadable images
WARNED = 10  # unreadable images reported one by one during training


class Fetched(NamedTuple):
    images: Tensor  # uint8 [b 3 S S]
    index: Tensor  # type: ignore[assignment]  # int64 [b]: their rows; unreadable ones are replaced or skipped


class Images:
    """Square images of one size, by row.

    Attributes:
        size: side in pixels.
        kept: int64 ``[N]``, the source row of each row here.
        pixels: uint8 ``[N 3 S S]`` if kept in memory, else ``None``.
        unreadable: rows known to be unreadable, and why; complete if the pixels are kept in memory.
    """

    def __init__(
        self,
        source: Source,
        size: int,
        kept: Tensor,
        pixels: Tensor | None = None,
        unreadable: Mapping[int, str] | None = None,
    ) -> None:
        self.source, self.size, self.kept, self.pixels = source, size, kept, pixels
        self.unreadable: dict[int, str] = dict(unreadable or {})
        self._shown = _next_readable(len(kept), self.unreadable) if pixels is not None and unreadable else None

    def __len__(self) -> int:
        return len(self.kept)

    def rows(self, index: Tensor) -> Tensor:
        """Rows ``[b]`` -> uint8 ``[b 3 S S]``, in this process. Unreadable rows are replaced as in ``batches``."""
        return next(self.batches([index])).images

    def labels(self, task: str | None = None) -> Labels:
        """Labels of these rows (not of all rows of the source)."""
        return self.source.labels(task, self.kept)

    def where(self, row: int) -> str:
        """Where a row comes from: a path, or a file and a row."""
        return self.source.where(int(self.kept[row]))

    def readable(self) -> Images:
        """These images without the rows found unreadable so far; after one pass, without all unreadable ones."""
        if not self.unreadable:
            return self
        stays = torch.ones(len(self), dtype=torch.bool)
        stays[list(self.unreadable)] = False
        pixels = None if self.pixels is None else self.pixels[stays]
        return Images(self.source, self.size, self.kept[stays], pixels)

    def batches(self, rows: Iterable[Tensor], workers: int = 0, *, replace: bool = True) -> Iterator[Fetched]:
        """Each requested batch of rows, in order, whatever the number of workers.

        An unreadable row is replaced by the next readable one, so that a training batch keeps its size, or skipped with
        ``replace=False``, so that no image counts twice. Each causes one warning; ``index`` holds the actual rows.

        Raises:
            UserError: no row is readable, or with ``replace=False`` no requested row.
        """
        if self.pixels is not None:
            pixels = self.pixels.numpy()
            for index in rows:
                if self._shown is not None:
                    shown = self._shown[index]
                    index = shown if replace else index[shown == index]
                # numpy copies whole rows on this thread: several times faster than torch's index_select, which copies
                # element by element and wakes the threads that the training step uses
                yield Fetched(torch.from_numpy(np.take(pixels, index.numpy(), axis=0)), index)
            return
        done = "replaced by the next readable one" if replace else "skipped"
        failures, came = [], 0
        for batch in _decode_ahead(_Decoder(self.source, self.size, self.kept, replace=replace), rows, workers):
            self._warn(batch.failures, done)
            if batch.pixels is None:
                raise UserError(self._none_readable(batch.failures))
            fetched = Fetched(torch.from_numpy(batch.pixels), torch.from_numpy(batch.rows))
            if not replace and batch.failures:
                whole = ~torch.isin(fetched.index, torch.tensor([row for row, _ in batch.failures]))
                fetched = Fetched(fetched.images[whole], fetched.index[whole])
            came += len(fetched.index)
            failures += [] if came else batch.failures
            yield fetched
        if failures and not came:
            raise UserError(self._none_readable(failures))

    def _warn(self, failures: list[Failure], done: str) -> None:
        for row, why in failures:
            if row in self.unreadable:
                continue
            self.unreadable[row] = why
            if len(self.unreadable) <= WARNED:
                log.warning("unreadable image, %s: %s (%s)", done, self.where(row), why)
            elif len(self.unreadable) == WARNED + 1:
                log.warning("more than %d images are unreadable and %s; no others are listed", WARNED, done)

    def _none_readable(self, failures: list[Failure]) -> str:
        return _all_unreadable(self.source, [(int(self.kept[row]), why) for row, why in failures])


def load_images(
    source: Source, size: int, *, limit: int | None = None, workers: int = 0, cache: Cache = "auto", seed: int = 0
) -> Images:
    """Open ``source`` as squares of ``size`` pixels: shorter side scaled to ``size``, centre cropped, uint8 RGB.

    Sources that generate images (``Source.at``) generate them at that size.

    ``cache="ram"`` decodes all images now and keeps them, with one warning about unreadable ones. ``"none"`` decodes
    each image when it is needed. ``"auto"`` keeps them if they take at most a quarter of the free memory. The images
    are the same in all cases, so a run may be resumed, or shared by processes, with a different cache.

    Args:
        limit: use this many rows only: the first of a fixed shuffle (a folder is sorted by class), so that a smaller
            limit takes a subset of a larger one; they stay in the source's order. Generated sources simply have this
            length.
        workers: processes that decode; 0 decodes in this one. The result does not depend on it.
        seed: seed of the shuffle behind ``limit``.

    Raises:
        UserError: every image is unreadable.
    """
    warn_of_workers(workers)
    source = source.at(size)
    kept = kept_rows(source, limit, seed)
    need = len(kept) * 3 * size * size
    room = int(available_memory() * RAM_SHARE / int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if cache == "none" or (cache == "auto" and need > room):
        sizes = f"they would take {readable_size(need)}, a quarter of the free memory is {readable_size(room)}"
        reason = "" if cache == "none" else f": {sizes}"
        log.info("%s: %s images, decoded when needed%s", source.spec, f"{len(kept):,}", reason)
        return Images(source, size, kept)
    return _fill(source, size, kept, workers)


def kept_rows(source: Source, limit: int | None, seed: int = 0) -> Tensor:
    """The rows that ``limit`` selects, in the source's order, int64; see ``load_images``."""
    if limit is None or (limit >= len(source) and not source.endless):
        return torch.arange(len(source))
    if source.endless:
        return torch.arange(limit)
    chosen = np.random.default_rng([seed, len(source)]).permutation(len(source))[:limit]
    return torch.from_numpy(np.sort(chosen))


def _fill(source: Source, size: int, kept: Tensor, workers: int) -> Images:
    """Decode every row now. The pixels of unreadable rows are never used."""
    start = logged = time.monotonic()
    pixels = torch.empty((len(kept), 3, size, size), dtype=torch.uint8)
    failures: list[Failure] = []
    done = 0
    chunks = torch.split(torch.arange(len(kept)), FILL_ROWS)
    for batch in _decode_ahead(_Decoder(source, size, kept, replace=False), chunks, workers):
        assert batch.pixels is not None  # only replacing can run out of rows
        pixels[torch.from_numpy(batch.rows)] = torch.from_numpy(batch.pixels)
        failures += batch.failures
        done += len(batch.rows)
        if time.monotonic() - logged > 5:
            logged = time.monotonic()
            log.info("%s: %s of %s images decoded", source.spec, f"{done:,}", f"{len(kept):,}")
    if len(failures) == len(kept):
        raise UserError(_all_unreadable(source, [(int(kept[row]), why) for row, why in failures]))
    if failures:
        shown = "; ".join(f"{source.where(int(kept[row]))} ({why})" for row, why in failures[:SHOWN])
        more = "; ..." if len(failures) > SHOWN else ""
        log.warning(
            "%d of %d images cannot be read; they are skipped, or in training replaced by the next readable one: %s%s",
            len(failures), len(kept), shown, more,
        )  # fmt: skip
    seconds = time.monotonic() - start
    log.info(
        "%s: %s images decoded in %.1f s, %s in memory",
        source.spec,
        f"{len(kept):,}",
        seconds,
        readable_size(pixels.numel()),
    )
    return Images(source, size, kept, pixels, dict(failures))


def _next_readable(length: int, unreadable: Iterable[int]) -> Tensor:
    """For each row the row itself if readable, else the next readable one, cyclically; int64 ``[length]``."""
    readable = np.setdiff1d(np.arange(length), list(unreadable))
    following = np.searchsorted(readable, np.arange(length)) % len(readable)
    return torch.from_numpy(readable[following])


def _all_unreadable(source: Source, failures: list[Failure]) -> str:
    shown = "; ".join(f"{source.where(row)} ({why})" for row, why in failures[:SHOWN])
    return f"{source.spec}: no image can be read, for example {shown}"


# Decoding, in this process or in workers.

Failure = tuple[int, str]  # a row, and why it cannot be read


class Decoded(NamedTuple):
    pixels: NDArray[np.uint8] | None  # [b 3 S S]; None if no row at all is readable
    rows: NDArray[np.int64]  # [b]
    failures: list[Failure]


class _Decoder(Dataset[Decoded]):
    """Turns a batch of rows into pixels. ``replace``: use the next readable row instead of an unreadable one."""

    def __init__(self, source: Source, size: int, kept: Tensor, *, replace: bool) -> None:
        # numpy, so that batches travel between processes by pipe: shared memory is scarce in containers
        self.source, self.size, self.kept, self.replace = source, size, kept.numpy(), replace
        self._failed: dict[int, str] = {}  # unreadable rows found so far, so that a long run of them is tried only once

    def __getitem__(self, rows: NDArray[np.int64]) -> Decoded:
        pixels = np.zeros((len(rows), 3, self.size, self.size), np.uint8)
        rows = rows.copy()
        failures: dict[int, str] = {}
        bulk = self.source.bulk(torch.from_numpy(self.kept[rows]))
        reach = len(self.kept) if self.replace else 1
        for slot, row in enumerate(rows.tolist()):
            for candidate in (number % len(self.kept) for number in range(row, row + reach)):
                made = bulk[slot] if bulk is not None and candidate == row else None
                image = self._read(candidate, made)
                if image is not None:
                    pixels[slot], rows[slot] = image, candidate
                    break
                failures[candidate] = self._failed[candidate]
            else:
                if self.replace:
                    return Decoded(None, rows, list(failures.items()))
        return Decoded(pixels, rows, list(failures.items()))

    def _read(self, row: int, made: Tensor | None) -> NDArray[np.uint8] | None:
        """One square from the image already ``made``, or from the source; ``None`` if it cannot be read."""
        if row in self._failed:
            return None
        if made is not None and made.shape == (3, self.size, self.size):
            return made.numpy()
        try:
            return square(self.source.image(int(self.kept[row])) if made is None else made, self.size)
        except Exception as error:  # decoders raise anything on broken files
            self._failed[row] = one_line(error)
            return None


def _decode_ahead(decoder: _Decoder, rows: Iterable[Tensor], workers: int) -> Iterator[Decoded]:
    requests = (index.numpy() for index in rows)
    if workers == 0:
        yield from map(decoder.__getitem__, requests)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's about too many workers: `warn_of_workers` has warned
        loader: DataLoader[Any] = DataLoader(
            decoder,
            batch_size=None,
            sampler=requests,  # with batch_size=None, an item is whatever the decoder takes
            num_workers=workers,
            prefetch_factor=4,
            collate_fn=_unchanged,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # not the global one, which belongs to the training step
        )
    yield from loader


def _unchanged(item: Any) -> Any:
    return item


def _start_worker(number: int) -> None:
    """Ignore Ctrl-C and SIGTERM: the parent handles them, and may need further batches before it stops. If the parent
    is killed, its workers exit too, even one that waits for space in the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_exit_with, args=(os.getppid(),), daemon=True).start()


def _exit_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)

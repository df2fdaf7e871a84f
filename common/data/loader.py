"""Batches in an order that is a function of the step, so that any step can be reached directly."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.data.images import Fetched, Images
from common.data.source import digest
from common.errors import UserError
from common.machine.cores import warn_of_workers


class Batch(NamedTuple):
    images: Tensor  # uint8 [b 3 S S]
    labels: Tensor | None  # int64 [b]
    index: Tensor  # type: ignore[assignment]  # int64 [b]: rows of the Images


@dataclass(frozen=True)
class Identity:
    """Distinguishes the data of one run from those of another."""

    images: int  # their number
    rows: str  # digest


class Loader:
    """Endless shuffled batches. Batch t is a function of (seed, t), and a rank's share of it of (seed, t, rank).

    Position ``p = t * batch_size + j`` of the stream is row ``permutation(seed, p // N)[p % N]``: epochs follow each
    other without a short last batch, even if a batch is larger than the data set. Rank r of ``world`` takes the r-th
    contiguous slice of each batch, so the global batch is the same for any number of processes. N counts the rows that
    can be read: the others are in no order.

    Args:
        images: checked ones (``Images.readable``).
        labels: int64 ``[N]``, one per row of ``images``.
        workers: processes that decode ahead, if the images are not kept in memory.

    Raises:
        UserError: ``batch_size`` cannot be shared evenly, there are no images, or the number of labels differs.
    """

    def __init__(
        self,
        images: Images,
        *,
        batch_size: int,
        seed: int,
        labels: Tensor | None = None,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
    ) -> None:
        if batch_size < 1 or batch_size % world:
            raise UserError(f"batch_size={batch_size} cannot be shared evenly by {world} processes")
        if not len(images):
            raise UserError(f"{images.source.spec}: no images")
        assert images.checked, "an order needs images that are known to be readable: Images.readable"
        if labels is not None and len(labels) != len(images):
            raise UserError(f"{len(labels)} labels for {len(images)} images")
        if images.pixels is None:
            warn_of_workers(workers)
        self.images, self.labels, self.batch_size, self.seed = images, labels, batch_size, seed
        self.share = batch_size // world
        self.first = rank * self.share
        self.workers = workers
        # an epoch may end within a batch, so two permutations are in use
        self._permutation = lru_cache(maxsize=2)(partial(permutation, seed, len(images)))

    @property
    def identity(self) -> Identity:
        """Everything that determines row order: source rows, labels, levels.

        The images themselves are not read, which would take a pass over the data.
        """
        labels = b"" if self.labels is None else self.labels.numpy().tobytes()
        levels = self.images.levels or ()
        rows = digest([len(self.images.source), self.images.kept.numpy().tobytes(), labels, *levels])
        return Identity(len(self.images), rows)

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every row has been seen at least once; the last may reach into the next epoch."""
        return -(-len(self.images) // self.batch_size)

    def rows(self, step: int) -> Tensor:
        """This rank's rows of batch ``step``, int64 ``[batch_size / world]``."""
        return positions(self._permutation, len(self.images), step * self.batch_size + self.first, self.share)

    def stream(self, first_step: int = 0) -> Iterator[Batch]:
        """This rank's share of batches ``first_step``, ``first_step + 1``, ... without end."""
        fetched = self.images.batches(map(self.rows, _count(first_step)), self.workers)
        batches = (
            Batch(images, None if self.labels is None else self.labels[index], index) for images, index in fetched
        )
        return _pinned(batches) if torch.cuda.is_initialized() else batches  # type: ignore[no-untyped-call]


def in_order(images: Images, batch_size: int, workers: int = 0) -> Iterator[Batch]:
    """Every readable row once, in order; the last batch may be short. Without labels: look them up by ``index``.

    Rows of images that are not ``checked`` are skipped with a warning if they cannot be read. Later rows close the gap,
    so the batches are the same as for images kept in memory.

    Raises:
        UserError: no row is readable.
    """
    waiting: Fetched | None = None
    for fetched in images.batches(torch.split(torch.arange(len(images)), batch_size), workers):
        if waiting is None or not len(waiting.index):
            waiting = fetched
        else:
            waiting = Fetched(
                torch.cat([waiting.images, fetched.images]),
                torch.cat([waiting.index, fetched.index]),
            )
        if len(waiting.index) >= batch_size:
            yield Batch(waiting.images[:batch_size], None, waiting.index[:batch_size])
            waiting = Fetched(waiting.images[batch_size:], waiting.index[batch_size:])
    images.passed()
    if waiting is not None and len(waiting.index):
        yield Batch(waiting.images, None, waiting.index)


def positions(order: Callable[[int], Tensor], length: int, start: int, count: int) -> Tensor:
    """Rows at ``count`` positions of the stream from ``start``, int64 ``[count]``; ``order(epoch)`` is a shuffle."""
    stop, parts = start + count, []
    while start < stop:
        epoch, offset = divmod(start, length)
        part = order(epoch)[offset : offset + stop - start]
        parts.append(part)
        start += len(part)
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def permutation(seed: int, length: int, epoch: int) -> Tensor:
    """The order of the rows in one epoch, int64 ``[length]``."""
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(length))


def _count(step: int) -> Iterator[int]:
    while True:
        yield step
        step += 1


def _pinned(batches: Iterator[Batch], ahead: int = 2) -> Iterator[Batch]:
    """The same batches in page-locked memory, gathered by a thread while the device computes."""
    device = torch.cuda.current_device()

    def gather() -> Batch:
        torch.cuda.set_device(device)  # the current device is per thread; the default would initialize device 0
        images, labels, index = next(batches)
        return Batch(images.pin_memory(), None if labels is None else labels.pin_memory(), index)

    with ThreadPoolExecutor(1, "retouch-batches") as thread:
        queue = deque(thread.submit(gather) for _ in range(ahead))
        while True:
            batch = queue.popleft().result()
            queue.append(thread.submit(gather))
            yield batch

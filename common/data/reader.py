"""Decoding batches of rows, in this process or in workers that decode ahead."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.data.decode import square
from common.data.levels import Levels
from common.data.source import Source
from common.errors import UserError, one_line

PAUSES = (0.2, 2.0)  # seconds before a file is tried again after a system error, such as that of a network drive
PASSING = {errno.EIO, errno.EAGAIN, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.ENETDOWN, errno.EHOSTDOWN}

LOST_WORKER = re.compile(r"DataLoader worker .*(killed by signal|exited unexpectedly)")
Failure = tuple[int, str]  # a row, and why it cannot be read


class Decoded(NamedTuple):
    pixels: NDArray[np.uint8]  # [b 3 S S] of the readable rows; empty if nobody asked for them
    rows: NDArray[np.int64]  # [b], the readable rows
    failures: list[Failure]


class Decoder(Dataset[Decoded]):
    """Turns a batch of rows into the pixels of those that can be read. ``send=False``: only finds which those are."""

    def __init__(
        self, source: Source, size: int, kept: Tensor, levels: Levels | None = None, *, send: bool = True
    ) -> None:
        # numpy, so that batches travel between processes by pipe: shared memory is scarce in containers
        self.source, self.size, self.kept, self.send = source, size, kept.numpy(), send
        self.levels = levels

    def __getitem__(self, rows: NDArray[np.int64]) -> Decoded:
        pixels = np.zeros((len(rows) if self.send else 1, 3, self.size, self.size), np.uint8)
        failures: dict[int, str] = {}
        bulk = self.source.bulk(torch.from_numpy(self.kept[rows]))
        for slot, row in enumerate(rows.tolist()):
            made = None if bulk is None else bulk[slot]
            try:
                pixels[slot if self.send else 0] = self._read(int(self.kept[row]), made)
            except Exception as error:  # decoders raise anything on broken files
                failures[row] = one_line(error)
        if failures:
            whole = ~np.isin(rows, list(failures))
            pixels, rows = pixels[whole] if self.send else pixels, rows[whole]
        return Decoded(pixels if self.send else pixels[:0], rows, list(failures.items()))

    def _read(self, number: int, made: Tensor | None) -> NDArray[np.uint8]:
        """One square from the image already ``made``, or from row ``number`` of the source."""
        if made is not None:
            whole = made.shape == (3, self.size, self.size)
            return made.numpy() if whole else square(made, self.size)
        for pause in PAUSES:
            try:
                return square(self.source.image(number), self.size, self.levels)
            except OSError as error:
                if error.errno not in PASSING:
                    raise
                time.sleep(pause)
        return square(self.source.image(number), self.size, self.levels)


def decode_ahead(decoder: Decoder, rows: Iterable[Tensor], workers: int) -> Iterator[Decoded]:
    """Each batch of rows decoded, in order, by ``workers`` processes, which start at once; 0 decodes in this one.

    So do images of this program where processes are not forked: its classes may be those of a script, which workers do
    not import, and some objects, such as lambdas, cannot be sent at all.
    """
    requests = (index.numpy() for index in rows)
    if workers == 0 or (decoder.source.only_here and multiprocessing.get_start_method() != "fork"):
        return map(decoder.__getitem__, requests)
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
        return _received(iter(loader), workers)


def _received(batches: Iterator[Decoded], workers: int) -> Iterator[Decoded]:
    """The same, each received by a thread while the one before is used: one of 1 MB takes 2 ms through the pipe."""
    try:
        with ThreadPoolExecutor(1, "retouch-received") as thread:
            coming = thread.submit(next, batches, None)
            while (batch := coming.result()) is not None:
                coming = thread.submit(next, batches, None)
                yield batch
    except RuntimeError as error:
        if not LOST_WORKER.search(str(error)):
            raise
        raise UserError(
            f"data.workers: a process that decodes images was killed ({one_line(error, 150)}), perhaps for want of "
            f"memory: set it to less than {workers}, or to 0, and start again (with resume=true if a run has left "
            "checkpoints)"
        ) from None


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

"""Stages of one program take turns, whichever threads call them; and a way to call them from asyncio.

A process has one of what a stage changes: torch's random generators, which each step of training seeds, the number of
threads, the messages that go to ``train.log``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from common.machine.workers import without_main

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("retouch")

P = ParamSpec("P")
T = TypeVar("T")

LOOKED = 0.2  # seconds between two looks whether a call that waits is cancelled
WAITS = "another thread of this program runs Retouch; this call waits until it has ended"
CANCELLED = (
    "cancelled: training writes a checkpoint after this step and ends, and the same call with out=FOLDER resume=true "
    "continues it; a call that waits does not start, and any other ends when its work is done"
)

_turn = threading.RLock()
_asked: ContextVar[threading.Event | None] = ContextVar("retouch_asked_to_stop", default=None)  # of this call


@contextmanager
def in_turn() -> Iterator[None]:
    """Inside, no other thread is in here. A call from another thread waits, and says so; one within starts at once.

    Raises:
        CancelledError: the call was cancelled while it waited (``in_thread``).
    """
    if not _turn.acquire(blocking=False):
        log.warning(WAITS, extra={"of_no_run": True})
        while not _turn.acquire(timeout=LOOKED):
            if asked_to_stop():
                raise CancelledError
    try:
        if asked_to_stop():
            raise CancelledError
        with without_main():
            yield
    finally:
        _turn.release()


def asked_to_stop() -> bool:
    """Whether the call that this thread works on was cancelled."""
    asked = _asked.get()
    return asked is not None and asked.is_set()


async def in_thread(work: Callable[P, T], /, *given: P.args, **named: P.kwargs) -> T:
    """Await a function of Retouch in another thread, of asyncio's default executor: an event loop goes on meanwhile.

        run = await retouch.in_thread(retouch.pretrain, "denoise", "data=my/pictures", "out=runs/mine")

    Several calls at once take turns. If the call is cancelled, training ends after its step with a checkpoint, from
    which the same call with ``resume=true`` goes on, and a call that waits does not start; others end when their work
    is done, since a thread cannot be interrupted.

    Args:
        work: a function of Retouch; then what it is given.

    Returns:
        What it returns.

    Raises:
        UserError: what ``work`` raises.
    """
    import asyncio

    asked, context = threading.Event(), copy_context()
    context.run(_asked.set, asked)
    future = asyncio.get_running_loop().run_in_executor(None, lambda: context.run(work, *given, **named))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        asked.set()
        future.add_done_callback(_forget)
        log.warning(CANCELLED, extra={"of_no_run": True})
        raise


def _forget(future: asyncio.Future[Any]) -> None:
    """Nobody waits for what a cancelled call ends with: asyncio would report it as an error that nobody saw."""
    if not future.cancelled():
        future.exception()

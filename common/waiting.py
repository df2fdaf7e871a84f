"""A time limit for calls that wait for a server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """Call with a time limit; a call that exceeds it is left to a daemon thread, which ends with the program.

    Raises:
        TimeoutError: no result in time. What ``call`` raises in time is raised here.
    """
    results: list[T] = []
    raised: list[Exception] = []

    def work() -> None:
        try:
            results.append(call())
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=work, name="retouch-waiting", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer in {seconds:g} s")
    if raised:
        raise raised[0]
    return results[0]

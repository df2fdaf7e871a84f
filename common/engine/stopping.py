"""Stopping politely: a signal becomes a request that the loop answers after a step."""

from __future__ import annotations

import signal
import threading
from typing import Any


class StopRequest:
    """Turns the first SIGTERM or Ctrl-C into a request to stop after this step; a second Ctrl-C interrupts at once.

    Ctrl-C does nothing to a process that was started in the background of a script, as everywhere else.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.asked, self.enabled = False, enabled
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if self.enabled and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True

"""Stopping politely: a signal, or a call that is cancelled, becomes a request that the loop answers after a step."""

from __future__ import annotations

import signal
import threading
from typing import Any

from common.machine.turns import asked_to_stop


class StopRequest:
    """Turns the first SIGTERM or Ctrl-C into a request to stop after this step; a second Ctrl-C interrupts at once.

    Ctrl-C does nothing to a process that was started in the background of a script, as everywhere else.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._signaled, self.enabled = False, enabled
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

    @property
    def asked(self) -> bool:
        """Whether to stop: after a signal, or since the call was cancelled in asyncio."""
        return self._signaled or (self.enabled and asked_to_stop())

    def _ask(self, number: int, frame: object) -> None:
        if self._signaled and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signaled = True

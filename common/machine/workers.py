"""Worker processes that need nothing of the program that starts them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import spawn
from typing import Any

MAIN = ("init_main_from_name", "init_main_from_path")

_usual: Callable[[str], dict[str, Any]] = spawn.get_preparation_data
_here = threading.local()  # `bare`: whether this thread starts processes without the main script


@contextmanager
def without_main() -> Iterator[None]:
    """Inside, processes that this thread starts do not import the main script again.

    Where processes are spawned (macOS, Windows) or come from a fork server, Python imports the main script in each of
    them, so a script without ``if __name__ == "__main__"`` would start its work again in every decoding worker, and
    fail. All that workers unpickle comes from Retouch's own modules, so they do not need the script. Other threads of
    the program start processes as ever.
    """
    before = getattr(_here, "bare", False)
    _here.bare = True
    try:
        yield
    finally:
        _here.bare = before


def _preparation_data(name: str) -> dict[str, Any]:
    """What a new process is given: in place of Python's own function, for good."""
    found = _usual(name)
    if getattr(_here, "bare", False):
        return {key: value for key, value in found.items() if key not in MAIN}
    return found


spawn.get_preparation_data = _preparation_data

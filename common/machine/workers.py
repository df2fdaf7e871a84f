"""Worker processes that need nothing of the program that starts them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import spawn
from typing import Any

MAIN = ("init_main_from_name", "init_main_from_path")


@contextmanager
def without_main() -> Iterator[None]:
    """Inside, new processes do not import the main script again.

    Where processes are spawned (macOS, Windows) or come from a fork server, Python imports the main script in each of
    them, so a script without ``if __name__ == "__main__"`` would start its work again in every decoding worker, and
    fail. All that workers unpickle comes from Retouch's own modules, so they do not need the script.
    """
    usual = spawn.get_preparation_data

    def prepared(name: str) -> dict[str, Any]:
        return {key: value for key, value in usual(name).items() if key not in MAIN}

    spawn.get_preparation_data = prepared
    try:
        yield
    finally:
        spawn.get_preparation_data = usual

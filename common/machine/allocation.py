"""How the C library hands out memory: what a network has freed stays with the process, for its next batch."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

from common.machine.memory import available_memory

# numbers of glibc's malloc.h
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 64 << 20  # bytes of an allocation; larger ones go back to the system when they are freed
KEPT = 512 << 20  # bytes of free memory that stay, at most
KEPT_SHARE = 8  # and at most this part of the free memory
USERS_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")  # settings of glibc's malloc


@cache
def keep_freed_memory() -> None:
    """Let glibc keep up to 512 MiB of freed memory in this process, unless the environment has settings of its own.

    By default, glibc returns the activations of a batch to the system, and the system clears every page of them for
    the next one: a quarter of the time in which a network computes features on a CPU (``benchmarks/allocation.py``).
    Without glibc (macOS, Windows, Alpine), nothing is changed.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in USERS_OWN):
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(MMAP_THRESHOLD, LARGEST_KEPT)
    mallopt(TRIM_THRESHOLD, min(KEPT, available_memory() // KEPT_SHARE))

"""How much memory is free, and sizes as people read them."""

from __future__ import annotations

from pathlib import Path

import psutil


def available_memory() -> int:
    """Bytes that can be taken without swapping: of the machine, or of this container where that is less."""
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        return free if limit == "max" else min(free, max(int(limit) - used, 0))
    except (OSError, ValueError):
        return free


def gib(size: int) -> str:
    """Bytes for people: ``147 MiB``, ``1.5 GiB``."""
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"

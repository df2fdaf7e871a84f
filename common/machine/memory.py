"""Free memory, and sizes in readable units."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")  # where a container sees its own limits


def available_memory(group: Path = CGROUP) -> int:
    """Bytes that can be allocated without swapping: in the machine, or in this container if it has a lower limit."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text()) - _of_files(group)
        return free if limit == "max" else min(free, max(int(limit) - used, 0))
    except (OSError, ValueError):
        return free


def _of_files(group: Path) -> int:
    """Bytes of a container that keep what was read from files: the system gives them to whoever needs them."""
    try:
        lines = [line.split() for line in (group / "memory.stat").read_text().splitlines()]
        return sum(int(value) for name, value in lines if name in ("active_file", "inactive_file"))
    except (OSError, ValueError):
        return 0


def readable_size(size: int) -> str:
    """Bytes as text: ``3.2 KiB``, ``147 MiB``, ``1.5 GiB``, ``2.8 TiB``."""
    if size < 2**20:
        return f"{size / 2**10:.1f} KiB"
    if size < 2**30:
        return f"{size / 2**20:.0f} MiB"
    return f"{size / 2**30:.1f} GiB" if size < 2**40 else f"{size / 2**40:,.1f} TiB"

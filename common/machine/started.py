"""Which of several processes this one is, as ``torchrun`` says in the environment. Quick to import."""

from __future__ import annotations

import os
from typing import NamedTuple

from common.errors import UserError

MEETING = ("MASTER_ADDR", "MASTER_PORT")  # where the processes find each other
ALONE = "start it with torchrun, or unset {}"
LEAST = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}  # also where it is not set


class Started(NamedTuple):
    """The place of a process: 0 of 1 if it was started alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1  # processes on this machine


def started() -> Started:
    """What ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK`` and ``LOCAL_WORLD_SIZE`` say; empty ones count as not set.

    Raises:
        UserError: with everything that does not fit: the run would wait forever, or write nothing.
    """
    problems, numbers = [], []
    for name, least in LEAST.items():
        text = os.environ.get(name, "").strip() or str(least)
        number = int(text) if text.isdecimal() else -1
        if number < least:
            problems.append(f"{name}={text} in the environment is not a whole number of at least {least}: unset it")
        numbers.append(number)
    found = Started(*numbers)
    if not problems and found.rank >= found.size:
        problems.append(
            f"RANK={found.rank} in the environment, but WORLD_SIZE={found.size}: ranks are 0 to {found.size - 1}; "
            f"{ALONE.format('both')}"
        )
    if not problems and found.size > 1:
        missing = [name for name in ("RANK", *MEETING) if not os.environ.get(name, "").strip()]
        if missing:
            problems.append(
                f"WORLD_SIZE={found.size} in the environment, but not {' and '.join(missing)}: "
                f"{ALONE.format('WORLD_SIZE')}"
            )
    if problems:
        raise UserError(*problems)
    return found


def is_first() -> bool:
    """Whether this process is the only one, or the one of several that speaks. Never raises."""
    return (os.environ.get("RANK", "").strip() or "0") == "0"

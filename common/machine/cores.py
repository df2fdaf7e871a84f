"""How many threads should compute, on a machine that may have other work.

Threads meet at the end of every operation. If one of them has to wait for its core, all wait, thousands of times a
second: on two cores of which one is busy, two threads were measured to train 3 to 50 times slower than one.
"""

from __future__ import annotations

import logging
import os

import psutil
import torch

log = logging.getLogger("retouch")

ENOUGH = 0.75  # a core that others leave this share of counts as free


def usable_cores() -> int:
    """CPU cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy_cores(seconds: float = 0.5) -> float:
    """How many of the cores this process may use others keep busy, measured while it sleeps for ``seconds``."""
    percent = psutil.cpu_percent(interval=seconds, percpu=True)
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(percent))
    return float(sum(percent[core] for core in usable if core < len(percent))) / 100


def free_threads(busy: float) -> int:
    """How many threads would each have a core of their own while others keep ``busy`` cores busy; at least one."""
    return max(1, int(usable_cores() - busy + 1 - ENOUGH))


def leave_busy_cores() -> None:
    """Compute with no more threads than there are free cores, unless ``OMP_NUM_THREADS`` says how many.

    For work whose last bits do not matter: with other threads, sums are rounded in another order.
    """
    threads = free_threads(busy_cores())
    if "OMP_NUM_THREADS" not in os.environ and threads < torch.get_num_threads():
        log.info("other programs keep this machine busy: computing with %d of %d threads", threads, usable_cores())
        torch.set_num_threads(threads)


def warn_of_busy_cores() -> None:
    """Say once what would help, where threads would wait for cores that others use."""
    threads = torch.get_num_threads()
    if threads == 1:
        return
    fewer = free_threads(busy_cores(0.2))
    if fewer < threads:
        log.warning(
            "other programs keep this machine busy: %d threads that wait for each other may be several times slower "
            "than %d; set OMP_NUM_THREADS=%d before starting, also when the run is resumed",
            threads, fewer, fewer,
        )  # fmt: skip


def warn_of_workers(workers: int) -> None:
    """Warn, and go on, when there are more workers than cores."""
    cores = usable_cores()
    if workers > cores:
        log.warning(
            "data.workers=%d, but this machine has %d cores: more workers will not decode faster", workers, cores
        )

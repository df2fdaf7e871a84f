"""How many threads to compute with on a machine that may be running other programs.

Threads synchronize at the end of every operation. If one of them waits for its core, all wait, thousands of times per
second: with one of two cores busy, two threads were measured to train 3 to 50 times slower than one.
"""

from __future__ import annotations

import logging
import os

import psutil
import torch

from common.words import counted

log = logging.getLogger("retouch")

ENOUGH = 0.75  # a core counts as free if other programs leave this share of it


def usable_cores() -> int:
    """CPU cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy_cores(seconds: float = 0.5) -> float:
    """How many of this process's cores other programs keep busy, measured while it sleeps for ``seconds``."""
    percent = psutil.cpu_percent(interval=seconds, percpu=True)
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(percent))
    return float(sum(percent[core] for core in usable if core < len(percent))) / 100


def free_threads(busy: float) -> int:
    """How many threads can have a core each while other programs keep ``busy`` cores busy; at least one."""
    return max(1, int(usable_cores() - busy + 1 - ENOUGH))


def leave_busy_cores() -> None:
    """Compute with no more threads than there are free cores, unless ``OMP_NUM_THREADS`` is set.

    For work whose last bits do not matter: the thread count changes floating-point summation order.
    """
    if "OMP_NUM_THREADS" in os.environ or torch.get_num_threads() == 1:
        return
    threads = free_threads(busy_cores())
    if threads < torch.get_num_threads():
        log.info("other programs keep this machine busy: computing with %d of %d threads", threads, usable_cores())
        torch.set_num_threads(threads)


def warn_of_busy_cores() -> None:
    """Warn if threads will wait for cores that other programs use, with the setting that helps."""
    threads = torch.get_num_threads()
    if threads == 1:
        return
    fewer = free_threads(busy_cores(0.2))
    if fewer < threads:
        log.warning(
            "other programs keep this machine busy: %d threads, which wait for each other, may be several times slower "
            "than %d; set OMP_NUM_THREADS=%d before starting, and again when resuming",
            threads, fewer, fewer,
        )  # fmt: skip


def warn_of_workers(workers: int) -> None:
    """Warn if there are more workers than cores."""
    cores = usable_cores()
    if workers > cores:
        log.warning(
            "data.workers=%d, but this machine has %s: more workers will not decode faster",
            *(workers, counted(cores, "core")),
        )

"""Freed memory stays with the process, so that the next batch does not wait for the system to clear it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from common.machine.allocation import USERS_OWN

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this system has no glibc")

PAGES = 40 * 2**20 // 4096  # of the memory that a round takes
COUNT = """
import resource
import numpy as np

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(40 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def rounds():
    return min(new_pages() for _ in range(4))
"""


def numbers(code: str, **variables: str) -> list[int]:
    """The numbers that a process with the functions above prints."""
    clean = {name: value for name, value in os.environ.items() if name not in USERS_OWN}
    done = subprocess.run(
        [sys.executable, "-c", COUNT + code], env=clean | variables, capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


def test_a_stage_keeps_freed_memory() -> None:
    before, inside = numbers(
        "print(rounds())\nfrom common.machine.distributed import world\nwith world():\n    print(rounds())"
    )
    assert before > PAGES / 600  # pages of 4 KiB, or huge ones of 2 MiB
    assert inside < before / 10


@pytest.mark.parametrize("name", USERS_OWN)
def test_settings_of_the_user_stay(name: str) -> None:
    value = "glibc.malloc.trim_threshold=1000000" if name == "GLIBC_TUNABLES" else "1000000"
    code = "from common.machine.allocation import keep_freed_memory\nkeep_freed_memory()\nprint(rounds())"
    (pages,) = numbers(code, **{name: value})
    assert pages > PAGES / 600

"""Threads leave cores to other programs, unless the user has said how many there shall be."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import psutil
import pytest
import torch

from common.machine import cores as threads


@pytest.fixture(autouse=True)
def four_threads_on_four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def keep_busy(monkeypatch: pytest.MonkeyPatch, percent: float) -> None:
    """Each of the four usable cores; another four, which this process may not use, are idle or busy all the same."""
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percpu: [percent] * 4 + [100.0 - percent] * 4)


@pytest.mark.parametrize(("busy", "free"), [(0.0, 4), (0.2, 4), (0.3, 3), (1.0, 3), (3.9, 1), (4.0, 1)])
def test_each_thread_has_a_core_of_its_own(busy: float, free: int) -> None:
    assert threads.free_threads(busy) == free


def test_busy_cores_are_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_busy(monkeypatch, 50)
    threads.leave_busy_cores()
    assert torch.get_num_threads() == 2


def test_a_quiet_machine_is_used_whole(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    keep_busy(monkeypatch, 3)
    with caplog.at_level(logging.INFO, "retouch"):
        threads.leave_busy_cores()
        threads.warn_of_busy_cores()
    assert torch.get_num_threads() == 4
    assert not caplog.records


def test_the_users_number_of_threads_is_kept_without_a_look_at_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda **_: pytest.fail("looked"))
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    threads.leave_busy_cores()
    assert torch.get_num_threads() == 4


def test_training_on_a_busy_machine_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keep_busy(monkeypatch, 75)
    with caplog.at_level(logging.INFO, "retouch"):
        threads.warn_of_busy_cores()
    assert [record.getMessage() for record in caplog.records] == [
        "other programs keep this machine busy: 4 threads, which wait for each other, may be several times slower than "
        "1; set OMP_NUM_THREADS=1 before starting, and again when resuming"
    ]
    assert torch.get_num_threads() == 4  # sums are rounded as on a quiet machine


def test_more_workers_than_cores_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    threads.warn_of_workers(4)
    assert not caplog.records
    threads.warn_of_workers(5)
    assert [record.getMessage() for record in caplog.records] == [
        "data.workers=5, but this machine has 4 cores: more workers will not decode faster"
    ]

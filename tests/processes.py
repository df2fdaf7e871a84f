"""Real processes that start fast: forked from a clean one that has imported the large libraries once.

Where there is no such server (Windows), each process imports them itself.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import start_processes

PATIENCE = float(os.environ.get("PATIENCE", 150))  # seconds; broken code need not wait as long
IMPORTED = ["torch._dynamo", "wandb", "pretrain.run", "finetune.full", "tests.recipe"]
CONTEXT: ForkServerContext | SpawnContext
if "forkserver" in multiprocessing.get_all_start_methods():
    CONTEXT = multiprocessing.get_context("forkserver")
    CONTEXT.set_forkserver_preload(IMPORTED)
else:
    CONTEXT = multiprocessing.get_context("spawn")


def in_two_processes(work: Callable[..., None], *given: Any) -> None:
    """Run ``work(rank, *given)`` in two processes as torchrun would start them, and wait for both.

    ``work`` is a function of a module, and what it is given can be pickled.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    context = start_processes(
        _one_of_two,
        args=(os.environ | group, work, *given),
        nprocs=2,
        join=False,
        start_method=CONTEXT.get_start_method(),
    )
    patience = time.monotonic() + PATIENCE
    while not context.join(1):
        if time.monotonic() > patience:
            for process in context.processes:
                process.kill()
            pytest.fail("the processes wait for each other")


def _one_of_two(rank: int, environment: dict[str, str], work: Callable[..., None], *given: Any) -> None:
    _become(environment | {"RANK": str(rank)})
    work(rank, *given)


def _become(environment: dict[str, str]) -> None:
    """A process of the server has the environment from the server's start, not the test's."""
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)


def start(said: Path, work: Callable[..., None], *given: Any) -> BaseProcess:
    """Start ``work(*given)`` in a process of its own; the file ``said`` gets what it writes to both outputs."""
    given = dict(os.environ), said, work, *given
    process = CONTEXT.Process(target=_alone, args=given, daemon=True)  # ends with the tests at the latest
    process.start()
    return process


def _alone(environment: dict[str, str], said: Path, work: Callable[..., None], *given: Any) -> None:
    _become(environment)
    with said.open("wb") as file:
        for output in (1, 2):
            os.dup2(file.fileno(), output)
    work(*given)


def finish(process: BaseProcess, said: Path, code: int = 0) -> str:
    """Wait until it ends with this exit code, and return what it said."""
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        pytest.fail(f"the process does not end: {said.read_text()}")
    text = said.read_text()
    assert process.exitcode == code, text
    return text

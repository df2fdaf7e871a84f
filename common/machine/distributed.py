"""One process, or several started by ``torchrun``: rank, device, and the few collectives that the loop needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# Its functions take the process group at import time as a default argument. DDP imports it lazily, which would keep
# that group alive after `destroy_process_group`: its threads would outlive the interpreter and abort the process.
import torch.distributed.nn.functional

from common.machine.allocation import keep_freed_memory
from common.machine.started import started

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process: its rank, the number of processes, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Rank 0 alone logs and writes."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        tensor = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return bool(tensor.item())

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over all processes."""
        if self.size > 1:
            dist.all_reduce(value)
            value /= self.size
        return value

    def barrier(self) -> None:
        """Wait for every process."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Inside, rank 0 goes first and the others follow: what it downloads or unpacks is there for them."""
        if not self.is_main:
            self.barrier()
        try:
            yield
        finally:
            if self.is_main:
                self.barrier()


def place() -> tuple[int, int]:
    """This process's rank, and the number of processes that have joined."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather(value: T) -> list[T]:
    """The values of all processes, by rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def world() -> Iterator[World]:
    """Join the processes that ``torchrun`` started, if it did; leave their group at the end.

    Every stage begins here, so the memory of its process is set up here, too.

    Raises:
        UserError: the environment does not say which process this is (``started``).
    """
    keep_freed_memory()
    rank, size, local_rank, _ = started()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    joined = size > 1 and not dist.is_initialized()
    if joined:
        dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield World(rank, size, device)
    finally:
        if joined:
            dist.destroy_process_group()

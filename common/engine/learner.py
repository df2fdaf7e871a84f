"""What one step of training does to a model.

The loop knows the order of the data, checkpoints, logging and signals; a learner knows how a batch changes the model
and which tensors it needs to continue bit for bit.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

from torch import Tensor, nn

from common.data import Batch
from common.engine.checkpoint import copy_into

Named = dict[str, Tensor]  # scalars by name


class StepResult(NamedTuple):
    """What one step reports, as scalars by name."""

    losses: Named  # the loop logs their sum as `loss`
    numbers: Named  # anything else worth a curve


class Learner(ABC):
    """A model and the rule by which it learns.

    The loop calls ``start`` or ``restore``, then ``begin``, then ``step`` for every batch, then ``finish``.

    Attributes:
        model: what is learned, on its device; its parameters and buffers are part of every checkpoint.
    """

    model: nn.Module

    @property
    def streams(self) -> bool:
        """Whether it learns from batches; a learner that does not is done after ``start``, and takes no steps."""
        return True

    @property
    def rule(self) -> str:
        """How it learns, in a few words for the log."""
        return ""

    @property
    def remedy(self) -> str:
        """What a user can change if a loss or gradient is no longer finite."""
        return "check the images"

    def start(self) -> None:  # noqa: B027  a hook that may be left out
        """Compute what must be known before the first step, such as statistics of the images.

        Called once in the life of a run: a resumed run finds the result in its checkpoint.
        """

    def restore(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put the tensors of a checkpoint back where ``tensors`` found them."""
        copy_into(self.model.state_dict(), groups["model"], "model")

    def begin(self, steps: int) -> None:  # noqa: B027  a hook that may be left out
        """Called once per process, before the first of its steps; training takes ``steps`` in all."""

    @abstractmethod
    def step(self, batch: Batch, step: int) -> StepResult:
        """Learn from one batch, which is on the CPU; ``step`` counts from 0. Returns means over the batch's images."""

    def rate(self, step: int) -> float | None:
        """The learning rate at ``step``; None for a rule without one."""
        return None

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """Groups of tensors that a checkpoint keeps."""
        return {"model": self.model.state_dict()}

    def final_tensors(self) -> dict[str, Mapping[str, Tensor]] | None:
        """Groups that the checkpoint of a finished run keeps instead; None if it keeps all.

        ``restore`` must accept them.
        """
        return None

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the model is as it would be exported."""
        return contextlib.nullcontext()

    def finish(self) -> None:  # noqa: B027  a hook that may be left out
        """Called once, after the last step: leave the model as it is to be exported."""

"""Settings of the training loop, and of learning by gradient."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from common.config import MANY, Config
from common.machine.precision import Precision


class CheckpointConfig(Config):
    """When a run is saved, so that it can be resumed."""

    every: int = Field(default=500, gt=0, le=MANY)
    """Steps between two checkpoints."""
    keep: int = Field(default=2, gt=0, le=MANY)
    """Checkpoints to keep; older ones are removed."""


class StopConfig(Config):
    """When training ends before its last step."""

    when: Literal["never", "flat"] = "never"
    """flat: once the held-out loss has made no progress for some panels; never: after the last step."""
    patience: int = Field(default=3, gt=0, le=MANY)
    """Panels without progress (1% of the loss) after which training is flat."""
    at: int | None = Field(default=None, gt=0, le=MANY)
    """Pause after this step and export; the schedule stays that of all steps, and resuming without it goes on."""
    after: float | None = Field(default=None, ge=1e-6, le=1e9)
    """Likewise after so many seconds of training, over all resumptions; the step depends on the machine's speed."""


class LoopConfig(Config):
    """Settings of the loop, whatever a step does.

    Attributes:
        loop_writes: what training leaves in a run folder. Checkpoints are removed first when a run is overwritten:
            while there is one, resuming needs the rest.
        loop_free_keys: settings that may differ between a run and its resumption, because they change no number.
    """

    loop_writes: ClassVar[tuple[str, ...]] = ("checkpoints",)
    loop_free_keys: ClassVar[frozenset[str]] = frozenset({"log_seconds", "checkpoint"})

    seed: int = Field(default=0, ge=0, lt=1 << 32)
    """Seed of every random number; the same seed gives the same result."""
    batch_size: int = Field(default=256, gt=0, le=MANY)
    """Images per batch, over all processes and micro-batches."""
    steps: int | None = Field(default=None, gt=0, le=MANY)
    """Length of training in steps; or set epochs."""
    epochs: float | None = Field(default=None, ge=1e-6, le=1e6)
    """Length of training in passes over the images; or set steps."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    log_every: int = Field(default=50, gt=0, le=MANY)
    """Steps between two lines of metrics.jsonl."""
    log_seconds: float = Field(default=5.0, ge=0.01, le=1e6)
    """Seconds between two progress lines if there is no terminal."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps is None and self.epochs is None:
            raise ValueError("give steps or epochs")
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs, not both: set steps=null to train by epochs, or epochs=null")
        return self

    def total_steps(self, steps_per_epoch: int) -> int:
        """How many steps training takes."""
        return self.steps or math.ceil((self.epochs or 0) * steps_per_epoch)


class OptimConfig(Config):
    """AdamW with linear warmup and a cosine decay to zero."""

    weight_decay: float = Field(default=0.05, ge=0, le=100)
    """Decoupled weight decay; not on biases, norms, tokens and positions."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """Decay of the running means of the gradient and of its square."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of all steps in which the learning rate rises to its peak."""
    clip: float = Field(default=1.0, ge=0, le=1e6)
    """Largest gradient norm; 0 turns clipping off."""


class GradientConfig(LoopConfig):
    """Settings of the loop if its steps follow a gradient."""

    base_lr: float = Field(default=1e-3, ge=1e-12, le=100)
    """Learning rate per 256 images; the effective rate is base_lr * batch_size / 256."""
    optim: OptimConfig = OptimConfig()
    ema: float = Field(default=0.998, ge=0, lt=1)
    """Decay of the averaged weights that are exported; 0 turns averaging off."""
    accumulate: int = Field(default=1, gt=0, le=MANY)
    """Micro-batches per step: less memory at the same batch size."""
    precision: Precision = "auto"
    """Precision of the forward pass; auto: bfloat16 if the machine is fast at it, else float32."""
    compile: bool = False
    """Compile the model with torch.compile."""

    @model_validator(mode="after")
    def _equal_micro_batches(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be divided into accumulate={self.accumulate} equal parts"
            )
        return self

    @property
    def effective_lr(self) -> float:
        """The learning rate at this batch size: ``base_lr`` is per 256 images."""
        return self.base_lr * self.batch_size / 256

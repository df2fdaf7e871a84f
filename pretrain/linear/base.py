"""The base of the linear family: methods with their own fitting rule instead of gradient descent."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from common.augment import AugmentConfig
from common.config import MANY
from common.data import Batch, Images
from common.data.rows import even_rows
from common.encoders import Encoder, EncoderConfig, build_encoder
from common.encoders.provenance import Provenance
from common.engine.learner import Named, StepResult
from common.engine.schedule import seed_step
from common.errors import UserError, check_all
from common.machine.distributed import World
from common.pixels import to_float
from pretrain.gradient.example import Example
from pretrain.method import Method, MethodLearner

log = logging.getLogger("retouch")

FITTED = "fitted"  # the group of a checkpoint that has the model of a finished run
START_IMAGES = 2048  # sample for what is needed before the first batch: centre, whitening, initial atoms


class LinearMethod(Method, ABC):
    """Settings of one method of the linear family."""

    kind: str

    @property
    def title(self) -> str:
        return self.kind

    @property
    def provenance(self) -> Provenance:
        return Provenance(pretext=self.model_dump(mode="json"))

    @property
    def key(self) -> str:
        return f"fit.kind={self.kind}"

    @property
    def sampled(self) -> int:
        """The maximum number of images for ``initialize``; 0 if one pass over all images is enough."""
        return 0 if self.one_pass else START_IMAGES

    def sample_rows(self, images: int, seed: int) -> Tensor:
        """The rows, out of ``images``, that ``initialize`` gets: at most ``sampled``, evenly spaced, int64."""
        return even_rows(images, self.sampled)

    @abstractmethod
    def encoder_config(self) -> EncoderConfig:
        """The encoder to fit."""

    @property
    @abstractmethod
    def learner(self) -> type[LinearLearner]:
        """The learner that fits the encoder."""

    def build(self, image_size: int, augment: AugmentConfig, world: World, seed: int) -> LinearLearner:
        seed_step(seed, 0)
        encoder, _ = check_all(
            lambda: build_encoder(self.encoder_config(), image_size=image_size), lambda: self._check_alone(world)
        )
        return self.learner(encoder, self, augment, world, seed)

    def _check_alone(self, world: World) -> None:
        if world.size > 1:
            raise UserError(f"{self.key} runs in one process: start it without torchrun")


class Statistics(Protocol):
    """Running sums that a checkpoint keeps."""

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all tensors, by name."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put them back."""


class LinearLearner(MethodLearner):
    """The learner of a method of the linear family.

    Statistics that are not part of the encoder are saved by ``tensors`` and read back by ``restore``. A finished run
    needs them no longer, and they can be far larger than the encoder.

    Attributes:
        fitted: whether the model is from the checkpoint of a finished run, which has no statistics to go on with.
    """

    method: LinearMethod
    statistics: Statistics | None = None
    fitted: bool = False

    def __init__(self, encoder: Encoder, method: LinearMethod, augment: AugmentConfig, world: World, seed: int) -> None:
        self.encoder, self.method, self.augment, self.world, self.seed = encoder, method, augment, world, seed
        self.title = method.title
        encoder.requires_grad_(False)
        self.model = nn.Module()
        self.model.add_module("encoder", encoder)
        self.model.to(world.device)

    @property
    def streams(self) -> bool:
        return self.method.streams

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        return super().tensors() | ({"statistics": self.statistics.state_dict()} if self.statistics else {})

    def restore(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.fitted = FITTED in groups
        super().restore({"model": groups[FITTED]} if self.fitted else groups)
        if self.statistics and not self.fitted:
            self.statistics.load_state_dict(groups["statistics"])

    def final_tensors(self) -> dict[str, Mapping[str, Tensor]] | None:
        return {FITTED: self.model.state_dict()} if self.statistics else None

    @property
    def description(self) -> str:
        return f"encoder {self.encoder.name}, method {self.title}"

    @torch.no_grad()
    def start(self) -> None:
        if not self.method.sampled:
            return
        sample = self.sample(self.images)
        if not self.method.streams:
            log.info("%s is fitted on a sample of %s images (seed %d)", self.method.key, f"{len(sample):,}", self.seed)
        self.initialize(sample)

    def initialize(self, sample: Tensor) -> None:
        """Fit what is needed before the first batch on a sample of training images ``[N 3 S S]`` in [0, 1].

        Methods that do not stream are completely fitted here.
        """

    def sample(self, images: Images) -> Tensor:
        """The sample for ``initialize``, ``[N 3 S S]`` in [0, 1], at the encoder's size, on the device."""
        rows, size = self.method.sample_rows(len(images), self.seed), self.encoder.image_size
        return to_float(images.rows(rows).to(self.world.device))[:, :, :size, :size]

    @torch.no_grad()
    def step(self, batch: Batch, step: int) -> StepResult:
        if self.fitted:
            raise UserError(
                f"{self.method.key}: this run is finished, and cannot learn more; start over with another out"
            )
        seed_step(self.seed, step)
        images = self.augment(batch.images.to(self.world.device, non_blocking=True))  # uint8 0..255 -> float 0..1
        losses, numbers = self.learn(images, step, batch.index)
        return StepResult(_double(losses), _double(numbers))

    @abstractmethod
    def learn(self, images: Tensor, step: int, index: Tensor) -> StepResult:
        """Learn from float images ``[B 3 S S]`` in [0, 1], which are the rows ``index`` ``[B]`` of the source."""

    def restored(self, images: Tensor) -> tuple[Example, Tensor] | None:
        found = self.reconstruct(images)
        return None if found is None else (Example(input=images, clean=images, target=images), found[0])


class SampledMethod(LinearMethod, ABC):
    """A method that is fitted on one bounded sample, without steps; a resumed run fits it again."""

    sample: int = Field(default=5000, ge=2, le=MANY)
    """Largest number of images to fit on."""

    @property
    def streams(self) -> bool:
        return False

    @property
    def sampled(self) -> int:
        return self.sample


class SampleLearner(LinearLearner):
    """The learner of a sampled method."""

    def learn(self, images: Tensor, step: int, index: Tensor) -> StepResult:
        raise AssertionError(f"{self.method.kind} does not stream")


def component_problems(components: int, image_size: int, images: int) -> list[str]:
    """Problems of fitting a linear code of ``components`` numbers on this many images of this size."""
    numbers = 3 * image_size**2
    if components <= min(numbers, images - 1):
        return []
    if components > numbers:
        return [
            f"fit.components={components}: images of {image_size} px have {numbers:,} values and allow no more "
            "components; lower it, or raise data.image_size"
        ]
    return [
        f"fit.components={components} needs at least {components + 1:,} images, but there are {images:,}; lower it, or "
        "use more (data.source, data.limit)"
    ]


@contextmanager
def user_errors(method: LinearMethod) -> Iterator[None]:
    """Turn a ``ValueError`` of the mathematics into a ``UserError`` that names the method."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"fit.kind={method.kind}: {error}") from None


def _double(numbers: Mapping[str, Tensor]) -> Named:
    return {name: value.double() for name, value in numbers.items()}

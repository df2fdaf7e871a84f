"""The contract of methods that are fitted by a rule of their own instead of a gradient: the linear family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from common.config import Config
from common.encoders import Encoder, EncoderConfig, build_encoder
from common.engine.learner import Learner, Named
from pretrain.report.explained import Explained

START_IMAGES = 2048  # a sample for what has to be known before the first batch: centre, whitening, first atoms


class Fit(Config, ABC):
    """Settings of one method; ``learner`` makes what learns by them.

    Attributes:
        one_pass: whether every image is to be seen once, so that ``epochs`` can only be 1.
    """

    kind: str
    one_pass: ClassVar[bool] = False

    @property
    def streams(self) -> bool:
        """Whether it learns from batches, any number of them; others from one bounded sample (``sampled``)."""
        return True

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"fit.kind={self.kind}"

    @property
    def sampled(self) -> int:
        """How many images ``FitLearner.start`` is shown at most; the field ``sample`` of methods that have one."""
        return int(getattr(self, "sample", START_IMAGES))

    def sample_rows(self, images: int, seed: int) -> Tensor:
        """Which of so many ``images`` ``FitLearner.start`` is shown: at most ``sampled``, evenly spread, int64."""
        return even_rows(images, self.sampled)

    def check(self, image_size: int, images: int) -> list[str]:
        """What makes these settings unfit for so many ``images`` of this side, known before any is decoded."""
        return []

    def loaded_size(self, image_size: int) -> int:
        """Side of the images to load for an encoder of ``image_size``."""
        return image_size

    @abstractmethod
    def encoder_config(self) -> EncoderConfig:
        """The encoder to be fitted."""

    @abstractmethod
    def learner(self, encoder: Encoder, seed: int, total: int) -> FitLearner:
        """What fits ``encoder``, which ``build`` made; ``total`` images are there."""

    def build(self, image_size: int) -> Encoder:
        """The encoder, not yet fitted; its weights start from torch's global generator.

        Raises:
            UserError: it cannot serve at this image size.
        """
        return build_encoder(self.encoder_config(), image_size=image_size)


class FitLearner(Learner):
    """A method at work. Statistics that are not part of the encoder are kept by ``tensors`` and ``restore``.

    Attributes:
        encoder: what is fitted and exported.
    """

    encoder: Encoder

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.model = encoder, nn.Module()
        self.model.add_module("encoder", encoder)
        encoder.requires_grad_(False)

    def to(self, device: torch.device) -> None:
        """Move model and statistics."""
        self.model.to(device)

    def start(self, sample: Tensor, other: Tensor | None) -> None:
        """What has to be known before the first batch, from a sample of training images ``[N 3 S S]`` in [0, 1].

        Methods that do not stream are done with this. ``other`` is the second view or domain, where there is one.
        """

    def step(self, examples: Iterable[Tensor], count: int, rate: float, step: int) -> tuple[Named, Named]:
        """Learn from float images ``[B 3 S S]`` in [0, 1]; CCA's ``[B 6 S S]`` hold both views."""
        parts = [self.learn(images, step) for images in examples]
        losses, others = ([part[place] for part in parts] for place in (0, 1))
        return _means(losses), _means(others)

    @abstractmethod
    def learn(self, images: Tensor, step: int) -> tuple[Named, Named]:
        """One batch; losses and other numbers by name."""

    def reconstruct(self, images: Tensor) -> Tensor | None:
        """Images ``[B 3 S S]`` as their codes give them back, same shape and scale; None where a code gives none."""
        return None

    def explain(self, images: Tensor) -> Explained | None:
        """Atoms, and codes of patches of some images ``[N 3 S S]``; None where a code has no atoms."""
        return None


def even_rows(length: int, count: int) -> Tensor:
    """At most ``count`` of the rows 0..length-1, evenly spread, int64: of a folder sorted by class, some of each."""
    return torch.linspace(0, length - 1, min(length, count), dtype=torch.float64).round().long()


def check_components(components: int, image_size: int, images: int) -> list[str]:
    """Why a linear code of ``components`` numbers cannot be fitted on so many images of this side; or nothing."""
    numbers = 3 * image_size**2
    if components <= min(numbers, images - 1):
        return []
    if components > numbers:
        return [
            f"fit.components={components}: images of {image_size} px have {numbers:,} numbers and allow no more "
            "components; lower it, or raise data.image_size"
        ]
    return [
        f"fit.components={components}: it takes at least {components + 1:,} images, there are {images:,}; lower it, or "
        "give more (data.source, data.limit)"
    ]


def _means(parts: list[Named]) -> Named:
    return {name: torch.stack([part[name].double() for part in parts]).mean() for name in parts[0]}

"""The contract of a method: settings that say what they need, and build what learns from images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import JsonValue
from torch import Tensor

from common.augment import AugmentConfig
from common.config import Config
from common.data import Images
from common.encoders import Encoder
from common.engine.learner import Learner
from common.machine.distributed import World
from pretrain.gradient.example import Example
from pretrain.report.explained import Explained

# What a second source (`data.other`) is to a method: of no use; another view of every image, row by row; or images of
# another domain, in any number.
Second = Literal["none", "view", "domain"]


class Method(Config, ABC):
    """A way to learn an encoder from unlabeled images.

    Attributes:
        one_pass: every image is to be seen exactly once, so ``epochs`` can only be 1.
    """

    one_pass: ClassVar[bool] = False

    @property
    @abstractmethod
    def title(self) -> str:
        """What logs and pictures call it, such as ``denoise`` or ``pca``."""

    @property
    @abstractmethod
    def key(self) -> str:
        """What messages call it, such as ``pretext.kind=denoise`` or ``fit.kind=pca``."""

    @property
    def streams(self) -> bool:
        """Whether it learns from batches, any number of them; others learn from one bounded sample."""
        return True

    @property
    def second(self) -> Second:
        """What it can use a second source for."""
        return "none"

    @property
    def needs(self) -> str:
        """What to say where there is no second source, called ``{other}``; empty where the method does without."""
        return ""

    def check_second(self, given: bool, other: str) -> list[str]:
        """What is wrong with having, or not having, a second source, which the user knows as ``other``."""
        if self.needs and not given:
            return [self.needs.format(other=other)]
        return [f"{other} is of no use to {self.key}: remove it"] if given and self.second == "none" else []

    @property
    def fixed_length(self) -> str:
        """Why nobody can choose how long it learns; empty for methods that learn from any number of batches."""
        if self.one_pass:
            return f"{self.key} makes exactly one pass"
        return "" if self.streams else f"{self.key} is fitted on one sample"

    def loaded_size(self, image_size: int) -> int:
        """Side of the images to load for an encoder of ``image_size``."""
        return image_size

    def check(self, image_size: int, images: int) -> list[str]:
        """What makes these settings unfit for so many ``images`` of this side, known before any is decoded."""
        return []

    @property
    @abstractmethod
    def provenance(self) -> dict[str, JsonValue]:
        """What the exported encoder says of how it was learned: its ``pretext``, and settings worth knowing."""

    @abstractmethod
    def build(self, image_size: int, augment: AugmentConfig, world: World, seed: int) -> MethodLearner:
        """What learns, on the device; its weights start as a function of ``seed``, the same in every process.

        Raises:
            UserError: the settings do not go check_all, or not with images of this size.
        """


class MethodLearner(Learner):
    """A method at work: a learner whose encoder is exported.

    Attributes:
        title: the method's.
        encoder: what is learned and exported.
        images: what it learns from, and ``other``, the second source where there is one; see ``attach``.
    """

    title: str
    encoder: Encoder
    images: Images
    other: Images | None = None

    def attach(self, images: Images, other: Images | None = None) -> None:
        """Say what it is to learn from, before ``start``."""
        self.images, self.other = images, other

    def restored(self, images: Tensor) -> tuple[Example, Tensor] | None:
        """Images ``[B 3 S S]`` in [0, 1] -> damaged, and restored, RGB in [0, 1]; None where there is nothing to show.

        The same images are damaged in the same way at every call.
        """
        return None

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor] | None:
        """Undamaged images ``[N 3 S S]`` in [0, 1] as their codes give them back, same shape and scale.

        With them comes what the error is relative to: the images less the mean that the method takes out, ``[N ...]``.
        None where a code gives no image.
        """
        return None

    def reconstruction_error(self, images: Tensor) -> float | None:
        """``Σ ‖x − x̂‖² / Σ ‖x − mean‖²`` of images ``[N 3 S S]`` in [0, 1]; None where a code gives no image."""
        found = self.reconstruct(images)
        if found is None:
            return None
        restored, centred = (part.double().cpu() for part in found)
        tiny = torch.finfo(torch.float64).tiny
        return float((images.cpu() - restored).square().sum() / centred.square().sum().clamp_min(tiny))

    def explain(self, images: Tensor) -> Explained | None:
        """Atoms, and codes of patches of some images ``[N 3 S S]``; None where a code has no atoms."""
        return None

    @property
    def discrepancy(self) -> dict[str, float] | None:
        """Maximum mean discrepancy of two domains, by code; None for methods of one domain."""
        return None

"""The method contract: settings that declare what they need, and build a learner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from common.augment import AugmentConfig
from common.config import Config
from common.data import Images
from common.encoders import Encoder
from common.encoders.provenance import Provenance
from common.engine.learner import Learner
from common.engine.settings import StopConfig
from common.machine.distributed import World
from pretrain.gradient.example import Example, Trial
from pretrain.report.explained import Explained
from pretrain.ruler.restorers import Restorer

# How a method uses a second source (`data.other`): not at all; as another view of every image, row by row; or as
# images of another domain, any number of them.
Second = Literal["none", "view", "domain"]


DECODER = "decoder"  # the folder of a kept decoder in the folder of its run
ALIKE = 1e-6  # images closer to their mean than this (root mean square, of [0, 1]) differ only by rounding


class Method(Config, ABC):
    """A way to learn an encoder from unlabeled images.

    Attributes:
        one_pass: every image must be seen exactly once, so ``epochs`` must be 1.
    """

    one_pass: ClassVar[bool] = False

    @property
    @abstractmethod
    def title(self) -> str:
        """Its name in logs and pictures, such as ``denoise`` or ``pca``."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Its name in messages, such as ``pretext.kind=denoise`` or ``fit.kind=pca``."""

    @property
    def streams(self) -> bool:
        """Whether it learns from any number of batches; other methods learn from one bounded sample."""
        return True

    @property
    def second(self) -> Second:
        """How it uses a second source."""
        return "none"

    @property
    def needs(self) -> str:
        """The message if a second source, called ``{other}``, is needed but missing; empty if none is needed."""
        return ""

    def check_second(self, given: bool, other: str) -> list[str]:
        """Problems with a given or missing second source, which the user knows as ``other``."""
        if self.needs and not given:
            return [self.needs.format(other=other)]
        return [f"{self.key} does not use {other}: remove it"] if given and self.second == "none" else []

    @property
    def fixed_length(self) -> str:
        """Why the number of steps is fixed; empty for methods that learn from any number of batches."""
        if self.one_pass:
            return f"{self.key} makes exactly one pass"
        return "" if self.streams else f"{self.key} is fitted on one sample"

    def loaded_size(self, image_size: int) -> int:
        """Side of the images to load for an encoder of ``image_size``."""
        return image_size

    def check(self, image_size: int, images: int) -> list[str]:
        """Problems of these settings with this many ``images`` of this size, known before any is decoded."""
        return []

    @property
    @abstractmethod
    def provenance(self) -> Provenance:
        """What the exported encoder records about its training: its ``pretext`` and the relevant settings."""

    @abstractmethod
    def build(self, image_size: int, augment: AugmentConfig, world: World, seed: int) -> MethodLearner:
        """Build the learner on the device. Its initial weights depend only on ``seed``, in every process.

        Raises:
            UserError: the settings do not fit together, or do not fit images of this size.
        """


class MethodLearner(Learner):
    """The learner of a method. Its encoder is exported.

    Attributes:
        title: the method's title.
        encoder: the encoder that is trained and exported.
        images, other: the training images, and the second source if there is one; see ``attach``.
        held: images held out of training, to measure on; None if there are none.
        stop: when training ends before its last step.
    """

    title: str
    encoder: Encoder
    images: Images
    other: Images | None = None
    held: Images | None = None
    stop: StopConfig = StopConfig()

    @property
    @abstractmethod
    def description(self) -> str:
        """One line about the encoder and what trains it, for the log."""

    def attach(self, images: Images, other: Images | None = None) -> None:
        """Set the images to learn from and to hold out. Call it before ``start``.

        Raises:
            UserError: it cannot learn from these images.
        """
        self.images, self.other = images, other

    def restored(self, images: Tensor) -> tuple[Example, Tensor] | None:
        """Images ``[B 3 S S]`` in [0, 1] -> damaged and restored RGB in [0, 1]; None if there is nothing to show.

        Every call damages the same images in the same way.
        """
        return None

    @property
    def spared(self) -> str:
        """The images that have nothing to restore, as in "without color"; empty if all have."""
        return ""

    @property
    def restorers(self) -> tuple[Restorer, ...]:
        """The trivial restorers that it is compared with; empty if it restores nothing."""
        return ()

    def damaged(self, chunks: Iterable[Tensor]) -> Iterator[Example]:
        """Chunks of images ``[n 3 S S]`` in [0, 1] -> damaged, on the encoder's device; none if it restores nothing.

        Every call damages the same images in the same way.
        """
        return iter(())

    def trials(self, chunks: Iterable[Tensor], shown: int) -> Iterator[Trial]:
        """Chunks that are damaged as by ``damaged`` -> scored by the network, on its device.

        Args:
            shown: the chunks that hold the first ``shown`` images come with restored images.
        """
        return iter(())

    def aided(self, restored: Tensor, example: Example) -> Tensor:
        """What a trivial restorer made of an example, RGB ``[B 3 S S]``, with the help that the network gets."""
        return restored

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor] | None:
        """Reconstruct undamaged images ``[N 3 S S]`` in [0, 1] from their codes, same shape and scale.

        Also returns the reference of the relative error: the images minus the mean that the method subtracts,
        ``[N ...]``. None if codes cannot be decoded to images.
        """
        return None

    def reconstruction_error(self, images: Tensor) -> float | None:
        """``Σ ‖x − x̂‖² / Σ ‖x − mean‖²`` of images ``[N 3 S S]`` in [0, 1].

        None if codes give no images, or if the images are all alike: then the ratio has no meaning.
        """
        found = self.reconstruct(images)
        if found is None:
            return None
        restored, centered = (part.double().cpu() for part in found)
        if centered.square().mean() <= ALIKE**2:
            return None
        return float((images.cpu() - restored).square().sum() / centered.square().sum())

    def explain(self, images: Tensor) -> Explained | None:
        """Atoms, and codes of patches of images ``[N 3 S S]``; None if the code has no atoms."""
        return None

    def notes(self, images: Tensor) -> list[str]:
        """What a reader of the results must know, such as what did not converge; empty if there is nothing.

        Args:
            images: a sample of training images ``[N 3 S S]`` in [0, 1].
        """
        return []

    def keep(self, folder: Path, *, source: str, encoder_sha256: str) -> bool:
        """Write what is needed to restore pictures later to ``folder``; returns whether there is anything to write.

        Args:
            source: the images that it learned from, as the user named them.
            encoder_sha256: the sha256 of the exported encoder.
        """
        return False

    @property
    def discrepancy(self) -> dict[str, float] | None:
        """Maximum mean discrepancy between two domains, by code; None for methods with one domain."""
        return None

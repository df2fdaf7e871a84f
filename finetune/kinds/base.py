"""What a probe asks of each kind of labels: one class per image, several labels per image, or a mask per image.

LabelKind   a data set whose images are labeled in this way: how it is opened, measured and written
Measured    one subject on one task: chosen on training images, tested once

``finetune/probe.py`` drives all kinds alike: it says which subjects are measured, compares them with the encoder,
checks that they stay frozen, and keeps classifiers and answers. No other module asks which kind it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

from common.encoders.base import Encoder
from common.encoders.provenance import Provenance
from finetune.classifier import Saved
from finetune.config import ProbeConfig
from finetune.data import Pair
from finetune.features import Extraction
from finetune.heads import Head
from finetune.multilabel.data import ProbeData
from finetune.records import Checks, CodeProperties, DataFacts, EncoderFacts, NullCheck
from finetune.results import ProbeResult
from finetune.structured_results import DenseResult, LabelResult
from finetune.subjects import Spaces, Subject
from finetune.tracked import Sheet


class Opened(Protocol):
    """Opened training and test sources: ``Sources``, or ``MaskedSources``."""

    @property
    def split(self) -> bool:
        """Whether both are parts of one source without a test set, which the seed draws."""

    def inputs(self, key: str = "data") -> dict[str, str]:
        """Their fingerprints, by the setting ``key`` that names them."""


@dataclass(frozen=True, kw_only=True)
class Measured(ABC):
    """One subject on one task."""

    head: Head | None  # the linear classifier; that of the encoder is kept
    null: NullCheck | None  # of the encoder, if it is checked

    @abstractmethod
    def compared(self, others: Mapping[str, Self]) -> Self:
        """A copy with its comparison with each of the others, on the same test images."""


class Shared(NamedTuple):
    """What the driver knows of a result, whatever the kind of its labels."""

    data: DataFacts
    encoder: EncoderFacts
    code: CodeProperties | None
    checks: Checks


X = TypeVar("X", bound=Opened)
M = TypeVar("M", bound=Measured)
A = TypeVar("A")  # what the subjects answered for each test image, as `save` writes it


@dataclass(frozen=True)
class Ready(Generic[X]):
    """A data set that is open and checked, and the features to choose from; no image is decoded."""

    kind: type[LabelKind[X, Any, Any]]
    data: ProbeData
    sources: X
    spaces: Spaces


@dataclass(frozen=True)
class LabelKind(ABC, Generic[X, M, A]):
    """One data set of a probe, decoded, whose images are labeled in one way."""

    part: ClassVar[Literal["results", "multilabel", "dense"]]  # where its results are in a `ProbeReport`

    config: ProbeConfig
    data: ProbeData
    spaces: Spaces  # of the encoder

    # ---- before anything is written

    @classmethod
    @abstractmethod
    def open(cls, config: ProbeConfig, data: ProbeData) -> X:
        """Open the images, and check their labels.

        Raises:
            UserError: with every problem.
        """

    @classmethod
    @abstractmethod
    def choices(cls, config: ProbeConfig, image_size: int | None, encoder: Encoder) -> Spaces:
        """The features to choose from, of images of ``image_size`` pixels or the encoder's.

        Raises:
            UserError: the encoder has no such layers, or supports no images of that size.
        """

    @classmethod
    @abstractmethod
    def load(cls, config: ProbeConfig, ready: Ready[X], size: int, trained_on: Provenance) -> Self:
        """Decode the images at ``size`` pixels.

        Raises:
            UserError: too few of them can be read.
        """

    # ---- what is measured

    @property
    @abstractmethod
    def pair(self) -> Pair:
        """Training and test images. All are readable."""

    @property
    @abstractmethod
    def tasks(self) -> tuple[str, ...]:
        """Each has a result of its own."""

    @abstractmethod
    def pixels(self) -> Subject:
        """The baseline of raw pixels."""

    @abstractmethod
    def measure(self, subject: Subject, how: Extraction) -> dict[str, M]:
        """By task: choose on training images, fit on all of them, and test once."""

    def checked(self, subject: Subject) -> bool:
        """Whether it is to be tried with labels at random."""
        return self.config.null_check and subject.is_encoder

    # ---- what is written

    @abstractmethod
    def result(self, task: str, measured: Mapping[str, M], shared: Shared) -> ProbeResult | LabelResult | DenseResult:
        """The result of a task, of all subjects."""

    @abstractmethod
    def saved(self, task: str) -> Saved:
        """What the encoder's classifier of a task answers."""

    @abstractmethod
    def answered(self, task: str, measured: Mapping[str, M]) -> A:
        """What all subjects answered for each test image."""

    @classmethod
    @abstractmethod
    def save(cls, folder: Path, found: Sequence[Sequence[A]]) -> None:
        """Write the answers for each data set of this kind, of which there is one at least, by task."""

    def sheets(self, found: Sequence[A]) -> tuple[Sheet, ...]:
        """Images with the answers for them, by task, for W&B; none by default."""
        return ()


AnyKind = LabelKind[Any, Any, Any]
AnyReady = Ready[Any]

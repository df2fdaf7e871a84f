"""Settings of the pretraining stage: data, the loop, and one method, with gradient descent or its own fitting rule."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from common.augment import WHOLE, AugmentConfig
from common.config import MANY, Config, ProblemsError
from common.data.images import Cache
from common.data.levels import LevelsSetting
from common.encoders.config import StartConfig
from common.engine.settings import LoopConfig
from common.machine.cores import usable_cores
from common.runs.seeds import Repeated
from pretrain.gradient.method import Gradient
from pretrain.linear import AnyLinear
from pretrain.method import DECODER, Method
from pretrain.ruler.watch import WatchConfig


class DataConfig(Config):
    """Unlabeled images: labels are neither needed nor read."""

    short: ClassVar[str] = "source"

    source: str = Field(default="shapes", min_length=1)
    """A folder, or another source of images."""
    image_size: int = Field(default=32, ge=8, le=1024)
    """Side in px: the shorter side is resized to it, the center cropped."""
    limit: int | None = Field(default=None, gt=0, le=MANY)
    """Use this many images only."""
    workers: int = Field(default_factory=usable_cores, ge=0, le=1024)
    """Decoding processes; by default one per core."""
    cache: Cache = "auto"
    """Keep decoded images in memory; auto: if they fit comfortably."""
    image: str | None = None
    """Column of images, if it is not the obvious one."""
    root: str | None = None
    """Folder for downloads."""
    levels: LevelsSetting | None = None
    """Black and white of images of more than 8 bits, as [0, 4095]; by default, a sample of `source` decides."""
    other: str | None = None
    """A second source: CCA's second view, row by row, or TCA's second domain."""


class PretrainConfig(Repeated, LoopConfig):
    """``retouch pretrain``: fit an encoder on unlabeled images.

    An autoencoder is trained by gradient descent (``encoder``, ``decoder``, ``pretext``, ``penalty``). With ``fit``, a
    method of the linear family is fitted by its own rule.
    """

    stage: ClassVar[str] = "pretrain"
    writes: ClassVar[tuple[str, ...]] = (*LoopConfig.loop_writes, *Repeated.writes, "panels", "encoder", DECODER)
    free_keys: ClassVar[frozenset[str]] = (
        Repeated.free_keys | LoopConfig.loop_free_keys | {"data.workers", "data.cache", "watch"}
    )

    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    panels_every: int = Field(default=1000, gt=0, le=MANY)
    """Steps between two panels of original, damaged and restored images, and between two measurements."""
    watch: WatchConfig | None = None
    """Labeled images for a cheap accuracy at every panel: `watch.data=my/labeled`."""

    @classmethod
    def variant(cls, values: Mapping[str, Any]) -> type[PretrainConfig]:
        """The subclass that the settings select."""
        if cls is not PretrainConfig:
            return cls
        return LinearPretraining if values.get("fit") is not None else GradientPretraining

    @property
    @abstractmethod
    def method(self) -> Method:
        """The method that learns."""

    @property
    def start(self) -> StartConfig | None:
        """The exported encoder that it starts from; ``None`` for a new network."""
        return None

    @model_validator(mode="after")
    def _second_source_is_used(self) -> Self:
        if problems := self.method.check_second(self.data.other is not None, "data.other"):
            raise ProblemsError(problems)
        return self


class GradientPretraining(PretrainConfig, Gradient):
    """An autoencoder, trained by gradient descent."""

    # a run that has become flat may be ended, and an encoder that has moved is known by its sha256
    free_keys: ClassVar[frozenset[str]] = PretrainConfig.free_keys | {"stop", "encoder.path"}

    @property
    def method(self) -> Gradient:
        return self

    @property
    def start(self) -> StartConfig | None:
        return None if self.encoder.path is None else self.encoder


class LinearPretraining(PretrainConfig):
    """A method of the linear family: it has its own encoder, sees whole images, and runs for one epoch by default."""

    fit: AnyLinear
    augment: AugmentConfig = WHOLE
    epochs: float | None = Field(default=None, ge=1e-6, le=1e6)
    """Length of training in passes over the images; 1 unless steps is set."""

    @property
    def method(self) -> AnyLinear:
        return self.fit

    @classmethod
    def about_unknown(cls, key: str) -> str:
        if key not in Gradient.model_fields:
            return ""
        return "only autoencoders, which are trained by gradient descent, use it: remove it, or remove `fit`"

    @model_validator(mode="before")
    @classmethod
    def _one_epoch(cls, values: Any) -> Any:
        if isinstance(values, dict) and not (values.get("steps") or values.get("epochs")):
            return {**values, "epochs": 1}
        return values

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        problems = []
        if self.fit.fixed_length and (self.steps is not None or self.epochs != 1):
            problems.append(f"{self.fit.fixed_length}: remove steps; remove epochs or set epochs=1")
        if self.augment != WHOLE and not self.fit.streams:
            problems.append(f"{self.fit.key} does not augment its sample: remove augment")
        if self.watch is not None and not self.fit.streams:
            problems.append(f"{self.fit.key} learns in one step, so there is nothing to watch: remove watch")
        if self.augment != WHOLE and self.fit.second == "view":
            problems.append(f"{self.fit.key} pairs images without augmentation: remove augment")
        if problems:
            raise ProblemsError(problems)
        return self

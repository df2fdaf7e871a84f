"""Configs of the transfer stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from common.augment import AugmentConfig
from common.config import Config
from common.corruptions import AnyCorruption, Gaussian, Gray, Holes
from common.encoders import EncoderConfig
from common.engine.settings import GradientConfig, LoopConfig
from common.machine.precision import Precision
from common.runs.folder import StageConfig
from finetune.data import LabelledData
from finetune.probes import AnyProbe, Linear, Nearest, Probe, Search
from finetune.probes.search import LayerChoice, PoolingName


class LinearConfig(Linear, Search):
    """The linear probe, and what all probes may choose among on the validation split."""


class BaselineConfig(Config):
    """What the encoder is measured against."""

    random_init: bool = True  # the same network, never trained
    pixels: bool = True  # no network


class ProbeConfig(StageConfig):
    """``retouch probe``: measure a frozen encoder on labelled tasks."""

    stage: ClassVar[str] = "probe"
    free_keys: ClassVar[frozenset[str]] = StageConfig.free_keys | {"data.workers", "data.cache"}

    encoder: Path
    precision: Precision = "auto"
    data: LabelledData = LabelledData()
    more_data: tuple[LabelledData, ...] = ()  # further data sets for the same encoder
    probe: LinearConfig = LinearConfig()
    knn: Nearest | None = Nearest()  # null leaves it out: with wide features its bank costs most
    more_probes: tuple[AnyProbe, ...] = ()  # further ones, named by their kind
    baselines: BaselineConfig = BaselineConfig()
    # The chosen linear probe, not fitted again, on damaged test images: is the representation robust?
    damage: tuple[AnyCorruption, ...] = (Gaussian(sigma=0.1), Gray(), Holes(ratio=0.25))
    properties: bool = True  # how compact and how invariant the code is: results.json, "code"
    feature_cache: bool = True
    cache_folder: Path | None = None  # of features; RETOUCH_CACHE or ~/.cache/retouch by default

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = ["linear", *(["knn"] if self.knn else []), *(one.kind for one in self.more_probes)]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise ValueError(f"more_probes: there is already a probe named {', '.join(double)}; give each kind once")
        return self

    @property
    def probes(self) -> dict[str, Probe]:
        """All probes by their name in results, the linear one first."""
        nearest: dict[str, Probe] = {} if self.knn is None else {"knn": self.knn}
        return {"linear": self.probe, **nearest, **{one.kind: one for one in self.more_probes}}


class EmbedData(Config):
    """Images to embed; labels are written where there are some."""

    source: str = Field(default="shapes", min_length=1)
    task: str | None = None
    image_size: int | None = Field(default=None, ge=8, le=1024)
    limit: int | None = Field(default=None, gt=0)
    workers: int = Field(default=0, ge=0)
    image: str | None = None
    label: str | None = None
    root: str | None = None


class EmbedConfig(StageConfig):
    """``retouch embed``: features of a frozen encoder as ``OUT/features.parquet``."""

    stage: ClassVar[str] = "embed"
    writes: ClassVar[tuple[str, ...]] = (*StageConfig.writes, "features.parquet")
    free_keys: ClassVar[frozenset[str]] = StageConfig.free_keys | {"data.workers"}

    encoder: Path
    precision: Precision = "auto"
    data: EmbedData = EmbedData()
    layer: LayerChoice = -1
    pooling: PoolingName = "avg"
    store: Literal["dense", "sparse"] = "dense"  # all features, or the non-zeros with their indices


class StartConfig(EncoderConfig):
    """What fine-tuning starts from: an exported folder, or a network named here.

    ``encoder=PATH`` means ``encoder.path=PATH``.
    """

    path: Path | None = None  # an exported encoder; without it the network is built from name and model_args
    from_scratch: bool = False  # the same architecture at random initialisation
    image_size: int | None = Field(
        default=None, ge=8, le=1024
    )  # of a network named here; an exported one knows its own

    @model_validator(mode="after")
    def _has_a_start(self) -> Self:
        if self.path is None and not self.from_scratch and not self.pretrained:
            raise ValueError("give encoder=PATH of an exported encoder, or encoder.from_scratch=true")
        return self


class CompareConfig(Config):
    """What the fine-tuned encoder is compared with. Not run when it starts from scratch itself."""

    linear_probe: bool = True  # the frozen encoder under a linear probe
    from_scratch: bool = True  # the same network and recipe from random initialisation


class FinetuneConfig(StageConfig, GradientConfig):
    """``retouch finetune``: train the whole encoder with a new head on labelled images."""

    stage: ClassVar[str] = "finetune"
    writes: ClassVar[tuple[str, ...]] = (
        *LoopConfig.loop_writes,
        *StageConfig.writes,
        "classifier",
        "encoder",
        "linear_probe",
        "from_scratch",
    )
    free_keys: ClassVar[frozenset[str]] = (
        StageConfig.free_keys | LoopConfig.loop_free_keys | {"data.workers", "data.cache"}
    )

    encoder: StartConfig
    data: LabelledData = LabelledData()
    augment: AugmentConfig = AugmentConfig()
    layer_decay: float = Field(default=0.75, gt=0, le=1)  # learning rate of each layer, relative to the one after it
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    validation: float = Field(default=0.1, gt=0, lt=1)  # share of the training set on which the best step is chosen
    evaluate_every: int = Field(default=200, gt=0)  # steps between two looks at it
    compare: CompareConfig = CompareConfig()

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("encoder"), (str, Path)):
            return {**values, "encoder": {"path": values["encoder"]}}
        return values

    @model_validator(mode="after")
    def _one_task(self) -> Self:
        if isinstance(self.data.task, list):
            raise ValueError("data.task: fine-tuning learns one task at a time; give one name")
        return self

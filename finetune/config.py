"""Configs of the transfer stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from common.augment import AugmentConfig
from common.config import Config
from common.corruptions import AnyCorruption, Gaussian, Gray, Holes
from common.data.levels import LevelsSetting
from common.encoders import EncoderConfig
from common.engine.settings import GradientConfig, LoopConfig
from common.machine.precision import Precision
from common.runs.folder import StageConfig
from finetune.data import LabelledData
from finetune.probes import AnyProbe, Linear, Nearest, Probe, Search
from finetune.probes.search import LayerChoice, PoolingName


class LinearConfig(Linear, Search):
    """The linear probe, and the search space that all probes share."""


class BaselineConfig(Config):
    """The baselines that the encoder is compared with."""

    random_init: bool = True  # the untrained twin
    pixels: bool = True  # raw pixels


class ProbeConfig(StageConfig):
    """``retouch probe``: evaluate a frozen encoder on labelled tasks."""

    stage: ClassVar[str] = "probe"
    free_keys: ClassVar[frozenset[str]] = StageConfig.free_keys | {"data.workers", "data.cache"}

    encoder: Path
    precision: Precision = "auto"
    data: LabelledData = LabelledData()
    more_data: tuple[LabelledData, ...] = ()  # further data sets for the same encoder
    probe: LinearConfig = LinearConfig()
    knn: Nearest | None = Nearest()  # null skips it: with wide features it is the most expensive probe
    more_probes: tuple[AnyProbe, ...] = ()  # further probes, named after their kind
    baselines: BaselineConfig = BaselineConfig()
    # Robustness: evaluate the chosen linear probe on damaged test images, without refitting.
    damage: tuple[AnyCorruption, ...] = (Gaussian(sigma=0.1), Gray(), Holes(ratio=0.25))
    properties: bool = True  # compactness and invariance of the code: "code" in results.json
    feature_cache: bool = True
    cache_folder: Path | None = None  # for features; RETOUCH_CACHE or ~/.cache/retouch by default

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = ["linear", *(["knn"] if self.knn else []), *(one.kind for one in self.more_probes)]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise ValueError(f"more_probes: there is already a probe named {', '.join(double)}; give each kind once")
        return self

    @property
    def probes(self) -> dict[str, Probe]:
        """All probes by their name in the results, the linear probe first."""
        nearest: dict[str, Probe] = {} if self.knn is None else {"knn": self.knn}
        return {"linear": self.probe, **nearest, **{one.kind: one for one in self.more_probes}}


class EmbedData(Config):
    """The images to embed. Labels are written if the source has any."""

    source: str = Field(default="shapes", min_length=1)
    task: str | None = None
    image_size: int | None = Field(default=None, ge=8, le=1024)
    limit: int | None = Field(default=None, gt=0)
    workers: int = Field(default=0, ge=0)
    image: str | None = None
    label: str | None = None
    root: str | None = None
    levels: LevelsSetting | None = None


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
    store: Literal["dense", "sparse"] = "dense"  # all features, or only the non-zeros with their indices


class StartConfig(EncoderConfig):
    """Where fine-tuning starts: an exported encoder, or a network named here.

    ``encoder=PATH`` means ``encoder.path=PATH``.
    """

    path: Path | None = None  # an exported encoder; without it the network is built from name and model_args
    from_scratch: bool = False  # the same architecture at random initialization
    image_size: int | None = Field(
        default=None, ge=8, le=1024
    )  # px, for a network named here; an exported encoder has its own

    @model_validator(mode="after")
    def _has_a_start(self) -> Self:
        if self.path is None and not self.from_scratch and not self.pretrained:
            raise ValueError("set encoder=PATH to an exported encoder, or set encoder.from_scratch=true")
        return self


class CompareConfig(Config):
    """The baselines of the fine-tuned encoder. Skipped if it is trained from scratch itself."""

    linear_probe: bool = True  # a linear probe of the frozen encoder
    from_scratch: bool = True  # the same network and recipe from random initialization


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
    layer_decay: float = Field(default=0.75, gt=0, le=1)  # learning rate of each layer, relative to the next layer
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    validation: float = Field(default=0.1, gt=0, lt=1)  # held-out share of the training set; chooses the best step
    evaluate_every: int = Field(default=200, gt=0)  # steps between evaluations on it
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
            raise ValueError("data.task: fine-tuning trains on one task at a time; give one name")
        return self

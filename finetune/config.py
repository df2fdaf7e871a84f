"""Configs of the transfer stages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from common.augment import AugmentConfig
from common.config import Config
from common.corruptions import AnyCorruption, Gaussian, Gray, Holes
from common.encoders import EncoderConfig
from common.engine.loop import LoopConfig
from common.runs.folder import StageConfig
from finetune.data import LabelledData
from finetune.pooling import POOLINGS


def _poolings(value: str) -> str:
    names = value.split("+")
    if not set(names) <= set(POOLINGS) or len(set(names)) < len(names):
        raise ValueError(f"must be {', '.join(POOLINGS)}, or several joined by '+'")
    return value


def _layer(value: int | str) -> int | str:
    if isinstance(value, str) and value not in ("each", "all") and not re.fullmatch(r"last[1-9][0-9]*", value):
        raise ValueError("must be a layer number, each, all, or lastN")
    return value


PoolingName = Annotated[str, AfterValidator(_poolings)]
LayerChoice = Annotated[int | str, AfterValidator(_layer)]
Strength = Annotated[float, Field(gt=0)]

# Half decades: between neighbours the validation accuracy changes by less than its own error.
STRENGTHS = {
    "logistic": tuple(float(f"{10 ** (exponent / 2):.3g}") for exponent in range(-10, 0)),  # 1e-5 .. 0.316
    "ridge": tuple(float(f"{10 ** (exponent / 2):.3g}") for exponent in range(-6, 6)),  # 1e-3 .. 316
}


class LinearConfig(Config):
    """The linear probe and what it may choose among on the validation split."""

    kind: Literal["logistic", "ridge"] = "logistic"
    layers: tuple[LayerChoice, ...] = Field(default=("each", "last3"), min_length=1)
    poolings: tuple[PoolingName, ...] = Field(default=("avg", "avg+avg2+max"), min_length=1)
    l2: tuple[Strength, ...] | None = None  # strengths; a grid of half decades that suits the kind by default
    validation: float = Field(default=0.1, gt=0, lt=1)  # share of the training set that choices are made on
    max_width: int = Field(default=16384, gt=0)  # features; wider spaces are left out, and named
    # Layers and poolings are compared on at most this many training images; the best `finalists` then on all, and the
    # widest too: few images suit wide features worst.
    search_images: int | None = Field(default=10_000, gt=1)
    finalists: int = Field(default=2, gt=0)

    @model_validator(mode="after")
    def _grid_has_something(self) -> LinearConfig:
        if self.l2 is not None and not self.l2:
            raise ValueError("l2: give at least one strength, or leave it out")
        return self

    @property
    def strengths(self) -> tuple[float, ...]:
        return STRENGTHS[self.kind] if self.l2 is None else self.l2


class NearestConfig(Config):
    """Weighted nearest neighbours beside the linear probe."""

    k: tuple[Annotated[int, Field(gt=0)], ...] = Field(default=(10, 20, 100, 200), min_length=1)
    temperature: float = Field(default=0.07, gt=0)


class BaselineConfig(Config):
    """What the encoder is measured against."""

    random_init: bool = True  # the same network, never trained
    pixels: bool = True  # no network


class ProbeConfig(StageConfig):
    """``retouch probe``: measure a frozen encoder on labelled tasks."""

    stage: ClassVar[str] = "probe"
    free_keys: ClassVar[frozenset[str]] = StageConfig.free_keys | {"data.workers", "data.cache"}

    encoder: Path
    data: LabelledData = LabelledData()
    more_data: tuple[LabelledData, ...] = ()  # further data sets for the same encoder
    probe: LinearConfig = LinearConfig()
    knn: NearestConfig | None = NearestConfig()  # null leaves it out: with wide features its bank costs most
    baselines: BaselineConfig = BaselineConfig()
    # The chosen probe, as it stands, on damaged test images: is the representation resistant?
    damage: tuple[AnyCorruption, ...] = (Gaussian(sigma=0.1), Gray(), Holes(ratio=0.25))
    purposes: bool = True  # how compact, invariant and abstract the code is: results.json, "purposes"
    feature_cache: bool = True
    cache_folder: Path | None = None  # of features; RETOUCH_CACHE or ~/.cache/retouch by default


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
    data: EmbedData = EmbedData()
    layer: LayerChoice = -1
    pooling: PoolingName = "avg"
    store: Literal["dense", "sparse"] = "dense"  # all features of an image, or its non-zeros and where they are


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
    """What stands beside the fine-tuned encoder in the table. Not run when it starts from scratch itself."""

    linear_probe: bool = True  # the frozen encoder under a linear probe
    from_scratch: bool = True  # the same network and recipe from random initialisation


class FinetuneConfig(LoopConfig):
    """``retouch finetune``: train the whole encoder with a new head on labelled images."""

    stage: ClassVar[str] = "finetune"
    writes: ClassVar[tuple[str, ...]] = (*LoopConfig.writes, "classifier", "encoder", "linear_probe", "from_scratch")
    free_keys: ClassVar[frozenset[str]] = LoopConfig.free_keys | {"data.workers", "data.cache"}

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

"""Configs of the transfer stages."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from common.augment import AugmentConfig
from common.config import MANY, Config, HomePath, ProblemsError
from common.corruptions import AnyCorruption, Gaussian, Gray, Holes
from common.data.levels import LevelsSetting
from common.encoders.config import StartConfig
from common.engine.settings import GradientConfig, LoopConfig
from common.machine.precision import Precision
from common.runs.folder import StageConfig
from common.runs.seeds import Repeated
from finetune.classifier import CLASSIFIERS
from finetune.data import LabeledData
from finetune.embedding import EMBEDDING
from finetune.leaks import DUPLICATES
from finetune.multilabel.data import ProbeData
from finetune.multilabel.scores import LABEL_SCORES
from finetune.predictions import PREDICTIONS
from finetune.probes import AnyProbe, Linear, Nearest, Probe, Search
from finetune.probes.search import LayerChoice, PoolingName


class LinearConfig(Linear, Search):
    """The linear probe, and the search space that all probes share."""


class BaselineConfig(Config):
    """The baselines that the encoder is compared with."""

    random_init: bool = True
    """The same network at random initialization."""
    pixels: bool = True
    """Raw pixels."""


FROM_SCRATCH = "from_scratch"  # the folder of networks that are trained for comparison
SHARES = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5)
DAMAGES: tuple[AnyCorruption, ...] = (Gaussian(sigma=0.1), Gray(), Holes(ratio=0.25))


class LabelEfficiencyConfig(Config):
    """The linear probe on draws of the training images, from few to all."""

    shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = Field(default=None, min_length=1)
    """Shares of the training images; by default 1, 2, 5, 10, 25 and 50%. All of them are always added."""
    per_class: tuple[Annotated[int, Field(gt=1, le=MANY)], ...] | None = Field(default=None, min_length=1)
    """Instead of shares: images per class. A class with fewer gives all."""
    draws: int = Field(default=5, gt=0, le=1000)
    """Draws of each size; of a single one, intervals are over test images alone."""
    from_scratch: bool = False
    """Also train the encoder's network from scratch with three of these numbers of labels, which takes minutes each."""
    scratch_draws: int = Field(default=3, gt=0, le=1000)
    """How often it is trained with each number, on the first of the draws, and each time with another seed."""
    scratch_steps: int = Field(default=400, gt=0, le=MANY)
    """Steps of each such training."""

    @model_validator(mode="before")
    @classmethod
    def _in_short(cls, values: Any) -> Any:
        """``label_efficiency=true``, or a list of shares."""
        return {} if values is True else {"shares": values} if isinstance(values, list | tuple) else values

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.shares is not None and self.per_class is not None:
            raise ValueError("give shares or per_class, not both")
        return self

    @property
    def shares_or_default(self) -> tuple[float, ...]:
        return SHARES if self.shares is None else self.shares


class ProbeConfig(Repeated):
    """``retouch probe``: evaluate a frozen encoder on labeled tasks."""

    stage: ClassVar[str] = "probe"
    writes: ClassVar[tuple[str, ...]] = (
        *(*Repeated.writes, PREDICTIONS, EMBEDDING, DUPLICATES, LABEL_SCORES, FROM_SCRATCH, CLASSIFIERS),
    )
    free_keys: ClassVar[frozenset[str]] = Repeated.free_keys | {"data.workers", "data.cache"}

    encoder: HomePath
    """A finished run, its encoder/ folder, or hf:USER/NAME; or runs made with `seeds`, each of which is probed."""
    precision: Precision = "auto"
    """Precision of the encoder; auto: bfloat16 where the machine is fast at it, else float32."""
    data: ProbeData = ProbeData()
    more_data: tuple[ProbeData, ...] = ()
    """Further data sets for the same encoder, each a mapping like data."""
    probe: LinearConfig = LinearConfig()
    knn: Nearest | None = Nearest()
    """k-NN; null skips it: with wide features it is the most expensive probe."""
    more_probes: tuple[AnyProbe, ...] = ()
    """Further probes, each a mapping with a kind, which is its name in the results."""
    baselines: BaselineConfig = BaselineConfig()
    damage: tuple[AnyCorruption, ...] = DAMAGES
    """Robustness: corruptions of the test images, on which the chosen linear probe is tested without refitting."""
    properties: bool = True
    """Measure compactness and invariance of the code: "code" in results.json."""
    null_check: bool = True
    """Check that labels at random give chance: "checks" in results.json."""
    label_efficiency: LabelEfficiencyConfig | None = None
    """Accuracy from few labels to all, and how many labels the encoder saves: true, or a list of shares."""
    feature_cache: bool = True
    """Keep features on disk for the next probe of the same encoder and images."""
    cache_folder: HomePath | None = None
    """Folder of cached features; by default RETOUCH_CACHE or ~/.cache/retouch."""

    @field_validator("label_efficiency", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return None if value is False else value

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = ["linear", *(["knn"] if self.knn else []), *(one.kind for one in self.more_probes)]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise ValueError(f"more_probes: there is already a probe named {', '.join(double)}; give each kind once")
        return self

    @model_validator(mode="after")
    def _classes_for_what_needs_them(self) -> Self:
        asked = [name for name in ("more_probes", "label_efficiency") if getattr(self, name)]
        if asked and all(data.labels or data.masks for data in self.all_data):
            which = "data.labels" if self.data.labels else "data.masks"
            raise ValueError(
                f"{' and '.join(asked)} need one label per image; with {which} only the linear probe runs: remove "
                f"{' and '.join(asked)}, or {which}"
            )
        return self

    @property
    def all_data(self) -> tuple[ProbeData, ...]:
        """The data sets, the first one first."""
        return (self.data, *self.more_data)

    @property
    def probes(self) -> dict[str, Probe]:
        """All probes by their name in the results, the linear probe first."""
        nearest: dict[str, Probe] = {} if self.knn is None else {"knn": self.knn}
        return {"linear": self.probe, **nearest, **{one.kind: one for one in self.more_probes}}


class EmbedData(Config):
    """The images to embed. Labels are written if the source has any."""

    short: ClassVar[str] = "source"

    source: str = Field(default="shapes", min_length=1)
    """A folder, or another source of images."""
    task: str | None = None
    """Label column to write; by default the obvious one."""
    image_size: int | None = Field(default=None, ge=8, le=1024)
    """Side in px; by default the encoder's."""
    limit: int | None = Field(default=None, gt=0, le=MANY)
    """Embed only this many images."""
    workers: int = Field(default=0, ge=0, le=1024)
    """Decoding processes; 0 decodes in the process itself."""
    image: str | None = None
    """Column of images, if it is not the obvious one."""
    label: str | None = None
    """Label column of the default task, if it is not the obvious one."""
    root: str | None = None
    """Folder for downloads."""
    levels: LevelsSetting | None = None
    """Black and white of images of more than 8 bits, as [0, 4095]; by default, a sample decides."""


class EmbedConfig(StageConfig):
    """``retouch embed``: features of a frozen encoder as ``OUT/features.parquet``."""

    stage: ClassVar[str] = "embed"
    writes: ClassVar[tuple[str, ...]] = (*StageConfig.writes, "features.parquet")
    free_keys: ClassVar[frozenset[str]] = StageConfig.free_keys | {"data.workers"}

    encoder: HomePath
    """A finished run, its encoder/ folder, or hf:USER/NAME."""
    precision: Precision = "auto"
    """Precision of the encoder; auto: bfloat16 where the machine is fast at it, else float32."""
    data: EmbedData = EmbedData()
    layer: LayerChoice = -1
    """The map to embed: a number from the first (0) or the last (-1), all, or lastN."""
    pooling: PoolingName = "avg"
    """How a map becomes features: avg, avg2 (2x2 cells), max, flatten, or several joined by +."""
    store: Literal["dense", "sparse"] = "dense"
    """All features, or only the non-zeros with their indices."""


class TunedConfig(StartConfig):
    """Where fine-tuning starts: an exported encoder, or a network named here."""

    of_network: ClassVar[tuple[str, ...]] = (*StartConfig.of_network, "image_size")

    from_scratch: bool = False
    """The same architecture at random initialization."""
    image_size: int | None = Field(default=None, ge=8, le=1024)
    """Side in px, for a network named here; an exported encoder has its own."""

    @model_validator(mode="after")
    def _has_a_start(self) -> Self:
        if self.from_scratch and self.pretrained:
            raise ValueError("pretrained and from_scratch exclude each other: remove one")
        if self.path is None and not self.from_scratch and not self.pretrained:
            raise ValueError("set encoder=PATH to an exported encoder, or set encoder.from_scratch=true")
        return self


class CompareConfig(Config):
    """The baselines of the fine-tuned encoder. Skipped if it is trained from scratch itself."""

    linear_probe: bool = True
    """A linear probe of the frozen encoder."""
    from_scratch: bool = True
    """The same network and recipe from random initialization."""


KEEPING: dict[str, object] = {"freeze": None, "head_start": "random"}  # settings that keep learned weights, and off


class FinetuneConfig(StageConfig, GradientConfig):
    """``retouch finetune``: train the whole encoder with a new head on labeled images."""

    stage: ClassVar[str] = "finetune"
    writes: ClassVar[tuple[str, ...]] = (
        *LoopConfig.loop_writes,
        *StageConfig.writes,
        "classifier",
        "encoder",
        "linear_probe",
        FROM_SCRATCH,
        PREDICTIONS,
        DUPLICATES,
    )
    free_keys: ClassVar[frozenset[str]] = (
        # an encoder that has moved is known by its sha256
        StageConfig.free_keys | LoopConfig.loop_free_keys | {"data.workers", "data.cache", "encoder.path"}
    )

    encoder: TunedConfig
    data: LabeledData = LabeledData()
    augment: AugmentConfig = AugmentConfig()
    layer_decay: float = Field(default=0.75, gt=0, le=1)
    """Learning rate of each layer, relative to the next layer."""
    freeze: Literal["stem"] | Annotated[int, Field(gt=0, le=MANY)] | None = None
    """Layers that stay as they are: stem, or the first N groups, counted as for `layer_decay`."""
    head_start: Literal["random", "probe"] = "random"
    """Where the classifier starts: random weights, or the linear probe of what it sees, which spares the encoder."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Probability spread evenly over all classes in the target."""
    mixup: float = Field(default=0.0, ge=0, le=100)
    """Blend pairs of images and of their labels, by shares from Beta(α, α); 0: never; 0.2 is usual."""
    cutmix: float = Field(default=0.0, ge=0, le=100)
    """Paste a rectangle of another image, and its share of the label; 0: never; 1 is usual."""
    class_weights: Literal["none", "balanced"] | dict[str, Annotated[float, Field(gt=0, le=1e6)]] = "none"
    """Weight of errors by class: balanced (each class counts the same in total), or {name: weight}; others have 1."""
    validation: float = Field(default=0.1, gt=0, lt=1)
    """Held-out share of the training set, on which the best step is chosen."""
    evaluate_every: int = Field(default=200, gt=0, le=MANY)
    """Steps between two evaluations on the held-out images."""
    compare: CompareConfig = CompareConfig()

    @property
    def frozen_groups(self) -> int:
        """How many of the first groups of layers are frozen."""
        return 1 if self.freeze == "stem" else self.freeze or 0

    @classmethod
    def about_unknown(cls, key: str) -> str:
        if key == "seeds":
            return "fine-tuning runs with one seed at a time: remove it, and run it with seed=0, seed=1, ..."
        return super().about_unknown(key)

    @model_validator(mode="after")
    def _one_task(self) -> Self:
        if isinstance(self.data.task, list):
            raise ValueError("data.task: fine-tuning trains on one task at a time; give one name")
        return self

    @model_validator(mode="after")
    def _options_go_together(self) -> Self:
        problems = []
        if self.encoder.from_scratch:
            problems += [
                f"{key}: random weights are not worth keeping: remove it, or start from an encoder"
                for key, off in KEEPING.items()
                if getattr(self, key) != off
            ]
        if problems:
            raise ProblemsError(problems)
        return self

    def from_random(self) -> Self:
        """The same recipe for the same network at random initialization, where no weights are worth keeping."""
        start = self.encoder.model_copy(update={"from_scratch": True})
        return self.model_copy(update={"encoder": start, "layer_decay": 1.0, **KEEPING})

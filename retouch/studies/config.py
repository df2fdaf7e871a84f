"""Settings of a study."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from common.config import MANY, Config, HomePath
from common.data.images import Cache
from common.data.levels import LevelsSetting
from common.machine.cores import usable_cores
from common.runs.folder import StageConfig
from finetune.data import LabeledData
from finetune.embedding import EMBEDDING
from finetune.predictions import PREDICTIONS
from retouch.studies.results import CONTESTANTS, PLAN

DEFAULT = ("random_patches", "kmeans", "pca", "denoise", "colorize", "mask", "mixed", "scratch")
BASELINES = ("pixels", "untrained")  # these always compete, so no contestant may have their names
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
LONGEST = 10_000 * UNITS["h"]
TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smh]?)")


def seconds_of(text: str) -> float:
    """``90s``, ``20m`` or ``1h`` in seconds.

    Raises:
        ValueError: it is none of these, zero, or more than a year; or it has no unit.
    """
    found = TIME.fullmatch(text.strip())
    if not found or not float(found[1]):
        raise ValueError("must be a length of time above zero, such as 90s, 20m or 1h")
    if not found[2]:
        raise ValueError(f"needs a unit: budget={found[1]}m for minutes, or budget={found[1]}s for seconds")
    seconds = float(found[1]) * UNITS[found[2]]
    if seconds > LONGEST:
        raise ValueError(f"must be at most {LONGEST / UNITS['h']:,.0f}h")
    return seconds


def _checked(text: str) -> str:
    seconds_of(text)
    return text


def _text(value: object) -> object:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _of_timm(name: str) -> str:
    if not name.removeprefix("timm/") or not name.startswith("timm/"):
        raise ValueError("must be the name of a timm model, such as timm/resnet18")
    return name


class UnlabeledData(Config):
    """Images to learn from without labels."""

    short: ClassVar[str] = "source"

    source: str | None = Field(default=None, min_length=1)
    """A folder, or another source of images; by default the labeled training images, without their labels."""
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


class StudyConfig(StageConfig):
    """``retouch study``: will pretraining help on these images, by how much, and with which method?"""

    stage: ClassVar[str] = "study"
    writes: ClassVar[tuple[str, ...]] = (
        *(CONTESTANTS, PLAN, "judged.json", "clock.json", PREDICTIONS, EMBEDDING, "report.html"),
        *StageConfig.writes,
    )
    free_keys: ClassVar[frozenset[str]] = StageConfig.free_keys | {
        *("budget", "plan", "data.workers", "data.cache", "labels.workers", "labels.cache"),
    }

    data: UnlabeledData = UnlabeledData()
    labels: LabeledData
    """A folder of class folders, or another source of labeled images."""
    more_labels: tuple[LabeledData, ...] = ()
    """More label sets, each a mapping like labels, for more tasks."""
    budget: Annotated[str, BeforeValidator(_text), AfterValidator(_checked)] = "20m"
    """Time for everything, from start to report, such as 90s, 20m or 1h."""
    image_size: int | None = Field(default=None, ge=8, le=1024)
    """Side in px; by default 32, or 64 for images of at least 64 px (on a GPU 128 for those of at least 128)."""
    contestants: tuple[str, ...] = Field(default=DEFAULT, min_length=1)
    """What competes besides raw pixels and untrained networks: recipes (name or path), random_patches, kmeans, pca, and
    scratch (the network trained on the labels alone). If a dictionary leads, it is learned again with more atoms."""
    pretrained: Annotated[str, AfterValidator(_of_timm)] | None = None
    """A pretrained timm model that competes as well, such as timm/resnet18."""
    plan: HomePath | None = None
    """The plan.json of another study, whose contestants, images and steps are repeated, however long that takes."""

    @property
    def seconds(self) -> float:
        """The budget."""
        return seconds_of(self.budget)

    @property
    def label_sets(self) -> tuple[LabeledData, ...]:
        """All labeled images."""
        return (self.labels, *self.more_labels)

    @classmethod
    def about_unknown(cls, key: str) -> str:
        return "a test set belongs to its labels: use labels.test" if key == "test" else ""

    @field_validator("contestants")
    @classmethod
    def _differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = [Path(one).stem if one.endswith((".yaml", ".yml")) else one for one in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"there are two contestants named {', '.join(twice)}; give each a name of its own")
        always = [name for name in names if name in BASELINES]
        if always:
            raise ValueError(f"remove {' and '.join(always)}: raw pixels and untrained networks always compete")
        return value

    @model_validator(mode="after")
    def _images_fit_together(self) -> StudyConfig:
        if self.data.source is None and self.more_labels:
            raise ValueError(
                "data: there are several label sets, so say which images to learn from without labels: data=SOURCE"
            )
        for name, one in (
            ("labels", self.labels),
            *((f"more_labels.{i}", one) for i, one in enumerate(self.more_labels)),
        ):
            if one.image_size is not None:
                raise ValueError(f"{name}.image_size: a study has one size for all images; set image_size instead")
        return self

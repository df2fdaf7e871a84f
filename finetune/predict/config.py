"""Settings of ``retouch predict``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from common.config import MANY, Config, HomePath
from common.data.levels import LevelsSetting
from common.machine.cores import usable_cores
from common.machine.precision import Precision
from common.runs.folder import StageConfig
from finetune.predict.masks import MASKS
from finetune.predict.parts import PARTS, TABLES


class NewImages(Config):
    """Images to which a network is applied."""

    short: ClassVar[str] = "source"

    source: str = Field(min_length=1)
    """A folder, one image, or another source of images."""
    image_size: int | None = Field(default=None, ge=8, le=1024)
    """Side in px; by default that of the images the classifier learned from."""
    limit: int | None = Field(default=None, gt=0, le=MANY)
    """Use this many images only."""
    workers: int = Field(default_factory=usable_cores, ge=0, le=1024)
    """Decoding processes, which decode while the network computes; by default one per core."""
    image: str | None = None
    """Column of images, if it is not the obvious one."""
    root: str | None = None
    """Folder for downloads."""
    levels: LevelsSetting | None = None
    """Black and white of images of more than 8 bits, as [0, 4095]; by default those of the training images."""


class PredictConfig(StageConfig):
    """``retouch predict``: class and confidence, labels, or masks of new images, as ``OUT/predictions.csv``."""

    stage: ClassVar[str] = "predict"
    takes_run: ClassVar[bool] = True
    writes: ClassVar[tuple[str, ...]] = (*StageConfig.writes, *TABLES.values(), PARTS, MASKS)
    trees: ClassVar[tuple[str, ...]] = (MASKS,)
    free_keys: ClassVar[frozenset[str]] = StageConfig.free_keys | {"data.workers", "encoder"}

    run: HomePath
    """A finished run of probe or finetune, one of its classifiers, or hf:USER/NAME."""
    task: str | None = None
    """Which of a probe's tasks; not needed where there is one."""
    encoder: HomePath | None = None
    """Where the encoder of a probe is now, if it was moved."""
    precision: Precision = "auto"
    """Precision of the network; auto: bfloat16 where the machine is fast at it, else float32."""
    data: NewImages
    format: Literal["csv", "parquet"] = "csv"
    """Of the table of predictions."""
    top: int | None = Field(default=None, gt=0, le=MANY)
    """Write only the K most likely classes with their probabilities, in place of the probability of every class."""
    threshold: float | None = Field(default=None, ge=1e-6, lt=1)
    """Multi-label only: minimum probability to assign a label; default 0.5."""

"""Settings of ``retouch restore`` and ``retouch strange``."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from common.config import MANY, Config, HomePath, ProblemsError
from common.data.levels import LevelsSetting
from common.machine.cores import usable_cores
from common.machine.precision import Precision
from common.runs.folder import StageConfig
from pretrain.restoring.restorer import BATCH, OVERLAP

PICTURES, JOURNAL, SCORES, SHEET = "pictures", "pictures.jsonl", "pictures.csv", "sheet.png"
STRANGE = "strange.csv"


class GivenPictures(Config):
    """Which pictures."""

    short: ClassVar[str] = "source"

    source: str = Field(min_length=1)
    """A folder, or another source of images."""
    limit: int | None = Field(default=None, gt=0, le=MANY)
    """Use this many pictures only."""
    image: str | None = None
    """Column of images, if it is not the obvious one."""
    root: str | None = None
    """Folder for downloads."""
    levels: LevelsSetting | None = None
    """Black and white of images of more than 8 bits, as [0, 4095]; by default those of the training images."""


class PicturesToRestore(GivenPictures):
    """Which pictures, and what is known about them."""

    source: str = Field(min_length=1)
    """A folder, another source of images, or one image file."""
    masks: str | None = None
    """Holes to fill: a folder of masks at the paths of the pictures, or a column; pixels that are not 0 are filled."""
    clean: str | None = None
    """The undamaged pictures, to compare with: a folder with the same paths."""


class RestoreConfig(StageConfig):
    """``retouch restore``: pictures through the decoder of a run, at their own resolution."""

    stage: ClassVar[str] = "restore"
    takes_run: ClassVar[bool] = True
    writes: ClassVar[tuple[str, ...]] = (*StageConfig.writes, PICTURES, JOURNAL, SCORES, SHEET)
    trees: ClassVar[tuple[str, ...]] = (PICTURES,)

    run: HomePath
    """A finished run of retouch pretrain, its decoder/ folder, or hf:USER/NAME."""
    data: PicturesToRestore
    """Which pictures: data=FOLDER."""
    damage: Literal["none", "recipe"] = "none"
    """none: the pictures are already damaged; recipe: damage them as in training, and measure what is restored."""
    scale: float = Field(default=1.0, ge=0.001, le=1)
    """Make the pictures smaller first: 0.25 is a quarter of their width and height."""
    tile: int | None = Field(default=None, ge=8, le=1024)
    """Side in px of the tiles that the network sees; by default that of the images it learned from."""
    overlap: float = Field(default=OVERLAP, ge=0, le=0.9)
    """Overlap of neighboring tiles, as a share of their side."""
    precision: Precision = "auto"
    """Precision of the network; auto: bfloat16 if the machine is fast at it, else float32."""
    batch_size: int = Field(default=BATCH, gt=0, le=MANY)
    """Tiles per pass; fewer if they are large."""

    @model_validator(mode="after")
    def _one_damage(self) -> Self:
        problems = []
        if self.damage == "recipe" and self.data.masks is not None:
            problems.append(
                "data.masks says where the holes are, and damage=recipe draws them: give only one of the two"
            )
        if self.damage == "recipe" and self.data.clean is not None:
            problems.append("with damage=recipe, the pictures themselves are the clean ones: remove data.clean")
        if problems:
            raise ProblemsError(problems)
        return self


class PicturesToRank(GivenPictures):
    """Which pictures, and how large they are made."""

    image_size: int | None = Field(default=None, ge=8, le=1024)
    """Side in px of the square that each becomes; by default that of the images the network learned from."""
    workers: int = Field(default_factory=usable_cores, ge=0, le=1024)
    """Decoding processes; by default one per core."""


class StrangeConfig(StageConfig):
    """``retouch strange``: the pictures that the decoder of a run restores worse than others that are as hard."""

    stage: ClassVar[str] = "strange"
    takes_run: ClassVar[bool] = True
    writes: ClassVar[tuple[str, ...]] = (*StageConfig.writes, STRANGE, SHEET)
    free_keys: ClassVar[frozenset[str]] = StageConfig.free_keys | {"data.workers"}

    run: HomePath
    """A finished run of retouch pretrain, its decoder/ folder, or hf:USER/NAME."""
    data: PicturesToRank
    """Which pictures: data=FOLDER."""
    draws: int = Field(default=4, gt=0, le=1000)
    """Damaged copies of each picture; all pictures get the same damage."""
    top: int = Field(default=20, gt=0, le=200)
    """Pictures on the sheet."""
    precision: Precision = "auto"
    """Precision of the network; auto: bfloat16 if the machine is fast at it, else float32."""
    batch_size: int = Field(default=BATCH, gt=0, le=MANY)
    """Pictures at a time."""

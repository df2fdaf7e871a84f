"""Settings of ``retouch label``."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from common.config import MANY, Config, HomePath
from common.machine.cores import usable_cores
from common.machine.precision import Precision


class LabelData(Config):
    """The images to label."""

    short: ClassVar[str] = "source"

    source: str = Field(min_length=1)
    """A folder of images, or a CSV or text file that lists them."""
    limit: int = Field(default=5000, ge=2, le=20_000)
    """Images on the page, drawn at random if there are more; a page of 5,000 takes 4 to 6 MB."""
    image_size: int | None = Field(default=None, ge=8, le=1024)
    """Side in px that the encoder sees; by default the encoder's."""
    workers: int = Field(default_factory=usable_cores, ge=0, le=1024)
    """Decoding processes; by default one per core."""


class LabelConfig(Config):
    """``retouch label``: a page for labeling images."""

    encoder: HomePath
    """A finished run, its encoder/ folder, or hf:USER/NAME."""
    data: LabelData
    precision: Precision = "auto"
    """Precision of the encoder; auto: bfloat16 where the machine is fast at it, else float32."""
    batch_size: int = Field(default=256, gt=0, le=MANY)
    """Images per pass of the encoder."""

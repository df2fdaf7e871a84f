"""The pretraining stage's config."""

from __future__ import annotations

from pydantic import Field

from common.augment import AugmentConfig
from common.config import Config
from common.data.images import Cache, usable_cores
from common.encoders import EncoderConfig
from common.loop import LoopConfig
from pretrain.decoders import DecoderConfig
from pretrain.pretexts import AnyPretext, Denoise


class DataConfig(Config):
    """Unlabeled images: labels are neither needed nor read."""

    source: str = Field(
        default="shapes", min_length=1
    )  # shapes | photos | folder:PATH | parquet:GLOB | hf:NAME | torchvision:NAME
    image_size: int = Field(default=32, ge=8, le=1024)  # pixels; the shorter side is resized, the centre cropped
    limit: int | None = Field(default=None, gt=0)  # images
    workers: int = Field(default_factory=usable_cores, ge=0)  # processes that decode; default one a core
    cache: Cache = "auto"  # keep decoded images in memory: auto (if they fit comfortably), ram, none
    image: str | None = None  # column that holds images, where it is not the obvious one
    root: str | None = None  # where torchvision keeps its downloads


class PretrainConfig(LoopConfig):
    """``retouch pretrain``: fit an encoder on unlabeled images."""

    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()
    pretext: AnyPretext = Denoise()
    panels_every: int = Field(default=1000, gt=0)  # steps between two pictures of originals, damaged and restored

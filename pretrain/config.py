"""The pretraining stage's config."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from common.augment import AugmentConfig
from common.config import Config, ProblemsError
from common.data.images import Cache
from common.encoders import EncoderConfig
from common.engine.loop import LoopConfig
from common.machine.cores import usable_cores
from pretrain.gradient.decoders import DecoderConfig
from pretrain.gradient.penalty import PenaltyConfig
from pretrain.gradient.pretexts import AnyPretext, Denoise
from pretrain.linear import AnyFit, Cca, Tca

AS_THEY_ARE = AugmentConfig(crop=None, flip=False)


class DataConfig(Config):
    """Unlabeled images: labels are neither needed nor read."""

    source: str = Field(
        default="shapes", min_length=1
    )  # shapes | photos | folder:PATH | parquet:GLOB | hf:NAME | torchvision:NAME | patches:SOURCE
    image_size: int = Field(default=32, ge=8, le=1024)  # pixels; the shorter side is resized, the centre cropped
    limit: int | None = Field(default=None, gt=0)  # images
    workers: int = Field(default_factory=usable_cores, ge=0)  # processes that decode; default one a core
    cache: Cache = "auto"  # keep decoded images in memory: auto (if they fit comfortably), ram, none
    image: str | None = None  # column that holds images, where it is not the obvious one
    root: str | None = None  # where torchvision keeps its downloads
    other: str | None = None  # a second source: CCA's second view, row by row, or TCA's second domain


class PretrainConfig(LoopConfig):
    """``retouch pretrain``: fit an encoder on unlabeled images.

    By default an autoencoder learns by gradient (``encoder``, ``decoder``, ``pretext``, ``penalty``). With ``fit`` a
    method of the linear family does, by a rule of its own: it brings its own encoder, sees images as they are, and one
    epoch is its default length.
    """

    stage: ClassVar[str] = "pretrain"
    writes: ClassVar[tuple[str, ...]] = (*LoopConfig.writes, "panels", "encoder")
    free_keys: ClassVar[frozenset[str]] = LoopConfig.free_keys | {"data.workers", "data.cache"}

    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()
    pretext: AnyPretext = Denoise()
    penalty: PenaltyConfig = PenaltyConfig()
    fit: AnyFit | None = None
    panels_every: int = Field(default=1000, gt=0)  # steps between two pictures of originals, damaged and restored

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_fits(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("fit") and not (values.get("steps") or values.get("epochs")):
            values = {**values, "epochs": 1}
        if isinstance(values, dict) and values.get("fit") and values.get("augment") is None:
            # moments and atoms of the images as they are, unless asked otherwise
            values = {**values, "augment": AS_THEY_ARE.model_dump()}
        return values

    @model_validator(mode="after")
    def _parts_go_together(self) -> Self:
        problems: list[str] = []
        if self.fit is None:
            if self.data.other is not None:
                problems.append("data.other is for fit.kind=cca or tca: leave it out")
            if self.penalty.dictionary and self.optim.weight_decay:
                problems.append("penalty.dictionary decays the atoms itself: set optim.weight_decay=0")
            problems += self.penalty.check(self.encoder.name)
        else:
            kind = self.fit.kind
            if given := self._changed("encoder", "decoder", "pretext", "penalty"):
                problems.append(f"fit.kind={kind} brings its own encoder and objective: leave out {', '.join(given)}")
            if given := self._changed("base_lr", "optim", "ema", "precision", "compile"):
                problems.append(f"fit.kind={kind} learns without a gradient: leave out {', '.join(given)}")
            if self.fit.one_pass and (self.steps is not None or self.epochs != 1):
                problems.append(f"fit.kind={kind} sees every image once: leave out steps, and epochs too or 1")
            if not self.fit.streams and (self.steps is not None or self.epochs != 1):
                problems.append(f"{self.fit.title} is fitted on one sample: leave out steps, and epochs too or 1")
            if self.augment != AS_THEY_ARE and not self.fit.streams:
                problems.append(f"{self.fit.title} looks at its sample as it is: leave out augment")
            if self.augment != AS_THEY_ARE and isinstance(self.fit, Cca) and self.fit.views == "other":
                problems.append("fit.views=other pairs images as they are: leave out augment")
            if self.accumulate > 1:
                problems.append(f"fit.kind={kind} learns from whole batches: leave out accumulate")
            problems += self._other(kind)
        if problems:
            raise ProblemsError(problems)
        return self

    def _changed(self, *names: str) -> list[str]:
        """Which of these fields are not at their default."""
        fields = type(self).model_fields
        return [name for name in names if getattr(self, name) != fields[name].get_default(call_default_factory=True)]

    def _other(self, kind: str) -> list[str]:
        """Where a second source is needed, or is of no use."""
        given = self.data.other is not None
        if isinstance(self.fit, Cca) and self.fit.views == "other":
            return [] if given else ["fit.views=other needs data.other, the source of the second view"]
        if isinstance(self.fit, Tca):
            either = given or self.fit.damage is not None
            return [] if either else ["fit.kind=tca needs a second domain: data.other, or fit.damage of the first"]
        return [f"data.other is of no use to fit.kind={kind} here: leave it out"] if given else []

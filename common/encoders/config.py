"""How a config specifies an encoder."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from common.config import Config, HomePath

Stem = Literal["auto", "small", "default"]
Args = dict[str, Any]  # arguments of a network, by name; what builds the network checks them


class EncoderConfig(Config):
    """Which encoder to build.

    ``stem: auto`` adapts a timm model to small images: a 3x3 stem without pooling in ResNets up to 64 px, and a lower
    ``patch_size`` or ``output_stride`` if the last map would be below 4x4 (a token grid below 8x8). Pretrained models
    stay as they are. ``small`` forces the ResNet stem.
    """

    name: str = "small_cnn"
    """small_cnn, mlp, linear, or timm/NAME: any timm model with intermediate features."""
    pretrained: bool = False
    """Start from timm's own weights."""
    model_args: Args = Field(default_factory=dict)
    """Arguments of the model, such as {width: 32} or {patch_size: 4, depth: 6}."""
    stem: Stem = "auto"
    """auto adapts a timm model to small images; default changes nothing."""


class StartConfig(EncoderConfig):
    """Where training starts: an exported encoder, or a network named here."""

    short: ClassVar[str] = "path"
    of_network: ClassVar[tuple[str, ...]] = ("name", "pretrained", "model_args", "stem")  # an exported one has its own

    path: HomePath | None = None
    """A finished run, its encoder/ folder, one of timm's, or hf:USER/NAME; without it, the network named here."""
    sha256: str | None = None
    """sha256 of the starting encoder; recorded by the run, so that it cannot resume from another."""

    @model_validator(mode="after")
    def _one_network(self) -> Self:
        defaults = {key: field.get_default(call_default_factory=True) for key, field in type(self).model_fields.items()}
        given = [key for key in self.of_network if getattr(self, key) != defaults[key]]
        if self.path is not None and given:
            raise ValueError(
                f"path is an exported encoder, which has its own {', '.join(given)}: give one or the other"
            )
        if self.path is None and self.sha256 is not None:
            raise ValueError("sha256 belongs to path: give both")
        return self

    @property
    def network(self) -> EncoderConfig:
        """The network named here."""
        return EncoderConfig(name=self.name, pretrained=self.pretrained, model_args=self.model_args, stem=self.stem)

"""How a config specifies an encoder."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from common.config import Config

Stem = Literal["auto", "small", "default"]


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
    model_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the model, such as {width: 32} or {patch_size: 4, depth: 6}."""
    stem: Stem = "auto"
    """auto adapts a timm model to small images; default changes nothing."""

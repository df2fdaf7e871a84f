"""Decoders: from the encoder's maps or tokens back to an image."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from common.config import Config
from common.encoders.base import Encoder
from common.errors import UserError
from pretrain.gradient.decoders.linear import LinearDecoder, MLPDecoder
from pretrain.gradient.decoders.transformer import HEAD, TransformerDecoder
from pretrain.gradient.decoders.unet import UNet
from pretrain.gradient.decoders.upsampler import Upsampler

__all__ = [
    "DecoderConfig",
    "LinearDecoder",
    "MLPDecoder",
    "TransformerDecoder",
    "UNet",
    "Upsampler",
    "build_decoder",
    "check_decoder",
]


class DecoderConfig(Config):
    """The decoder: `retouch restore` uses it, transfer does not."""

    kind: Literal["auto", "upsampler", "unet", "transformer", "linear", "mlp"] = "auto"
    """``auto``: transformer if tokens are dropped, linear if the code is penalized or top-k, else upsampler."""
    width: int = Field(128, ge=32, le=4096)
    """Channels next to the encoder; convolutional decoders halve them as the side doubles. ``mlp``: hidden units."""
    depth: int | None = Field(None, ge=1, le=64)
    """Transformer blocks (default 4), convolutions per side (default 1), or ``mlp``'s hidden layers (default 1)."""
    subpixel: Literal[1, 2, 4, 8] = 2
    """Convolutional decoders stop at ``1/subpixel`` of the side; each position then gives ``subpixel²`` pixels."""

    def resolved(self, *, masked: bool, sparse: bool) -> DecoderConfig:
        """A copy with ``auto`` decided, for an encoder that drops tokens (``masked``) or has a sparse code."""
        auto = "transformer" if masked else "linear" if sparse else "upsampler"
        return self.model_copy(update={"kind": auto}) if self.kind == "auto" else self

    def check(self) -> list[str]:
        """Problems that it has with any encoder."""
        if self.kind == "transformer" and self.width % HEAD:
            return [f"decoder.width must be a multiple of {HEAD} for a transformer, got {self.width}"]
        return []


def check_decoder(config: DecoderConfig, encoder: Encoder, side: int, *, masked: bool, sparse: bool) -> list[str]:
    """All problems of this decoder with the encoder and a target of ``side`` pixels; arguments as ``build_decoder``."""
    config = config.resolved(masked=masked, sparse=sparse)
    kind, (_, height, width) = config.kind, encoder.map_shape
    if sparse and masked:
        return ["penalty.l1 needs a code of the whole image, but this encoder drops tokens: remove it"]
    problems = config.check()
    if sparse and kind in ("unet", "upsampler", "transformer"):
        norm = "tokens" if kind == "transformer" else "batches"
        problems.append(
            f"decoder.kind={kind} normalizes its {norm}, so the scale of a sparse code would have no effect: use "
            "decoder.kind=linear or mlp"
        )
    elif kind == "transformer" and (side % height or side % width):
        problems.append(
            f"decoder.kind=transformer needs a target whose side is a multiple of the encoder's map: {encoder.name}"
            f" ends in {height}x{width}, the target has side {side}; use decoder.kind=upsampler"
        )
    elif kind != "transformer" and masked:
        problems.append(
            f"decoder.kind={kind} cannot restore the patches that this encoder drops: use decoder.kind=auto"
        )
    elif kind == "linear" and (side % height or height != width):
        problems.append(
            f"decoder.kind=linear needs a target whose side is a multiple of the code's: {encoder.name} ends in "
            f"{height}x{width}, the target has side {side}; use decoder.kind=mlp"
        )
    return problems


def build_decoder(
    config: DecoderConfig,
    encoder: Encoder,
    channels: int,
    side: int,
    *,
    masked: bool = False,
    sparse: bool = False,
    unit_norm: bool = False,
) -> nn.Module:
    """Build a decoder with output ``[B channels side side]``.

    Args:
        masked: the encoder drops tokens.
        sparse: the code is penalized or top-k, so batch normalization in the decoder would undo its scale.
        unit_norm: atoms (columns of the decoder) have unit norm.

    An ``Upsampler`` or ``UNet`` takes the list of maps of ``encoder.layers``; a ``TransformerDecoder`` takes tokens
    ``[B n D]`` and the indices of the visible patches, or None.

    Raises:
        UserError: this kind of decoder does not fit the encoder and target.
    """
    if problems := check_decoder(config, encoder, side, masked=masked, sparse=sparse):
        raise UserError(*problems)
    depth, height, width = encoder.map_shape
    hidden, blocks = config.width, config.depth or 1
    match config.resolved(masked=masked, sparse=sparse).kind:
        case "transformer":
            return TransformerDecoder(
                depth, (height, width), channels, side, width=hidden, blocks=config.depth or 4, masked=masked
            )
        case "linear":
            return LinearDecoder(depth, height, channels, side, unit_norm=unit_norm)
        case "mlp":
            return MLPDecoder(depth * height * width, channels, side, hidden=[hidden] * blocks, unit_norm=unit_norm)
        case "unet":
            shapes = encoder.layer_shapes
            return UNet(shapes, channels, side, width=hidden, blocks=blocks, subpixel=config.subpixel)
    return Upsampler(depth, height, channels, side, width=hidden, blocks=blocks, subpixel=config.subpixel)

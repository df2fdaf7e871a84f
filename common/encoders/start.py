"""Where training starts: a network built by name, or an exported encoder that goes on learning."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from common.encoders.base import Encoder, MaskChannel, View
from common.encoders.build import build_encoder
from common.encoders.card import EncoderCard, for_size
from common.encoders.config import StartConfig
from common.encoders.load import load_encoder, read_encoder_card
from common.errors import UserError

log = logging.getLogger("retouch")

S = TypeVar("S", bound=StartConfig)


def read_start(start: StartConfig) -> EncoderCard | None:
    """The card of the exported encoder that training starts from; ``None`` for a network that is named.

    Raises:
        UserError: there is no such encoder, or it is another one than that of ``start.sha256``.
    """
    if start.path is None:
        return None
    card = read_encoder_card(start.path)
    if start.sha256 not in (None, card.sha256):
        raise UserError(
            f"encoder: {start.path} is not the one that this run started from (sha256 {str(start.sha256)[:12]}, now "
            f"{card.sha256[:12]}): put that one back, or start over without encoder.sha256"
        )
    return card


def pinned(start: S) -> tuple[S, EncoderCard | None]:
    """The settings with the sha256 of the exported encoder, and its card; ``None`` for a network that is named.

    Also ``None`` for an encoder that cannot be used: building the network reports it, with all other problems.
    """
    try:
        card = read_start(start)
    except UserError:
        card = None
    return (start, None) if card is None else (start.model_copy(update={"sha256": card.sha256}), card)


def unknown_settings(start: StartConfig) -> frozenset[str]:
    """The setting that ``pinned`` leaves out if the encoder cannot be used."""
    return frozenset({"encoder.sha256"} if start.path is not None and start.sha256 is None else ())


def start_encoder(
    start: StartConfig, *, image_size: int, view: View = "rgb", mask_channel: MaskChannel = False
) -> Encoder:
    """The network to train, on the CPU, in train mode.

    An exported encoder keeps its weights. For images of another size, a vision transformer's positions are resampled; a
    new mask channel has zero weights. So the images that it learned from give what they gave before.

    Raises:
        UserError: the encoder or network cannot be used, or not with images of this size and kind.
    """
    if read_start(start) is None or start.path is None:
        return build_encoder(start.network, image_size=image_size, view=view, mask_channel=mask_channel)
    learned = load_encoder(start.path)
    config = for_size(learned.config, image_size)
    encoder = build_encoder(config, image_size=image_size, view=view, mask_channel=mask_channel)
    _carry_over(learned, encoder, start.path)
    changed = _changes(learned, encoder)
    log.info("%s goes on from %s%s", encoder.name, start.path, f", with {', '.join(changed)}" if changed else "")
    if image_size < learned.image_size:
        log.warning(
            "it learned from images of %d px, and now sees %d: set data.image_size=%d to keep its scale",
            *(learned.image_size, image_size, learned.image_size),
        )
    return encoder


def _carry_over(learned: Encoder, encoder: Encoder, path: Path) -> None:
    """Copy every tensor of ``learned`` into ``encoder``, the same network for other images."""
    fresh = encoder.state_dict()
    tensors = learned.tensors_at(encoder.image_size)
    if encoder.mask_channel:
        tensors = {name: _widened(tensor, fresh[name]) for name, tensor in tensors.items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != {name: new.shape for name, new in fresh.items()}:
        raise UserError(
            f"encoder: {path} learned from images of {learned.image_size} px, and its weights fit no other size: set "
            f"data.image_size={learned.image_size}, or start from another encoder"
        )
    encoder.load_state_dict(tensors)
    encoder.mean.copy_(learned.mean)  # a timm folder may have other constants than the architecture's own
    encoder.std.copy_(learned.std)


def _widened(tensor: Tensor, fresh: Tensor) -> Tensor:
    """The weights of the first convolution with zeros for the mask, and every other tensor as it is."""
    if tensor.ndim != 4 or tensor.shape[1] + 1 != fresh.shape[1]:
        return tensor
    return torch.cat([tensor, torch.zeros_like(tensor[:, :1])], dim=1)


def _changes(learned: Encoder, encoder: Encoder) -> list[str]:
    """What is new in what the encoder is shown, in words."""
    found = []
    if encoder.image_size != learned.image_size:
        found.append(f"images of {encoder.image_size} px after {learned.image_size}")
    if encoder.view != learned.view:
        found.append("gray images after RGB" if encoder.view == "gray" else "RGB images after gray")
    if encoder.mask_channel:
        found.append("a mask channel")
    return found

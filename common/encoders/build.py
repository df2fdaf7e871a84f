"""From a config to an encoder."""

from __future__ import annotations

import timm

from common.encoders.base import Encoder, View
from common.encoders.config import EncoderConfig
from common.encoders.small_cnn import SmallCNN
from common.encoders.timm_encoder import build_timm_encoder
from common.encoders.timm_model import nearest
from common.errors import UserError


def build_encoder(config: EncoderConfig, *, image_size: int, view: View = "rgb", mask_channel: bool = False) -> Encoder:
    """Build the encoder that ``config`` names, on the CPU, in train mode.

    Raises:
        UserError: no such encoder, wrong ``model_args``, weights that cannot be fetched, or a network that cannot
            serve at this image size, with its reason.
    """
    if config.name == "small_cnn":
        return SmallCNN(config, image_size, view, mask_channel)
    if config.name.startswith("timm/"):
        return build_timm_encoder(config, image_size, view, mask_channel)
    raise UserError(
        f"encoder.name: no encoder {config.name!r}{nearest(config.name, timm.list_models())}; "
        "use small_cnn, or timm/ and the name of a timm model"
    )

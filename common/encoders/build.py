"""From a config to an encoder."""

from __future__ import annotations

from collections.abc import Callable

from common.encoders.base import Encoder, MaskChannel, View
from common.encoders.config import EncoderConfig
from common.encoders.kernel import KernelCode
from common.encoders.linear import Linear
from common.encoders.mlp import MLP
from common.encoders.patch_dictionary import PatchDictionary
from common.encoders.small_cnn import SmallCNN
from common.encoders.sparse_code import SparseCode
from common.errors import UserError

OWN: dict[str, Callable[[EncoderConfig, int, View, bool], Encoder]] = {
    "small_cnn": SmallCNN,
    "mlp": MLP,
    "linear": Linear,
    "sparse_code": SparseCode,
    "patch_dictionary": PatchDictionary,
    "kernel": KernelCode,
}


def build_encoder(
    config: EncoderConfig, *, image_size: int, view: View = "rgb", mask_channel: MaskChannel = False
) -> Encoder:
    """Build the encoder that ``config`` names, on the CPU, in train mode.

    Raises:
        UserError: no such encoder, wrong ``model_args``, weights that cannot be downloaded, or a network that cannot
            be used at this image size, with the reason.
    """
    if config.name in OWN:
        return OWN[config.name](config, image_size, view, bool(mask_channel))  # none has tokens
    # with torchvision, timm takes 200 MB and seconds to import, which a report or an encoder of ours need not pay
    import timm

    from common.encoders.timm_encoder import build_timm_encoder
    from common.encoders.timm_model import nearest

    if config.name.startswith("timm/"):
        return build_timm_encoder(config, image_size, view, mask_channel)
    raise UserError(
        f"encoder.name: no encoder {config.name!r}{nearest(config.name, timm.list_models(), OWN)}; "
        f"use {', '.join(OWN)}, or timm/ and the name of a timm model"
    )

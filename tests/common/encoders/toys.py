"""Small encoders whose tensors differ from a fresh network's, and images for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from common.encoders import Encoder, EncoderConfig, build_encoder

SMALL = {"width": 8, "depth": 1}
TINY_VIT = {"patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 3}


def build(name: str = "small_cnn", model_args: dict[str, Any] | None = None, **settings: Any) -> Encoder:
    """A small encoder in eval mode; the same each time."""
    torch.manual_seed(0)
    stem, size = settings.pop("stem", "auto"), settings.pop("size", 32)
    args = SMALL if name == "small_cnn" and model_args is None else model_args or {}
    encoder = build_encoder(EncoderConfig(name=name, model_args=args, stem=stem), image_size=size, **settings)
    with torch.no_grad():  # so that no tensor is what a fresh network has
        for tensor in encoder.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.01 * torch.rand_like(tensor))
    return encoder.eval()


def images(count: int = 2, seed: int = 1) -> Tensor:
    """RGB in [0, 1], ``[count 3 32 32]``."""
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))

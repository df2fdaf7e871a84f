"""Every encoder in small: the members of its contract, and of others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from common.encoders import Encoder, EncoderConfig, build_encoder

TINY_VIT = {"patch_size": 4, "embed_dim": 48, "depth": 3, "num_heads": 3}


@dataclass(frozen=True)
class Member:
    """An encoder, and the last map it must give at 32 px."""

    name: str
    last: tuple[int, int, int]
    model_args: dict[str, Any] = field(default_factory=dict)
    variant: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, [self.name, self.variant]))

    @property
    def masks(self) -> bool:
        """Whether its input may carry a mask channel."""
        return self.name == "small_cnn" or self.name.startswith("timm/")

    def build(self, **settings: Any) -> Encoder:
        torch.manual_seed(0)
        config = EncoderConfig(name=self.name, model_args=self.model_args)
        return build_encoder(config, image_size=32, **settings)


ATOMS = {"atoms": 12, "patch": 6, "grid": 2}
FAMILY = [
    Member("small_cnn", (64, 4, 4), {"width": 16}),
    Member("small_cnn", (24, 4, 4), {"width": 16, "code_channels": 24, "rectify": True, "top_k": 6}, "top_k"),
    Member("timm/test_convnext", (64, 4, 4)),
    Member("timm/test_resnet", (96, 4, 4)),
    Member("timm/vit_tiny_patch16_224", (48, 8, 8), TINY_VIT),
    Member("timm/mobilenetv4_conv_small_035", (336, 1, 1)),
    Member("timm/test_efficientnet", (64, 4, 4)),
    Member("linear", (20, 1, 1), {"code": 20}),
    Member("mlp", (12, 1, 1), {"hidden": [32, 24], "code": 12}),
    Member("mlp", (32, 1, 1), {"hidden": [32], "code": 32, "rectify": True, "top_k": 8}, "top_k"),
    Member("sparse_code", (16, 1, 1), {"atoms": 16, "strength": 1.0}, "l1"),
    Member("sparse_code", (16, 1, 1), {"atoms": 16, "penalty": "l0", "strength": 0.1}, "l0"),
    Member("sparse_code", (16, 1, 1), {"atoms": 16, "penalty": "atoms", "top_k": 4, "centring": "data"}, "atoms"),
    Member("kernel", (8, 1, 1), {"code": 8, "landmarks": 30, "width": 20.0}, "rbf"),
    Member("kernel", (8, 1, 1), {"code": 8, "landmarks": 30, "kernel": "linear"}, "linear"),
    Member("patch_dictionary", (12, 2, 2), ATOMS, "threshold"),
    Member("patch_dictionary", (24, 2, 2), {**ATOMS, "mirror": False}, "threshold_unmirrored"),
    Member("patch_dictionary", (12, 2, 2), {**ATOMS, "code": "top_k", "top_k": 3}, "top_k"),
    Member("patch_dictionary", (12, 2, 2), {**ATOMS, "patch": 3, "code": "lasso", "l1": 4.0}, "lasso"),
    Member("patch_dictionary", (12, 2, 2), {**ATOMS, "code": "triangle"}, "triangle"),
    Member("patch_dictionary", (24, 2, 2), {**ATOMS, "code": "triangle", "mirror": False}, "triangle_unmirrored"),
]

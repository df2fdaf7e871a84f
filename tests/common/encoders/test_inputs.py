"""What is not images is refused with what to do, before a network makes numbers of it."""

from __future__ import annotations

import pytest
import torch

from common.encoders import EncoderConfig, build_encoder


@pytest.mark.parametrize("name", ["small_cnn", "timm/resnet10t", "linear", "patch_dictionary"])
@pytest.mark.parametrize(
    ("images", "hint"),
    [
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "divide by 255"),
        (torch.zeros(3, 32, 32), r"for one image, pass image\[None\]"),
        (torch.zeros(1, 1, 32, 32), r"not torch.float32 \[1, 1, 32, 32\]"),
        (torch.zeros(1, 4, 32, 32), r"not torch.float32 \[1, 4, 32, 32\]"),
    ],
    ids=["bytes", "one image", "one channel", "four channels"],
)
def test_only_rgb_batches_are_encoded(name: str, images: torch.Tensor, hint: str) -> None:
    encoder = build_encoder(EncoderConfig(name=name), image_size=32).freeze()
    with pytest.raises(ValueError, match=hint):
        encoder.encode(images)

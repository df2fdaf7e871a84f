"""Small encoders and small photographs for the tests of pretraining."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from common.encoders import Encoder, EncoderConfig, build_encoder
from common.encoders.base import TokenEncoder
from pretrain.gradient.pretexts import Pretext
from tests.recipe import few_patches, near_means

SIDE = 16
CONFIGS = {
    "cnn": EncoderConfig(name="small_cnn", model_args={"width": 8, "depth": 1}),
    "wide": EncoderConfig(name="small_cnn", model_args={"width": 64, "depth": 1}),
    "narrow": EncoderConfig(name="small_cnn", model_args={"width": 8, "depth": 1, "code_channels": 16}),
    "vit": EncoderConfig(
        name="timm/vit_tiny_patch16_224",
        model_args={"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2},
    ),
}


@pytest.fixture(scope="session")
def encoder_for() -> Callable[[Pretext, str], Encoder]:
    """``encoder_for(pretext, "cnn" | "wide" | "narrow" | "vit")``: as the pretext needs it, from a fixed seed."""

    def build(pretext: Pretext, name: str) -> Encoder:
        torch.manual_seed(0)
        encoder = build_encoder(CONFIGS[name], image_size=SIDE, view=pretext.view, mask_channel=pretext.mask_channel)
        assert isinstance(encoder, TokenEncoder) == (name == "vit")
        return encoder

    return build


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """For problems this small, threading costs more than a second core gains."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def _less_work() -> Iterator[None]:
    with near_means(), few_patches():
        yield


@pytest.fixture(scope="session")
def photographs() -> Tensor:
    """16 smooth color images ``[16 3 16 16]`` in [0, 1]."""
    noise = np.random.default_rng(0).normal(size=(16, 3, SIDE, SIDE))
    smooth = ndimage.gaussian_filter(noise, (0, 0.5, 2, 2), mode="nearest")
    low, high = smooth.min(), smooth.max()
    return torch.from_numpy((smooth - low) / (high - low)).float()

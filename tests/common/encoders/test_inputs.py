"""Inputs that are not images are refused with a remedy, before a network computes anything from them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from common.encoders import Classifier, Encoder, EncoderConfig, build_encoder


@cache
def frozen(name: str) -> Encoder:
    """Built once for all tests: none changes it."""
    return build_encoder(EncoderConfig(name=name), image_size=32).freeze()


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
    encoder = frozen(name)
    for call in (encoder, encoder.layers, encoder.encode):
        with pytest.raises(ValueError, match=hint):
            call(images)


@pytest.mark.parametrize("name", ["small_cnn", "timm/resnet10t", "linear", "patch_dictionary"])
@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda images: images * 255, "divide them by 255"),
        (lambda images: (images - 0.45) / 0.22, "do not standardize them: the encoder does that itself"),
        (lambda images: images * 2 - 1, "from -1 to 1; do not standardize them"),
        (lambda images: images * 65535, r"scale them to \[0, 1\]"),
        (lambda images: images * float("nan"), "they have NaN"),
    ],
    ids=["0..255", "standardized", "-1..1", "16 bits", "nan"],
)
def test_values_of_another_range_are_not_encoded(
    name: str, change: Callable[[torch.Tensor], torch.Tensor], hint: str
) -> None:
    encoder = frozen(name)
    images = change(torch.linspace(0, 1, 3 * 32 * 32).view(1, 3, 32, 32))
    classifier = Classifier(build_encoder(EncoderConfig(name=name), image_size=32), ["a", "b"])
    classifier.encoder.freeze()
    for call in (encoder.encode, classifier):
        with pytest.raises(ValueError, match=hint):
            call(images)


def test_a_classifier_in_training_takes_what_augmentation_gives() -> None:
    classifier = Classifier(build_encoder(EncoderConfig(), image_size=32), ["a", "b"])
    assert classifier(torch.full((2, 3, 32, 32), 1.8)).shape == (2, 2)


def test_what_resizing_and_noise_leave_above_one_is_encoded() -> None:
    encoder = frozen("small_cnn")
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    noise = 0.1 * torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert encoder.encode(images + noise).isfinite().all()
    assert encoder(images + 40 * noise).isfinite().all()  # a probe under damage


@pytest.mark.parametrize("name", ["small_cnn", "timm/resnet10t", "linear", "patch_dictionary"])
def test_a_frozen_encoder_refuses_pixels_of_0_to_255_in_every_call(name: str) -> None:
    encoder = frozen(name)
    images = 255 * torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for call in (encoder, encoder.layers, Classifier(encoder, ["a", "b"]).encoder.freeze().logits):
        with pytest.raises(ValueError, match=r"their mean is 12\d; divide them by 255"):
            call(images)


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 32, 32).numpy(), [torch.zeros(3, 32, 32)]], ids=["numpy", "list"])
@pytest.mark.parametrize("name", ["small_cnn", "timm/resnet10t", "linear", "patch_dictionary"])
def test_what_is_no_tensor_is_refused_with_what_to_give(name: str, images: Any) -> None:
    encoder = frozen(name)
    for call in (encoder, encoder.layers, encoder.encode, Classifier(encoder, ["a", "b"])):
        with pytest.raises(
            ValueError, match=rf"must be a torch tensor \[B 3 H W\], not {type(images).__name__}; .*from_numpy"
        ):
            call(images)


@pytest.mark.parametrize("name", ["small_cnn", "timm/resnet10t", "linear", "patch_dictionary"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_are_encoded_in_the_encoders_own(name: str, dtype: torch.dtype) -> None:
    encoder = frozen(name)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    for call in (encoder, encoder.encode, lambda images: encoder.layers(images)[0]):
        assert torch.equal(call(images), call(images.float()))


def test_noise_of_any_strength_is_encoded_though_it_moves_the_mean_of_few_pixels() -> None:
    encoder = frozen("small_cnn")
    for seed in range(20):
        noise = 100 * torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        assert encoder(0.5 + noise).isfinite().all()

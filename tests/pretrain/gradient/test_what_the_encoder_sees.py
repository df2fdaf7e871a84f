"""Augmentation and damage reach the encoder, and the target is the same crop without the damage."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from common.augment import WHOLE, AugmentConfig
from common.encoders import EncoderConfig, build_encoder
from common.pixels import to_float
from pretrain.gradient.decoders import DecoderConfig
from pretrain.gradient.objective import Objective
from pretrain.gradient.pretexts import Denoise

SIDE = 16


def seen(augment: AugmentConfig, sigma: float, images: Tensor) -> tuple[Tensor, Tensor]:
    """The encoder's input for uint8 images, and the loss if every prediction is black."""
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(model_args={"width": 8, "depth": 1}), image_size=SIDE)
    pretext = Denoise.model_validate({"corruption": {"kind": "gaussian", "sigma": sigma}})
    objective = Objective(encoder, DecoderConfig(kind="upsampler"), pretext, augment=augment)
    shown: list[Tensor] = []
    whole = encoder.layers

    def watched(images: Tensor) -> list[Tensor]:
        shown.append(images.detach().clone())
        return whole(images)

    encoder.layers = watched  # type: ignore[method-assign]
    objective.decoder.forward = lambda maps: torch.zeros(len(images), 3, SIDE, SIDE)
    [loss] = objective(images).values()
    return shown[0], loss


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(60, 200, (64, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def test_whole_images_without_damage_come_as_they_are(images: Tensor) -> None:
    shown, loss = seen(WHOLE, 1e-6, images)
    assert torch.allclose(shown, to_float(images), atol=1e-5)
    assert float(loss) == pytest.approx(float(to_float(images).square().mean()), rel=1e-5)


def test_about_half_are_mirrored(images: Tensor) -> None:
    shown, _ = seen(AugmentConfig(crop=None, flip=True), 1e-6, images)
    clean = to_float(images)
    as_it_is = torch.tensor([torch.allclose(a, b, atol=1e-5) for a, b in zip(shown, clean, strict=True)])
    mirrored = torch.tensor([torch.allclose(a, b.flip(2), atol=1e-5) for a, b in zip(shown, clean, strict=True)])
    assert (as_it_is ^ mirrored).all()
    assert 16 < int(mirrored.sum()) < 48


def test_crops_show_a_part_and_the_target_is_the_same_part() -> None:
    ramp = torch.linspace(0, 255, SIDE).round().to(torch.uint8).expand(64, 3, SIDE, SIDE)
    shown, loss = seen(AugmentConfig(crop=(0.25, 0.25), aspect=1.0, flip=False), 1e-6, ramp)
    width = shown.amax((1, 2, 3)) - shown.amin((1, 2, 3))
    assert width.mean() == pytest.approx(0.5, abs=0.03)  # a quarter of the area is half of the ramp
    assert shown.mean((1, 2, 3)).std() > 0.05  # each at a place of its own
    assert float(loss) == pytest.approx(float(shown.square().mean()), rel=1e-4)  # of the crop, not of the whole image


def test_colors_are_jittered() -> None:
    gray = torch.full((64, 3, SIDE, SIDE), 100, dtype=torch.uint8)
    shown, _ = seen(AugmentConfig(crop=None, flip=False, jitter=0.4), 1e-6, gray)
    assert shown.mean((1, 2, 3)).std() == pytest.approx(100 / 255 * 0.4 / 3**0.5, rel=0.3)


def test_damage_is_on_the_input_and_not_on_the_target(images: Tensor) -> None:
    clean = to_float(images)
    shown, loss = seen(WHOLE, 0.1, images)
    noise = shown - clean
    assert float(noise.std()) == pytest.approx(0.1, rel=0.05)
    assert float(loss) == pytest.approx(float(clean.square().mean()), rel=1e-5)


@pytest.mark.parametrize("settings", [{"crop": (0.3, 0.9)}, {"crop": None, "jitter": 0.2}], ids=str)
def test_two_calls_differ_and_the_same_seed_gives_the_same(settings: dict[str, Any], images: Tensor) -> None:
    augment = AugmentConfig(**settings)
    torch.manual_seed(5)
    first, second = augment(images), augment(images)
    torch.manual_seed(5)
    assert torch.equal(first, augment(images))
    assert not torch.equal(first, second)

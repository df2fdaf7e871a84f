"""Damage and holes of pictures before the network sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.corruptions import Gaussian, Holes
from common.encoders import Encoder
from pretrain.gradient.decoders import DecoderConfig
from pretrain.gradient.example import Example
from pretrain.gradient.kept import keep_decoder
from pretrain.gradient.objective import Objective
from pretrain.gradient.pretexts import Mixed, Pretext
from pretrain.restoring.config import RestoreConfig
from pretrain.restoring.pictures import Picture
from pretrain.restoring.restore import damaged_picture
from pretrain.restoring.restorer import NotFiniteError, PictureRestorer, open_restorer, punched
from pretrain.ruler.restorers import Damaged
from tests.pretrain.restoring.toys import SIDE

EncoderFor = Callable[[Pretext, str], Encoder]


@pytest.fixture
def restorer(encoder_for: EncoderFor, tmp_path: Path) -> PictureRestorer:
    """A restorer of holes in the mean color, and of noise."""
    settings, pretext = DecoderConfig(width=32), Mixed(members=[Holes(fill="mean"), Gaussian()])
    objective = Objective(encoder_for(pretext, "cnn"), settings, pretext)
    keep_decoder(objective, settings, tmp_path / "decoder", source="here", encoder_sha256="1")
    return open_restorer(tmp_path / "decoder")


def test_hidden_pixels_are_gray_or_the_mean_of_the_visible_ones() -> None:
    colors = torch.tensor([[10, 21, 99], [250, 250, 99], [0, 1, 99]])  # of each channel, the last pixel hidden
    images = torch.stack([colors, colors]).byte().view(2, 3, 1, 3)
    hidden = torch.zeros(2, 1, 1, 3, dtype=torch.bool)
    hidden[0, ..., 2] = hidden[1] = True  # of the second image, all
    gray, mean = punched(Damaged(images, hidden), "gray"), punched(Damaged(images, hidden), "mean")
    assert gray.images[0, :, 0].tolist() == [[10, 21, 128], [250, 250, 128], [0, 1, 128]]
    assert mean.images[0, :, 0].tolist() == [[10, 21, 16], [250, 250, 250], [0, 1, 0]]
    assert gray.images[1].unique().tolist() == mean.images[1].unique().tolist() == [128]
    assert gray.images.dtype == mean.images.dtype == torch.uint8
    floats = punched(Damaged(images / 255, hidden.float()), "mean").images
    assert floats[0, :, 0, 2].tolist() == pytest.approx([15.5 / 255, 250 / 255, 0.5 / 255])
    assert floats[1].unique().tolist() == [0.5]


def test_given_holes_have_the_color_of_training(restorer: PictureRestorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        restorer.objective, "restore_damaged", lambda damaged: damaged.images
    )  # what the network is given
    image, hidden = torch.rand(1, 3, SIDE, SIDE), torch.zeros(1, 1, SIDE, SIDE)
    hidden[..., 4:8, 4:8] = 1
    mean = (image * (1 - hidden)).sum((2, 3), keepdim=True) / (1 - hidden).sum()
    assert torch.allclose(restorer(image, hidden), torch.where(hidden > 0, mean, image), atol=1e-6)
    picture = Picture((image[0] * 255).byte(), hidden[0] > 0, None, None, None)
    config = RestoreConfig.model_validate({"out": "out", "run": "run", "data": {"source": "pictures"}})
    shown = damaged_picture(restorer, picture, config, "a.png").images
    assert torch.allclose(shown[..., 4:8, 4:8].float(), 255 * mean, atol=1.5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_refused(
    restorer: PictureRestorer, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    real = restorer.objective.predict

    def broken(example: Example) -> Any:
        prediction, *others = real(example)
        prediction = prediction.clone()
        prediction[example.input[:, 0].mean((1, 2)) > 0.8, 0, 3, 3] = value  # of bright tiles
        return prediction, *others

    monkeypatch.setattr(restorer.objective, "predict", broken)
    pictures = torch.full((3, 3, SIDE, SIDE), 0.5)
    assert restorer(pictures).isfinite().all()
    pictures[1] = 0.9
    with pytest.raises(NotFiniteError, match="NaN or infinite numbers; set precision=float32") as refused:
        restorer(pictures)
    assert refused.value.place == 1


def test_damage_is_drawn_from_its_numbers_and_seeds_nothing_else(
    restorer: PictureRestorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seeding(seed: int) -> None:
        pytest.fail("the generators of GPUs change")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeding)
    picture, state = torch.rand(1, 3, SIDE, SIDE), torch.get_rng_state()
    drawn: list[Tensor] = [restorer.damage(picture, *numbers).images for numbers in ((0, 1), (0, 1), (0, 2), (1, 1))]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[3])

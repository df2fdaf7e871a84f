"""Pictures that are damaged already, of any size: what each pretext makes of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from kornia.color import rgb_to_lab
from torch import Tensor

from common.corruptions import Gaussian, Holes
from common.encoders import Encoder
from common.encoders.base import TokenEncoder
from pretrain.gradient.decoders import DecoderConfig
from pretrain.gradient.objective import Objective
from pretrain.gradient.pretexts import Colorize, Denoise, Mask, Mixed, Pretext
from pretrain.gradient.pretexts.mask import likely_statistics, patch_statistics
from pretrain.ruler.restorers import Damaged
from tests.pretrain.gradient.family import EVERY, SIDE

EncoderFor = Callable[[Pretext, str], Encoder]


@pytest.fixture(params=list(EVERY.values()), ids=list(EVERY))
def model(request: pytest.FixtureRequest, encoder_for: EncoderFor, photographs: Tensor) -> Objective:
    pretext, name = request.param
    torch.manual_seed(0)
    found = Objective(encoder_for(pretext, name), DecoderConfig(width=32), pretext).eval()
    found.fit(photographs)
    return found


def test_it_restores_what_the_objective_restores_of_the_same_damage(model: Objective, photographs: Tensor) -> None:
    """Except where a mask's true statistics help with the pictures shown in training."""
    pretext, encoder = model.pretext, model.encoder
    if isinstance(pretext, Mask) and pretext.normalize_patches:
        pytest.skip("its true statistics are not known")
    torch.manual_seed(3)
    example, wanted = model.restore(photographs)
    torch.manual_seed(3)
    damaged = pretext.damage(photographs, encoder)
    assert torch.equal(damaged.hidden, example.hidden)
    assert torch.allclose(model.restore_damaged(damaged), wanted, atol=1e-5)


def test_what_is_restored_of_one_does_not_depend_on_the_others(model: Objective, photographs: Tensor) -> None:
    torch.manual_seed(3)
    damaged = model.pretext.damage(photographs[:4], model.encoder)
    alone = [model.restore_damaged(Damaged(*(part[place : place + 1] for part in damaged))) for place in range(4)]
    assert torch.allclose(model.restore_damaged(damaged), torch.cat(alone), atol=1e-5)


def test_a_picture_of_any_size_is_damaged_in_its_own_size(model: Objective) -> None:
    picture = torch.rand(1, 3, 21, 34)
    damaged = model.pretext.damage(picture, model.encoder)
    assert damaged.images.shape == picture.shape
    assert damaged.hidden.shape == (1, 1, 21, 34)
    assert model.pretext.fills_holes or not damaged.hidden.any()
    if not isinstance(model.pretext, (Denoise, Mixed)):
        assert torch.equal(torch.where(damaged.hidden > 0, picture, damaged.images), picture)


@pytest.mark.parametrize("name", ["cnn", "vit"])
@pytest.mark.parametrize("normalize", [False, True])
def test_holes_of_any_shape_are_filled_and_the_rest_is_kept(
    name: str, normalize: bool, encoder_for: EncoderFor, photographs: Tensor
) -> None:
    pretext = Mask(size=4, normalize_patches=normalize)
    model = Objective(encoder_for(pretext, name), DecoderConfig(width=32), pretext).eval()
    hidden = torch.zeros(16, 1, SIDE, SIDE)
    hidden[0, :, 3:9, 5:6] = 1  # of each image, another number of patches
    hidden[1, :, :, :7] = 1
    hidden[2] = 1  # all of it
    images = torch.where(hidden > 0, 0.5, photographs)
    restored = model.restore_damaged(Damaged(images, hidden))
    assert torch.equal(torch.where(hidden > 0, 0.0, restored), torch.where(hidden > 0, 0.0, photographs))
    assert torch.isfinite(restored).all()
    assert (restored[0] != images[0]).any()


def test_a_transformer_drops_the_patches_with_a_hole_but_never_all(encoder_for: EncoderFor) -> None:
    pretext = Mask()
    encoder = encoder_for(pretext, "vit")
    assert isinstance(encoder, TokenEncoder)
    hidden = torch.zeros(1, 1, SIDE, SIDE)
    hidden[..., 0, 4:9] = 1  # pixels of patches 1 and 2 of four per row
    example = pretext.given(Damaged(torch.rand(1, 3, SIDE, SIDE), hidden), encoder)
    assert example.visible is not None
    assert example.visible.tolist() == [[0, *range(3, 16)]]
    hidden[:] = 1
    hidden[..., 12, 12] = 0
    example = pretext.given(Damaged(torch.rand(1, 3, SIDE, SIDE), hidden), encoder)
    assert example.visible is not None
    assert example.visible.tolist() == [[15]]


def test_likely_statistics_are_those_of_visible_patches_and_of_the_neighbors_of_hidden_ones() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 16, 16)
    none = torch.zeros(2, 1, 16, 16)
    for likely, true in zip(likely_statistics(images, none, 4), patch_statistics(images, 4), strict=True):
        assert torch.allclose(likely, true, rtol=0.1)
    # left half dark, right half bright; one hidden patch in each
    images = torch.cat([torch.full((1, 3, 16, 8), 0.2), torch.full((1, 3, 16, 8), 0.9)], dim=3)
    hidden = torch.zeros(1, 1, 16, 16)
    hidden[..., 4:8, 0:4] = hidden[..., 8:12, 12:16] = 1
    shift, scale = likely_statistics(torch.where(hidden > 0, 0.5, images), hidden, 4)
    assert float(shift[0, 0, 5, 1]) == pytest.approx(0.2, abs=0.02)
    assert float(shift[0, 0, 9, 13]) == pytest.approx(0.9, abs=0.02)
    assert float(scale[0, 0, 5, 1]) < 0.05
    # nothing is visible: gray
    shift, scale = likely_statistics(torch.full((1, 3, 16, 16), 0.5), torch.ones(1, 1, 16, 16), 4)
    assert torch.allclose(shift, torch.tensor(0.5))
    assert torch.allclose(scale, torch.tensor(0.01))


def test_likely_statistics_are_weighted_by_visible_pixels_and_distance() -> None:
    torch.manual_seed(1)
    images, hidden = torch.rand(2, 3, 12, 20), torch.rand(2, 1, 12, 20).round()
    hidden[0, :, :8, :8] = 1
    found = torch.cat(likely_statistics(images, hidden, 4), dim=1)[:, :, ::4, ::4].numpy()
    for picture, holes, (shift, scale) in zip(images.double().numpy(), hidden[:, 0].numpy(), found, strict=True):
        parts = {}
        for row, column in product(range(3), range(5)):
            patch = (slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
            parts[row, column] = picture[:, *patch][:, holes[patch] == 0]
        seen = {place: part for place, part in parts.items() if part.size}
        for row, column in parts:
            weights = [part.size * np.exp(-4 * (abs(row - r) + abs(column - c))) for (r, c), part in seen.items()]
            mean = np.average([part.mean() for part in seen.values()], weights=weights)
            variance = np.average([part.var() for part in seen.values()], weights=weights)
            assert shift[row, column] == pytest.approx(mean, rel=1e-5)
            assert scale[row, column] == pytest.approx(np.sqrt(variance + 1e-4), rel=1e-4)


def test_a_large_tile_of_small_patches_fits_in_memory() -> None:
    images, hidden = torch.full((1, 3, 256, 256), 0.3), torch.zeros(1, 1, 256, 256)
    hidden[..., 200:] = 1
    # a weight for each pair of patches would take 34 GB
    shift, scale = likely_statistics(torch.where(hidden > 0, 0.5, images), hidden, 1)
    assert torch.allclose(shift, torch.tensor(0.3))
    assert torch.allclose(scale, torch.tensor(0.01))


def test_mixed_damage_says_what_stands_for_hidden_pixels() -> None:
    assert Mixed().hole_fill == "gray"
    assert Mixed(members=[Gaussian(), Holes(fill="mean"), Holes()]).hole_fill == "mean"


def test_colors_are_given_to_gray_pictures_and_their_lightness_is_kept(
    encoder_for: EncoderFor, photographs: Tensor
) -> None:
    pretext = Colorize(bins=12)
    model = Objective(encoder_for(pretext, "cnn"), DecoderConfig(width=32), pretext).eval()
    model.fit(photographs)
    gray = photographs.mean(1, keepdim=True).expand(-1, 3, -1, -1) * 0.4 + 0.3
    damaged = Damaged(gray, torch.zeros_like(gray[:, :1]))
    restored = pretext.kept(model.restore_damaged(damaged), damaged)
    assert (restored.amax(1) - restored.amin(1)).mean() > 0.01
    assert (rgb_to_lab(restored)[:, 0] - rgb_to_lab(gray)[:, 0]).abs().mean() < 0.5
    # the average of two colors with the same lightness has another lightness: that is corrected too
    red, green = (torch.tensor(one).view(1, 3, 1, 1) for one in ((0.86, 0.0, 0.0), (0.0, 0.53, 0.0)))
    light = torch.full((1, 3, 1, 1), 0.44)
    mixed = pretext.kept((red + green) / 2, Damaged(light, torch.zeros(1, 1, 1, 1)))
    assert float(rgb_to_lab(mixed)[0, 0]) == pytest.approx(float(rgb_to_lab(light)[0, 0]), abs=0.1)

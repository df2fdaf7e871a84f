"""Masking hides the stated share, scores only hidden pixels, and its pictures are complete."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.encoders import Encoder
from common.encoders.base import TokenEncoder
from pretrain.gradient.pretexts import Mask, Pretext
from pretrain.gradient.pretexts.mask import patch_statistics

EncoderFor = Callable[[Pretext, str], Encoder]


@pytest.fixture(scope="module")
def vit(encoder_for: EncoderFor) -> Encoder:
    return encoder_for(Mask(), "vit")


@settings(max_examples=25, deadline=None)
@given(ratio=st.floats(0.01, 0.99))
def test_the_stated_share_of_patches_is_hidden_from_a_vit(ratio: float, vit: Encoder) -> None:
    example = Mask(ratio=ratio).corrupt(torch.rand(3, 3, 16, 16), vit)
    assert example.weight is not None
    assert example.visible is not None
    hidden = min(max(round(ratio * 16), 1), 15)
    assert example.visible.shape == (3, 16 - hidden)
    assert example.weight.sum(dim=(1, 2, 3)).tolist() == [hidden * 16] * 3


def test_visible_patches_and_weights_complete_each_other(photographs: Tensor, vit: Encoder) -> None:
    example = Mask().corrupt(photographs, vit)
    assert example.weight is not None
    assert example.visible is not None
    by_patch = example.weight[:, 0, ::4, ::4].flatten(1)
    for weights, visible in zip(by_patch, example.visible, strict=True):
        assert weights.eq(0).nonzero().flatten().tolist() == visible.tolist()


def test_hidden_pixels_cannot_reach_a_vit(photographs: Tensor, vit: Encoder) -> None:
    example = Mask().corrupt(photographs, vit)
    assert isinstance(vit, TokenEncoder)
    assert example.weight is not None
    assert example.visible is not None
    spoiled = torch.where(example.weight > 0, torch.rand_like(photographs), photographs)
    assert torch.equal(vit.tokens(example.input, example.visible), vit.tokens(spoiled, example.visible))


def test_hidden_pixels_cannot_reach_a_cnn(photographs: Tensor, encoder_for: EncoderFor) -> None:
    example = Mask(size=2).corrupt(photographs, encoder_for(Mask(), "cnn"))
    assert example.weight is not None
    assert torch.equal(example.input[:, 3:], example.weight)
    holes = example.weight.expand(-1, 3, -1, -1) > 0
    assert (example.input[:, :3][holes] == 0.5).all()
    assert torch.equal(example.input[:, :3][~holes], photographs[~holes])


def test_patch_statistics_are_mae_s_in_float64(photographs: Tensor) -> None:
    mean, deviation = patch_statistics(photographs, 4)
    patches = photographs.double().numpy().reshape(16, 3, 4, 4, 4, 4).transpose(0, 2, 4, 1, 3, 5).reshape(16, 4, 4, -1)
    assert mean[:, 0, ::4, ::4].numpy() == pytest.approx(patches.mean(axis=-1), abs=1e-6)
    expected = np.sqrt(patches.var(axis=-1, ddof=1) + 1e-4)
    assert deviation[:, 0, 3::4, 3::4].numpy() == pytest.approx(expected, rel=1e-4)


def test_a_flat_patch_is_not_amplified() -> None:
    flat = torch.full((1, 3, 8, 8), 0.9)
    flat[..., 0] += 1 / 255
    mean, deviation = patch_statistics(flat, 4)
    assert ((flat - mean) / deviation).abs().max() < 0.5


def test_only_hidden_pixels_are_scored(photographs: Tensor, vit: Encoder) -> None:
    pretext = Mask(normalize_patches=False)
    example = pretext.corrupt(photographs, vit)
    assert example.weight is not None
    off = example.target + 0.5
    assert pretext.loss(off, example, {}).tolist() == pytest.approx([0.25] * len(photographs), rel=1e-5)
    wrong_where_seen = torch.where(example.weight > 0, example.target, torch.rand_like(photographs))
    assert (pretext.loss(wrong_where_seen, example, {}) == 0).all()
    absolute = Mask(normalize_patches=False, distance="l1").loss(off, example, {})
    assert absolute.tolist() == pytest.approx([0.5] * len(photographs), rel=1e-5)


def test_visible_patches_are_pasted_unless_disabled(photographs: Tensor, vit: Encoder) -> None:
    example = Mask().corrupt(photographs, vit)
    assert example.weight is not None
    seen = (example.weight == 0).expand_as(photographs)
    nonsense = torch.randn_like(photographs)
    assert torch.equal(Mask().picture(nonsense, example, {})[seen], photographs[seen])
    assert not torch.equal(Mask(paste_visible=False).picture(nonsense, example, {})[seen], photographs[seen])


def test_patches_that_do_not_fill_the_image_are_named(encoder_for: EncoderFor) -> None:
    cnn = encoder_for(Mask(), "cnn")
    (uneven,) = Mask(size=5).check(cnn)
    assert uneven.startswith("pretext.size is 5, which does not divide the image size 16")
    (whole,) = Mask(size=16).check(cnn)
    assert whole.startswith("pretext.size is 16, the whole image")

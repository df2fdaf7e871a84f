"""One contract for every pretext with every kind of encoder it supports."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from common.corruptions import AnyCorruption, Blur, Gray, Holes
from common.encoders import Encoder
from common.errors import UserError
from pretrain.gradient.decoders import DecoderConfig
from pretrain.gradient.example import Example
from pretrain.gradient.objective import Objective
from pretrain.gradient.pretexts import AnyPretext, Denoise, Identity, Mixed, Pretext
from pretrain.gradient.pretexts.mask import hidden_mean
from tests.pretrain.gradient.family import EVERY, EVERYTHING, SIDE

EncoderFor = Callable[[Pretext, str], Encoder]


@pytest.fixture(params=list(EVERY.values()), ids=list(EVERY))
def pair(request: pytest.FixtureRequest, encoder_for: EncoderFor) -> tuple[Pretext, Encoder]:
    pretext, name = request.param
    return pretext, encoder_for(pretext, name)


# ---- the contract


def test_the_pretext_fits_the_encoder(pair: tuple[Pretext, Encoder]) -> None:
    pretext, encoder = pair
    assert pretext.check(encoder) == []


def test_shapes_and_ranges_of_the_example(pair: tuple[Pretext, Encoder], photographs: Tensor) -> None:
    pretext, encoder = pair
    example = pretext.corrupt(photographs, encoder)
    count, side = len(photographs), pretext.output(SIDE)[1]
    assert example.input.shape == (count, 3 + encoder.mask_channel, SIDE, SIDE)
    assert torch.equal(example.clean, photographs)
    assert example.target.shape[0] == count
    assert example.target.shape[2:] == (side, side)
    assert example.target.dtype == example.input.dtype == torch.float32
    if example.weight is not None:
        assert example.weight.shape == (count, 1, side, side)
        assert example.weight.min() >= 0
    if encoder.mask_channel:
        assert set(example.input[:, 3].unique().tolist()) <= {0.0, 1.0}
    assert (example.visible is not None) == pretext.drops_tokens(encoder)


def test_damage_is_a_function_of_the_global_seed(pair: tuple[Pretext, Encoder], photographs: Tensor) -> None:
    pretext, encoder = pair
    examples = []
    for _ in range(2):
        torch.manual_seed(7)
        examples.append(pretext.corrupt(photographs, encoder))
    for one, other in zip(*examples, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_loss_is_the_same_float32_number_under_autocast(pair: tuple[Pretext, Encoder], photographs: Tensor) -> None:
    pretext, encoder = pair
    state = pretext.fit(photographs)
    example = pretext.corrupt(photographs, encoder)
    channels, side = pretext.output(SIDE)
    prediction = torch.randn(len(photographs), channels, side, side).bfloat16()
    plain = pretext.loss(prediction.float(), example, state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = pretext.loss(prediction, example, state)
    assert cast.dtype == torch.float32
    assert cast.shape == (len(photographs),)
    assert torch.equal(cast, plain)


def test_training_lowers_the_loss(pair: tuple[Pretext, Encoder], photographs: Tensor) -> None:
    pretext, encoder = pair
    model = Objective(encoder, DecoderConfig(width=32, depth=1), pretext)
    model.fit(photographs)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=3e-3)
    losses = []
    for _ in range(12):
        torch.manual_seed(0)  # the same damage at every step
        (loss,) = model(photographs).values()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
        optimizer.step()
    assert losses[-1] < 0.95 * losses[0]


def test_what_a_pretext_learns_fits_its_blank_buffers(pair: tuple[Pretext, Encoder], photographs: Tensor) -> None:
    """A checkpoint is loaded into them before any image is read."""
    learned, blank = pair[0].fit(photographs), pair[0].blank_state(SIDE)
    assert {name: (value.shape, value.dtype) for name, value in learned.items()} == {
        name: (value.shape, value.dtype) for name, value in blank.items()
    }


def test_the_gradient_of_a_batch_is_the_mean_over_its_parts(pair: tuple[Pretext, Encoder], photographs: Tensor) -> None:
    """For any weights of the error: accumulated micro-batches and several processes give the gradient of one batch."""
    pretext, encoder = pair
    state = pretext.fit(photographs)
    example = pretext.corrupt(photographs, encoder)
    channels, side = pretext.output(SIDE)
    prediction = torch.randn(len(photographs), channels, side, side, generator=torch.Generator().manual_seed(0))
    prediction.requires_grad_()
    (whole,) = torch.autograd.grad(pretext.loss(prediction, example, state).mean(), prediction)
    parts = []
    for one in range(len(photographs)):
        alone = Example(*(None if tensor is None else tensor[one : one + 1] for tensor in example))  # type: ignore[arg-type]
        parts.append(pretext.loss(prediction[one : one + 1], alone, state))
    (mean,) = torch.autograd.grad(torch.cat(parts).mean(), prediction)
    torch.testing.assert_close(mean, whole)


@pytest.mark.parametrize("name", [name for name in EVERY if name.startswith("mask")])
def test_the_loss_is_zero_if_no_pixel_counts(name: str, photographs: Tensor, encoder_for: EncoderFor) -> None:
    pretext, encoder = EVERY[name][0], encoder_for(*EVERY[name])
    state = pretext.fit(photographs)
    example = pretext.corrupt(photographs, encoder)
    assert example.weight is not None
    channels, side = pretext.output(SIDE)
    prediction = torch.zeros(len(photographs), channels, side, side, requires_grad=True)
    loss = pretext.loss(prediction, example._replace(weight=torch.zeros_like(example.weight)), state)
    loss.sum().backward()
    assert (loss == 0).all()
    assert prediction.grad is not None
    assert (prediction.grad == 0).all()


# color is restored at a quarter of the resolution only: see test_colorize.py
@pytest.mark.parametrize("name", [name for name in EVERY if not name.startswith("colorize")])
def test_perfect_prediction_costs_nothing_and_looks_like_the_original(
    name: str, photographs: Tensor, encoder_for: EncoderFor
) -> None:
    pretext, encoder = EVERY[name][0], encoder_for(*EVERY[name])
    example = pretext.corrupt(photographs, encoder)
    state = pretext.fit(photographs)
    assert pretext.loss(example.target, example, state).max().item() == pytest.approx(0, abs=1e-7)
    assert torch.allclose(pretext.picture(example.target, example, state), photographs, atol=1e-5)


def test_pictures_are_rgb_in_range_for_any_prediction(pair: tuple[Pretext, Encoder], photographs: Tensor) -> None:
    pretext, encoder = pair
    state = pretext.fit(photographs)
    example = pretext.corrupt(photographs, encoder)
    channels, side = pretext.output(SIDE)
    picture = pretext.picture(torch.randn(len(photographs), channels, side, side).bfloat16() * 9, example, state)
    assert picture.shape == photographs.shape
    assert picture.dtype == torch.float32
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_reads_back_from_its_own_dump(pair: tuple[Pretext, Encoder]) -> None:
    pretext, _ = pair
    reader: TypeAdapter[Pretext] = TypeAdapter(AnyPretext)
    assert reader.validate_python(pretext.model_dump(mode="json")) == pretext


# ---- individual pretexts


def test_hidden_mean_is_the_hand_computed_one() -> None:
    error = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]], [[[5.0, 6.0]], [[7.0, 8.0]]]])  # [2 2 1 2]
    hidden = torch.tensor([[[[0.0, 1.0]]], [[[1.0, 1.0]]]])
    assert hidden_mean(error, hidden).tolist() == pytest.approx([(2 + 4) / 2, (5 + 6 + 7 + 8) / 4])
    assert hidden_mean(error, torch.zeros_like(hidden)).tolist() == [0, 0]


def test_identity_refuses_a_code_wider_than_the_image(encoder_for: EncoderFor) -> None:
    (problem,) = Identity().check(encoder_for(Identity(), "wide"))
    assert "256x2x2 = 1024 numbers for an image of 768" in problem
    assert "encoder.model_args.code_channels to at most 191" in problem


def test_identity_refuses_skips_that_bypass_its_code(encoder_for: EncoderFor) -> None:
    with pytest.raises(UserError, match="bypass the narrow code"):
        Objective(encoder_for(Identity(), "narrow"), DecoderConfig(kind="unet"), Identity())


def test_mixed_draws_one_to_at_most_members_for_every_image() -> None:
    torch.manual_seed(0)
    images = torch.zeros(3000, 3, 1, 1)
    one = Mixed(members=EVERYTHING).choose(images)
    assert (one.sum(dim=1) == 1).all()
    assert one.float().mean(dim=0).tolist() == pytest.approx([1 / 6] * 6, abs=0.03)
    several = Mixed(members=EVERYTHING, at_most=3).choose(images).sum(dim=1)
    assert several.bincount(minlength=4).div(3000).tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3], abs=0.03)


def test_mixed_damages_each_image_only_by_its_own_member(photographs: Tensor, encoder_for: EncoderFor) -> None:
    pretext = Mixed(members=[Gray(), Holes()])
    encoder = encoder_for(pretext, "cnn")
    torch.manual_seed(0)
    chosen = pretext.choose(photographs)
    torch.manual_seed(0)
    example = pretext.corrupt(photographs, encoder)
    grayed, holed = chosen.T
    assert torch.equal(example.input[grayed, :3], Gray()(photographs)[grayed])
    assert (example.input[grayed, 3] == 0).all()
    hidden = example.input[holed, 3:]
    assert (hidden.mean(dim=(1, 2, 3)) == 0.5).all()
    assert torch.equal(example.input[holed, :3], torch.where(hidden > 0, 0.5, photographs[holed]))


def test_mixed_needs_a_mask_channel_only_if_there_are_holes() -> None:
    assert Mixed().mask_channel is True
    assert Mixed(members=[Gray()]).mask_channel is False


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="at_most is 3, but there are only 2 members"):
        Mixed(members=[Gray(), Blur()], at_most=3)
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        TypeAdapter(AnyPretext).validate_python({"kind": "denoise", "corruption": {"kind": "fog"}})


@pytest.mark.parametrize("corruption", EVERYTHING, ids=lambda one: one.kind)
def test_denoising_removes_any_corruption(
    corruption: AnyCorruption, photographs: Tensor, encoder_for: EncoderFor
) -> None:
    pretext = Denoise(corruption=corruption)
    encoder = encoder_for(pretext, "cnn")
    torch.manual_seed(0)
    example = pretext.corrupt(photographs, encoder)
    torch.manual_seed(0)
    assert torch.equal(example.input, corruption(photographs))
    assert torch.equal(example.target, photographs)

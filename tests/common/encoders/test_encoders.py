"""One contract over all encoders; then what our small CNN adds, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.encoders import Classifier, Encoder, EncoderConfig, build_encoder, layer_decay_groups
from common.encoders.export import export_encoder
from common.encoders.load import load_encoder
from common.errors import UserError
from tests.common.encoders.family import FAMILY, Member
from tests.common.encoders.toys import images


@pytest.fixture(scope="module", params=FAMILY, ids=str)
def member(request: pytest.FixtureRequest) -> Member:
    chosen: Member = request.param
    return chosen


@pytest.fixture(scope="module")
def encoder(member: Member) -> Encoder:
    """Built once a member; BatchNorm has seen noise, so that its statistics are not those it was born with."""
    encoder = member.build()
    with torch.no_grad():
        encoder.train()(images(8))
    return encoder.eval()


# ---- the contract


@torch.no_grad()
def test_layer_shapes_are_true_and_forward_is_the_last_layer(encoder: Encoder, member: Member) -> None:
    maps = encoder.layers(images(2))
    assert [tuple(m.shape[1:]) for m in maps] == encoder.layer_shapes
    assert encoder.map_shape == member.last
    torch.testing.assert_close(encoder(images(2)), maps[-1], rtol=0, atol=0)
    torch.testing.assert_close(encoder.encode(images(2)), maps[-1].mean((2, 3)))
    torch.testing.assert_close(encoder.encode(images(2), layer=0), maps[0].mean((2, 3)))


@torch.no_grad()
def test_one_image_alone_has_the_features_it_has_in_a_batch(encoder: Encoder) -> None:
    torch.testing.assert_close(encoder(images(4)[:1]), encoder(images(4))[:1], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_input_far_out_of_range_gives_finite_features(encoder: Encoder) -> None:
    assert encoder(images(2) * 6 - 3).isfinite().all()


@torch.no_grad()
def test_bfloat16_autocast_gives_nearly_the_same_features(encoder: Encoder) -> None:
    exact = encoder(images(2))
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(images(2)).float()
    assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.99


@torch.no_grad()
def test_channels_last_gives_the_same_features(encoder: Encoder, member: Member) -> None:
    other = member.build().to(memory_format=torch.channels_last)
    other.load_state_dict(encoder.state_dict())
    features = other.eval()(images(2).contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(features, encoder(images(2)), rtol=1e-3, atol=1e-3)


def test_exactly_the_parameters_on_the_path_learn(encoder: Encoder) -> None:
    encoder.zero_grad()
    features = encoder(images(2))
    if not any(True for _ in encoder.parameters()):  # fitted, or solved for: nothing learns by gradients
        assert not features.requires_grad
        return
    features.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    encoder.zero_grad()


@torch.no_grad()
def test_gray_view_ignores_color(member: Member) -> None:
    gray = member.build(view="gray").eval()
    colorful = images(2)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    luminance = (colorful * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    torch.testing.assert_close(gray(colorful), gray(luminance), rtol=1e-3, atol=1e-4)
    rgb = member.build(view="rgb").eval()
    assert not torch.allclose(rgb(colorful), rgb(luminance), rtol=1e-2, atol=1e-3)


@torch.no_grad()
def test_mask_channel_of_zeros_is_as_good_as_none_and_ones_are_seen(member: Member) -> None:
    if not member.masks:
        with pytest.raises(UserError, match=f"{member.name} takes no mask channel"):
            member.build(mask_channel=True)
        return
    encoder = member.build(mask_channel=True).eval()
    if member.name.startswith("timm/"):  # starts at zero there; give it weights, as training does
        stem = next(p for p in encoder.parameters() if p.ndim == 4 and p.shape[1] == 4)
        nn.init.normal_(stem[:, 3])
    zeros, ones = torch.zeros(2, 1, 32, 32), torch.ones(2, 1, 32, 32)
    torch.testing.assert_close(encoder(torch.cat([images(2), zeros], 1)), encoder(images(2)), rtol=0, atol=0)
    assert not torch.allclose(encoder(torch.cat([images(2), ones], 1)), encoder(images(2)), rtol=1e-2)


@torch.no_grad()
def test_export_and_load_keep_the_features_bit_for_bit(encoder: Encoder, tmp_path: Path) -> None:
    export_encoder(encoder, tmp_path / "encoder")
    torch.testing.assert_close(load_encoder(tmp_path / "encoder")(images(4)), encoder(images(4)), rtol=0, atol=0)


def test_frozen_encoder_stays_in_eval_mode_until_unfrozen(member: Member) -> None:
    encoder = member.build()
    learning = [name for name, p in encoder.named_parameters() if p.requires_grad]
    encoder.freeze().train()
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    encoder.unfreeze().train()
    assert all(module.training for module in encoder.modules())
    assert [name for name, p in encoder.named_parameters() if p.requires_grad] == learning


def test_building_is_a_function_of_the_seed(member: Member) -> None:
    first, second = member.build().state_dict(), member.build().state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_resolved_config_builds_the_same_network(encoder: Encoder) -> None:
    again = build_encoder(encoder.config, image_size=32)
    assert again.config == encoder.config
    assert {n: t.shape for n, t in again.state_dict().items()} == {n: t.shape for n, t in encoder.state_dict().items()}


def test_classifier_trains_all_it_uses_and_no_more(member: Member) -> None:
    classifier = Classifier(member.build().freeze(), ["cat", "dog", "owl"]).train()
    logits = classifier(images(4))
    assert logits.shape == (4, 3)
    logits.square().sum().backward()
    for name, parameter in classifier.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_layer_decay_groups_run_from_image_to_classifier(member: Member) -> None:
    classifier = Classifier(member.build(), ["cat", "dog"])
    groups = layer_decay_groups(classifier)
    assert {name for name, _ in groups} == {n for n, p in classifier.named_parameters() if p.requires_grad}
    depths = dict(groups)
    deepest = max(depths.values())
    head = [name for name, p in classifier.named_parameters() if p.ndim == 2 and p.shape[0] == 2]
    assert head
    assert all(depths[name] == deepest for name in head)
    assert set(depths.values()) == set(range(deepest + 1))
    first = next(name for name, p in classifier.named_parameters() if p.ndim >= 2)
    assert depths[first] == 0
    alone = layer_decay_groups(member.build())
    assert {("encoder." + name) for name, _ in alone} <= set(depths)


# ---- the small CNN


def test_small_cnn_gives_the_map_of_every_convolution() -> None:
    encoder = build_encoder(EncoderConfig(), image_size=32)
    sides = [(64, 16, 16), (64, 16, 16), (128, 8, 8), (128, 8, 8), (256, 4, 4), (256, 4, 4)]
    assert encoder.layer_shapes == sides
    assert sorted(set(encoder.depths().values())) == [0, 1, 2, 3, 4, 5]


def test_small_cnn_can_end_in_a_narrow_code() -> None:
    config = EncoderConfig(model_args={"width": 16, "depth": 1, "code_channels": 5})
    encoder = build_encoder(config, image_size=64)
    assert encoder.layer_shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8), (5, 8, 8)]


@torch.no_grad()
def test_small_cnns_code_can_be_sparse_and_nonnegative() -> None:
    args = {"width": 16, "depth": 1, "code_channels": 24}
    torch.manual_seed(0)
    plain = build_encoder(EncoderConfig(model_args=args), image_size=32).eval()
    sparse = build_encoder(EncoderConfig(model_args={**args, "rectify": True, "top_k": 3}), image_size=32).eval()
    sparse.load_state_dict(plain.state_dict())
    code = plain(images(4)).relu()
    kept = code.topk(3, dim=1)
    expected = torch.zeros_like(code).scatter(1, kept.indices, kept.values)
    torch.testing.assert_close(sparse(images(4)), expected, rtol=0, atol=0)


# ---- refusals: one plain message each


@pytest.mark.parametrize(
    ("config", "image_size", "message"),
    [
        ({"name": "smal_cnn"}, 32, "encoder.name: no encoder 'smal_cnn'; did you mean small_cnn?"),
        ({"name": "resnet18"}, 32, "did you mean timm/resnet18"),
        ({"name": "small_cnn", "model_args": {"widht": 3}}, 32, "widht: unknown key; did you mean 'width'?"),
        ({"name": "small_cnn", "model_args": {"width": 0}}, 32, "width: "),
        ({"name": "small_cnn", "pretrained": True}, 32, "small_cnn has no pretrained weights"),
        ({"name": "small_cnn", "model_args": {"top_k": 4}}, 32, "rectify and top_k need a code: set code_channels"),
        ({"name": "small_cnn"}, 33, "small_cnn cannot be used as an encoder at 33 px"),
    ],
)
def test_what_is_no_encoder_is_refused_with_its_reason(config: dict[str, Any], image_size: int, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_encoder(EncoderConfig(**config), image_size=image_size)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_network_whose_features_are_not_finite_is_refused() -> None:
    class Broken(Encoder):
        def __init__(self) -> None:
            super().__init__("broken", 32, "rgb", False)
            self.settle()

        def layers(self, images: Tensor) -> list[Tensor]:
            return [images / 0]

    with pytest.raises(UserError, match="broken cannot be used as an encoder at 32 px: its features are not finite"):
        Broken()


def test_network_that_shares_a_weight_is_refused() -> None:
    class Tied(Encoder):
        def __init__(self) -> None:
            super().__init__("tied", 32, "rgb", False)
            self.first = nn.Conv2d(3, 3, 1)
            self.second = nn.Conv2d(3, 3, 1, bias=False)
            self.second.weight = self.first.weight
            self.settle()

        def layers(self, images: Tensor) -> list[Tensor]:
            return [self.second(self.first(self.prepare(images)))]

    with pytest.raises(UserError, match=r"tied cannot be used .*: first.weight and second.weight share one weight"):
        Tied()

"""What timm's models add: tokens, stems that suit small images, pretrained weights, and their own refusals."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from common.encoders import EncoderConfig, TokenEncoder, build_encoder
from common.encoders.export import export_encoder
from common.encoders.load import load_encoder
from common.encoders.timm_model import create_timm_model
from common.errors import UserError
from tests.toys import new_timm

TINY_VIT = {"patch_size": 4, "embed_dim": 48, "depth": 3, "num_heads": 3}
HIERA = {"embed_dim": 16, "stages": [1, 1, 1, 1]}
COAT = {"serial_depths": [1, 1, 1, 1], "parallel_depth": 1}
GEMMA = {"depth": 1, "embed_dim": 48, "num_heads": 2}


def images(count: int, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


# ---- token encoders


@pytest.fixture(scope="module", params=["plain", "registers", "no_embed_class", "no_class_token", "distilled"])
def token_encoder(request: pytest.FixtureRequest) -> TokenEncoder:
    members: dict[str, tuple[str, dict[str, Any]]] = {
        "plain": ("vit_tiny_patch16_224", {}),
        "registers": ("vit_tiny_patch16_224", {"reg_tokens": 2, "pre_norm": True}),
        "no_embed_class": ("vit_tiny_patch16_224", {"no_embed_class": True}),
        "no_class_token": ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}),
        "distilled": ("deit_tiny_distilled_patch16_224", {}),
    }
    name, args = members[request.param]
    torch.manual_seed(0)
    config = EncoderConfig(name=f"timm/{name}", model_args={**TINY_VIT, **args})
    encoder = build_encoder(config, image_size=32)
    assert isinstance(encoder, TokenEncoder)
    assert encoder.grid == (8, 8)
    assert encoder.patch_size == 4
    return encoder.eval()


@torch.no_grad()
def test_tokens_of_all_patches_are_timms_own_features(token_encoder: TokenEncoder) -> None:
    everything = torch.arange(64).expand(2, -1)
    tokens = token_encoder.tokens(images(2), everything)
    model: Any = token_encoder.body
    timms = model.forward_features(token_encoder.prepare(images(2)))[:, model.num_prefix_tokens :]
    torch.testing.assert_close(tokens, timms, rtol=0, atol=0)
    torch.testing.assert_close(token_encoder(images(2)).flatten(2).transpose(1, 2), tokens, rtol=0, atol=0)
    torch.testing.assert_close(token_encoder.layers(images(2))[-1], token_encoder(images(2)), rtol=0, atol=0)


@torch.no_grad()
def test_tokens_come_in_the_order_asked_and_ignore_hidden_patches(token_encoder: TokenEncoder) -> None:
    visible = torch.tensor([[5, 60, 9, 0], [33, 2, 1, 63]])
    tokens = token_encoder.tokens(images(2), visible)
    assert tokens.shape == (2, 4, 48)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(token_encoder.tokens(images(2), visible[:, order]), tokens[:, order])
    # repaint every hidden patch: the visible tokens must not change
    hidden = torch.ones(2, 64).scatter(1, visible, 0).view(2, 1, 8, 8)
    hidden = hidden.repeat_interleave(4, 2).repeat_interleave(4, 3)
    repainted = images(2) * (1 - hidden) + images(2, seed=9) * hidden
    torch.testing.assert_close(token_encoder.tokens(repainted, visible), tokens, rtol=0, atol=0)


def test_every_learning_parameter_of_a_token_encoder_gets_gradient_through_tokens(token_encoder: TokenEncoder) -> None:
    token_encoder.zero_grad()
    token_encoder.tokens(images(2), torch.tensor([[5, 60, 9], [33, 2, 1]])).square().sum().backward()
    for name, parameter in token_encoder.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    token_encoder.zero_grad()


def test_deep_vision_transformers_give_six_layers_the_last_one_included() -> None:
    args = {**TINY_VIT, "depth": 12, "embed_dim": 12}
    encoder = build_encoder(EncoderConfig(name="timm/vit_tiny_patch16_224", model_args=args), image_size=32).eval()
    assert encoder.layer_shapes == [(12, 8, 8)] * 6
    model: Any = encoder.body
    with torch.no_grad():
        timms = model.forward_intermediates(
            encoder.prepare(images(1)), indices=[1, 3, 5, 7, 9, 11], intermediates_only=True
        )
        ours = encoder.layers(images(1))
    for ours_map, timms_map in zip(ours[:-1], timms[:-1], strict=True):
        torch.testing.assert_close(ours_map, timms_map, rtol=0, atol=0)


# ---- fitting timm models to small images


@pytest.mark.parametrize(
    ("name", "image_size", "stem", "args", "last_side"),
    [
        ("timm/resnet18", 32, "small", {}, 4),
        ("timm/resnet18", 64, "small", {}, 8),
        ("timm/resnet18", 128, "default", {}, 4),
        ("timm/resnet18d", 32, "small", {}, 4),
        ("timm/convnext_atto", 32, "default", {"patch_size": 1}, 4),
        ("timm/convnext_atto", 64, "default", {"output_stride": 16}, 4),
        ("timm/convnext_atto", 128, "default", {}, 4),
        ("timm/test_vit", 32, "default", {"img_size": 32, "patch_size": 4}, 8),
        ("timm/test_vit", 128, "default", {"img_size": 128}, 8),
        ("timm/efficientnet_lite0", 32, "default", {"output_stride": 8}, 4),
    ],
)
def test_auto_stem_keeps_the_last_map_fine_enough(
    name: str, image_size: int, stem: str, args: dict[str, Any], last_side: int
) -> None:
    encoder = build_encoder(EncoderConfig(name=name), image_size=image_size)
    assert encoder.config.stem == stem
    assert encoder.config.model_args == args
    assert encoder.map_shape[1:] == (last_side, last_side)


def test_default_stem_and_chosen_arguments_are_left_alone() -> None:
    assert build_encoder(EncoderConfig(name="timm/resnet18", stem="default"), image_size=32).map_shape[1:] == (1, 1)
    chosen = EncoderConfig(name="timm/convnext_atto", model_args={"patch_size": 2})
    assert build_encoder(chosen, image_size=32).map_shape[1:] == (1, 1)


def test_small_stem_of_a_resnet_sees_every_pixel() -> None:
    model: Any = build_encoder(EncoderConfig(name="timm/resnet18"), image_size=32).body
    assert model.conv1.weight.shape == (64, 3, 3, 3)
    assert model.conv1.stride == (1, 1)
    assert isinstance(model.maxpool, nn.Identity)


def test_images_are_standardized_as_timm_does_for_the_model() -> None:
    encoder = build_encoder(EncoderConfig(name="timm/test_vit"), image_size=32)
    model: Any = encoder.body
    mean = torch.tensor(timm.data.resolve_data_config(model=model)["mean"])
    torch.testing.assert_close(encoder.prepare(mean.view(1, 3, 1, 1).expand(1, 3, 32, 32)), torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("name", ["hiera_tiny_224", "sam2_hiera_tiny"])
def test_models_that_do_not_normalize_their_maps_give_them_as_they_are(name: str) -> None:
    encoder = build_encoder(EncoderConfig(name=f"timm/{name}", model_args=HIERA), image_size=32).eval()
    model: Any = encoder.body
    with torch.no_grad():
        timms = model.forward_intermediates(encoder.prepare(images(1)), norm=False, intermediates_only=True)
        for ours, expected in zip(encoder.layers(images(1)), timms, strict=True):
            torch.testing.assert_close(ours, expected, rtol=0, atol=0)


@new_timm
def test_a_lower_patch_size_that_a_model_takes_but_cannot_use_is_not_chosen() -> None:
    """CoaT's later stages are built for patches of 4 px, whatever the first one has."""
    model, config = create_timm_model(EncoderConfig(name="timm/coat_tiny", model_args=COAT), 32)
    assert "patch_size" not in config.model_args
    with torch.no_grad():
        model.forward_intermediates(images(1), intermediates_only=True)


@torch.no_grad()
def test_infinite_limits_that_a_fresh_network_has_are_no_divergence(tmp_path: Path) -> None:
    encoder = build_encoder(EncoderConfig(name="timm/gemma4_vit_167m_enc", model_args=GEMMA), image_size=48).eval()
    limits = [name for name, tensor in encoder.state_dict().items() if not tensor.isfinite().all()]
    assert limits
    export_encoder(encoder, tmp_path / "encoder")
    shown = torch.rand(1, 3, 48, 48)
    torch.testing.assert_close(load_encoder(tmp_path / "encoder")(shown), encoder(shown), rtol=1e-5, atol=1e-5)
    encoder.get_buffer(limits[0]).mul_(-1)
    with pytest.raises(UserError, match="is not finite, so training diverged"):
        export_encoder(encoder, tmp_path / "other")


# ---- refusals: one plain message each


@pytest.mark.parametrize(
    ("config", "image_size", "message"),
    [
        ({"name": "timm/resnet19"}, 32, "timm has no model 'resnet19'; did you mean timm/resnet1"),
        ({"name": "timm/resnet18.nope"}, 32, "timm has no weights 'resnet18.nope'; it has timm/resnet18."),
        ({"name": "timm/resnet18", "model_args": {"foo": 1}}, 32, "unexpected keyword argument 'foo'"),
        ({"name": "timm/resnet18", "model_args": {"in_chans": 1}}, 32, "encoder.model_args.in_chans: it is determined"),
        ({"name": "timm/test_vit", "model_args": {"img_size": 48}}, 32, "set data.image_size=48"),
        ({"name": "timm/test_vit", "model_args": {"patch_size": 5}}, 32, "patches of 5x5 px do not tile it"),
        ({"name": "timm/convnext_atto", "stem": "small"}, 32, "small replaces the stem of a ResNet"),
        pytest.param(
            {"name": "timm/coat_tiny", "model_args": COAT},
            32,
            "share one weight, which a weights file cannot represent",
            marks=new_timm,
        ),
        # with the size that works
        ({"name": "timm/efficientformer_l1"}, 32, "; set data.image_size=224"),
        ({"name": "timm/hiera_tiny_224", "model_args": HIERA}, 48, "invalid for input of size"),
        ({"name": "timm/hiera_tiny_224", "model_args": HIERA}, 48, "; set data.image_size=64"),
        ({"name": "timm/gemma4_vit_167m_enc", "model_args": GEMMA}, 32, "; set data.image_size=48"),
    ],
)
def test_what_is_no_encoder_is_refused_with_its_reason(config: dict[str, Any], image_size: int, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_encoder(EncoderConfig(**config), image_size=image_size)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_model_without_intermediate_features_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: nn.Conv2d(3, 8, 3))
    with pytest.raises(UserError, match="it has no intermediate features in timm"):
        build_encoder(EncoderConfig(name="timm/resnet18"), image_size=32)


def test_model_whose_stem_is_no_plain_convolution_takes_no_mask_channel() -> None:
    with pytest.raises(UserError, match="its first layer takes no mask channel"):
        build_encoder(EncoderConfig(name="timm/fastvit_t8"), image_size=64, mask_channel=True)


def test_weights_that_cannot_be_fetched_are_a_plain_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"weights cannot be downloaded .*no route to host.*pretrained=false"):
        build_encoder(EncoderConfig(name="timm/resnet18", pretrained=True), image_size=32)


def test_weights_that_cannot_be_kept_name_the_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        try:
            raise PermissionError(errno.EACCES, "Permission denied", "/cache/hub")
        except PermissionError as error:
            raise RuntimeError("no weights") from error

    monkeypatch.setattr(timm, "create_model", full)
    with pytest.raises(UserError) as refused:
        build_encoder(EncoderConfig(name="timm/resnet18", pretrained=True), image_size=32)
    assert str(refused.value) == (
        "timm/resnet18: its pretrained weights: the download cannot be kept (Permission denied: /cache/hub); set "
        "HF_HOME (or TORCH_HOME) to a folder that can be written"
    )


@pytest.fixture
def local_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """timm finds "pretrained" weights of test_resnet in a file; gives those weights."""
    torch.manual_seed(1)
    weights: dict[str, Tensor] = timm.create_model("test_resnet").state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    create = timm.create_model

    def create_offline(*args: Any, **kwargs: Any) -> Any:
        return create(*args, pretrained_cfg_overlay={"file": str(tmp_path / "weights.pth")}, **kwargs)

    monkeypatch.setattr(timm, "create_model", create_offline)
    return weights


@torch.no_grad()
def test_pretrained_weights_are_kept_as_they_are(local_weights: dict[str, Tensor], tmp_path: Path) -> None:
    config = EncoderConfig(name="timm/test_resnet", pretrained=True)
    encoder = build_encoder(config, image_size=32).eval()
    assert encoder.config.stem == "default"
    assert all(torch.equal(t, local_weights[n]) for n, t in encoder.body.state_dict().items())
    # a mask channel starts unseen, and the export needs no second download
    masked = build_encoder(config, image_size=32, mask_channel=True).eval()
    ones = torch.cat([images(2), torch.ones(2, 1, 32, 32)], 1)
    torch.testing.assert_close(masked(ones), encoder(images(2)), rtol=1e-4, atol=1e-5)
    (tmp_path / "weights.pth").unlink()
    export_encoder(encoder, tmp_path / "encoder")
    torch.testing.assert_close(load_encoder(tmp_path / "encoder")(images(2)), encoder(images(2)), rtol=0, atol=0)


def test_a_last_map_that_is_small_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    build_encoder(EncoderConfig(name="timm/test_resnet"), image_size=32)
    assert "the last map" not in caplog.text
    build_encoder(EncoderConfig(name="timm/test_resnet"), image_size=8)
    assert "timm/test_resnet: the last map of a 8 px image is only 1x1; larger images" in caplog.text


def test_a_small_stem_in_front_of_pretrained_weights_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **given: create(name, **given))
    build_encoder(EncoderConfig(name="timm/test_resnet", pretrained=True, stem="small"), image_size=32)
    assert any("the small stem has no pretrained weights and starts from random ones" in one for one in caplog.messages)

"""An exported encoder goes on learning: the same function in another shape, or a plain refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from common.encoders import EncoderConfig, View, build_encoder
from common.encoders.base import MaskChannel
from common.encoders.config import StartConfig
from common.encoders.export import export_encoder
from common.encoders.start import pinned, start_encoder
from common.errors import UserError

NETWORKS = {
    "cnn": EncoderConfig(model_args={"width": 8, "depth": 1}),
    "resnet": EncoderConfig(name="timm/test_resnet"),
    "vit": EncoderConfig(
        name="timm/vit_tiny_patch16_224", model_args={"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
    ),
    "mlp": EncoderConfig(name="mlp"),
}


def exported(folder: Path, name: str, view: View = "rgb", size: int = 16) -> Path:
    torch.manual_seed(1)
    encoder = build_encoder(NETWORKS[name], image_size=size, view=view)
    for buffer in encoder.buffers():
        if buffer.is_floating_point() and buffer.ndim == 1:
            buffer.add_(0.1 * torch.rand_like(buffer))  # BatchNorm statistics that a new network does not have
    export_encoder(encoder, folder)
    return folder


def images(size: int = 16) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("view", ["rgb", "gray"])
@pytest.mark.parametrize("mask_channel", [False, "maps"])
@pytest.mark.parametrize("name", ["cnn", "resnet", "vit"])
def test_it_starts_as_the_function_that_was_learned(
    tmp_path: Path, name: str, mask_channel: MaskChannel, view: View
) -> None:
    folder = exported(tmp_path / "encoder", name)
    torch.manual_seed(1)
    learned = build_encoder(NETWORKS[name], image_size=16)
    encoder = start_encoder(StartConfig(path=folder), image_size=16, view=view, mask_channel=mask_channel)
    assert encoder.training
    assert any(parameter.requires_grad for parameter in encoder.parameters())
    assert (encoder.view, encoder.mask_channel) == (view, bool(mask_channel) and name != "vit")
    from common.encoders.load import load_encoder

    known = images() if view == "rgb" else images().mean(1, keepdim=True).expand(-1, 3, -1, -1)
    with torch.no_grad():
        for mine, theirs in zip(encoder.eval().layers(known), load_encoder(folder).layers(known), strict=True):
            assert torch.allclose(mine, theirs, atol=1e-5)
        if encoder.mask_channel:  # and whatever is hidden: its weights are zero
            hidden = torch.cat([known, torch.ones_like(known[:, :1])], 1)
            assert torch.equal(encoder(hidden), encoder(known))
    assert learned.config == encoder.config


def test_convolutions_take_any_size_and_positions_are_resampled(tmp_path: Path) -> None:
    cnn = start_encoder(StartConfig(path=exported(tmp_path / "cnn", "cnn")), image_size=32)
    assert cnn.image_size == 32
    folder = exported(tmp_path / "vit", "vit")
    vit = start_encoder(StartConfig(path=folder), image_size=32)
    was = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
    prefix, grid = was.pos_embed[:, :1], was.pos_embed[:, 1:].transpose(1, 2).reshape(1, 24, 4, 4)
    larger = F.interpolate(grid, (8, 8), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    found = vit.state_dict()["model.pos_embed"]
    assert torch.allclose(found, torch.cat([prefix, larger], 1), atol=1e-5)
    assert torch.equal(vit.state_dict()["model.blocks.1.mlp.fc1.weight"], was.blocks[1].mlp.fc1.weight)
    assert vit(images(32)).shape == (2, 24, 8, 8)


def test_weights_that_fit_one_size_are_refused_at_another(tmp_path: Path) -> None:
    folder = exported(tmp_path / "mlp", "mlp")
    with pytest.raises(UserError) as error:
        start_encoder(StartConfig(path=folder), image_size=32)
    assert str(error.value) == (
        f"encoder: {folder} learned from images of 16 px, and its weights fit no other size: set data.image_size=16, "
        "or start from another encoder"
    )


def test_another_encoder_than_that_of_the_start_is_refused(tmp_path: Path) -> None:
    start, card = pinned(StartConfig(path=exported(tmp_path / "encoder", "cnn")))
    assert card is not None
    assert start.sha256 == card.sha256
    exported(tmp_path / "encoder", "cnn", size=32)
    with pytest.raises(UserError, match=r"is not the one that this run started from \(sha256 "):
        start_encoder(start, image_size=16)
    assert pinned(start) == (start, None)  # the caller that builds it says why
    assert pinned(StartConfig()) == (StartConfig(), None)


def test_a_path_and_settings_of_a_network_exclude_each_other() -> None:
    with pytest.raises(
        ValueError, match="path is an exported encoder, which has its own name, model_args: give one or the other"
    ):
        StartConfig(path=Path("runs/a"), name="mlp", model_args={"width": 4})
    with pytest.raises(ValueError, match="sha256 belongs to path: give both"):
        StartConfig(sha256="0")


def test_the_name_of_a_network_is_no_folder() -> None:
    for name in ("timm/resnet18", "small_cnn"):
        with pytest.raises(UserError, match=f"builds by its name is encoder.name={name}"):
            start_encoder(StartConfig(path=Path(name)), image_size=16)


def test_smaller_images_than_those_that_it_learned_from_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = exported(tmp_path / "cnn", "cnn", size=32)
    for size in (32, 64):
        start_encoder(StartConfig(path=folder), image_size=size)
    assert "keep its scale" not in caplog.text
    start_encoder(StartConfig(path=folder), image_size=16)
    assert "it learned from images of 32 px, and now sees 16: set data.image_size=32 to keep its scale" in caplog.text

"""What plain timm can do with an encoder folder, and what the folder says if it cannot."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from common.encoders import Classifier, View
from common.encoders.export import export_classifier, export_encoder
from common.encoders.load import load_classifier, load_encoder, read_encoder_card
from common.encoders.provenance import Provenance
from tests.common.encoders.family import FAMILY, Member
from tests.common.encoders.toys import TINY_VIT, build, images


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "args", "stem"),
    [
        ("timm/convnext_atto", {}, "auto"),
        ("timm/resnet18", {"channels": [8, 8, 8, 8]}, "default"),
        ("timm/vit_tiny_patch16_224", TINY_VIT, "auto"),
        ("timm/vit_tiny_patch16_224", {**TINY_VIT, "class_token": False, "global_pool": "avg"}, "auto"),
        ("timm/test_efficientnet", {}, "auto"),
    ],
)
def test_plain_timm_opens_the_folder_with_identical_features(
    name: str, args: dict[str, Any], stem: str, tmp_path: Path
) -> None:
    encoder = build(name, args, stem=stem)
    export_encoder(encoder, tmp_path / "encoder", Provenance(steps=1))
    assert read_encoder_card(tmp_path / "encoder").plain_timm
    plain = timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True, num_classes=0).eval()
    ours: Any = encoder.body
    x = encoder.prepare(images())
    torch.testing.assert_close(plain.forward_features(x), ours.forward_features(x), rtol=0, atol=0)
    described = timm.data.resolve_data_config(model=plain)
    assert tuple(described["input_size"]) == (3, 32, 32)
    assert described["mean"] == pytest.approx(encoder.mean.flatten().tolist())
    assert described["std"] == pytest.approx(encoder.std.flatten().tolist())


def test_folder_that_plain_timm_cannot_open_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="retouch"):
        export_encoder(build("timm/test_resnet"), tmp_path / "encoder")
    card = read_encoder_card(tmp_path / "encoder")
    assert not card.plain_timm
    assert "stem was replaced" in card.note
    assert card.note in caplog.text


THIN = {"channels": [8, 8, 8, 8]}


def enlarged(images: Tensor) -> Tensor:
    """Every pixel 4x4 times."""
    return images.repeat_interleave(4, 2).repeat_interleave(4, 3)


@torch.no_grad()
@pytest.mark.parametrize(("name", "size"), [("resnet18", 32), ("resnet10t", 24), ("resnet18d", 33)])
def test_a_stem_for_small_images_opens_in_plain_timm_which_sees_every_pixel_sixteen_times(
    name: str, size: int, tmp_path: Path
) -> None:
    encoder = build(f"timm/{name}", THIN, size=size)
    assert encoder.config.stem == "small"
    export_encoder(encoder, tmp_path / "encoder")
    card = read_encoder_card(tmp_path / "encoder")
    assert card.plain_timm
    assert f"scale them to {size} px and then repeat every pixel 4x4 times (to {4 * size} px, nearest)" in card.note
    shown = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    for ours, again in zip(encoder.layers(shown), load_encoder(tmp_path / "encoder").layers(shown), strict=True):
        torch.testing.assert_close(again, ours, rtol=0, atol=0)
    plain = timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True, num_classes=0).eval()
    body: Any = encoder.body
    expected = body.forward_features(encoder.prepare(shown))
    assert float(expected.abs().max()) > 0.01
    found = plain.forward_features(enlarged(encoder.prepare(shown)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    # timm's own transform shows it an image of that size in the right way
    picture = (shown[0] * 255).to(torch.uint8)
    described = timm.data.resolve_data_config(model=plain)
    transformed = timm.data.create_transform(**described)(Image.fromarray(picture.permute(1, 2, 0).numpy()))
    torch.testing.assert_close(transformed[None], enlarged(encoder.prepare(picture[None] / 255)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_classifier_with_a_stem_for_small_images_has_its_logits_in_plain_timm(tmp_path: Path) -> None:
    encoder = build("timm/resnet18", THIN)
    classifier = Classifier(encoder, ("cat", "dog")).eval()
    export_classifier(classifier, tmp_path / "classifier")
    plain = timm.create_model(f"local-dir:{tmp_path / 'classifier'}", pretrained=True).eval()
    expected = classifier(images())
    torch.testing.assert_close(plain(enlarged(encoder.prepare(images()))), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(load_classifier(tmp_path / "classifier")(images()), expected, rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["timm/resnetblur18", "timm/test_resnet"])
def test_stems_that_timm_cannot_have_are_known(name: str) -> None:
    """Antialiased pooling, and a width other than 64."""
    encoder: Any = build(name)
    assert encoder.config.stem == "small"
    assert not encoder.plain


@torch.no_grad()
def test_folders_written_before_timm_could_open_them_still_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = build("timm/resnet18", THIN)
    with monkeypatch.context() as patch:
        patch.setattr("common.encoders.timm_encoder.timm_has_it", lambda model, args: False)
        export_encoder(encoder, tmp_path / "encoder")
    assert not read_encoder_card(tmp_path / "encoder").plain_timm
    torch.testing.assert_close(load_encoder(tmp_path / "encoder")(images()), encoder(images()), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("view", ["rgb", "gray"])
@pytest.mark.parametrize("member", FAMILY, ids=str)
def test_what_plain_timm_cannot_do_with_a_folder_stands_in_its_note(member: Member, view: View, tmp_path: Path) -> None:
    encoder = member.build(view=view).eval()
    export_encoder(encoder, tmp_path / "encoder")
    card = read_encoder_card(tmp_path / "encoder")
    if not card.plain_timm:
        assert "plain timm cannot open this folder; Retouch can" in card.note
        with pytest.raises(RuntimeError, match=card.note):
            timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True, num_classes=0)
        return
    plain = timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True, num_classes=0).eval()
    described = timm.data.resolve_data_config(model=plain)
    mean, std = (torch.tensor(described[key]).view(3, 1, 1) for key in ("mean", "std"))
    assert (described["crop_pct"], described["crop_mode"], described["interpolation"]) == (1.0, "center", "bicubic")
    shown, gray = images(), images() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    if card.note:  # what it asks for
        assert "set all three channels to 0.299 R + 0.587 G + 0.114 B before standardizing" in card.note
        shown = gray.sum(1, keepdim=True).expand(-1, 3, -1, -1)
    ours: Any = encoder.body
    expected = ours.forward_features(encoder.prepare(images()))
    torch.testing.assert_close(plain.forward_features((shown - mean) / std), expected, rtol=1e-4, atol=1e-4)


def test_standardization_of_a_timm_folder_survives_another_export(tmp_path: Path) -> None:
    export_encoder(build("timm/test_convnext"), tmp_path / "first")
    config = json.loads((tmp_path / "first" / "config.json").read_text())
    del config["retouch"]  # as timm itself writes it
    config["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (tmp_path / "first" / "config.json").write_text(json.dumps(config))
    encoder = load_encoder(tmp_path / "first")
    export_encoder(encoder, tmp_path / "second")
    torch.testing.assert_close(load_encoder(tmp_path / "second")(images()), encoder(images()), rtol=0, atol=0)
    plain = timm.create_model(f"local-dir:{tmp_path / 'second'}", pretrained=True, num_classes=0)
    assert timm.data.resolve_data_config(model=plain)["mean"] == pytest.approx((0.1, 0.2, 0.3))

"""Exported folders: read back exactly, opened by plain timm, never written over what is not ours."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from common.data.levels import Levels
from common.encoders import Classifier
from common.encoders.card import resized
from common.encoders.export import export_classifier, export_encoder
from common.encoders.load import encoder_sha256, load_classifier, load_encoder, random_twin, read_encoder_card
from common.encoders.provenance import Provenance
from common.errors import UserError
from tests.common.encoders.toys import SMALL, TINY_VIT, build, images

# ---- what an export says and keeps


def test_card_tells_what_was_exported(tmp_path: Path) -> None:
    encoder = build(view="gray")
    known = Provenance(seed=7, pretext={"kind": "pca"}, source="my/pictures")
    sha256 = export_encoder(encoder, tmp_path / "encoder", known)
    card = read_encoder_card(tmp_path / "encoder")
    assert (card.name, card.image_size, card.view) == ("small_cnn", 32, "gray")
    assert (card.provenance.seed, card.provenance.kind, card.provenance.source) == (7, "pca", "my/pictures")
    assert (card.provenance.steps, card.provenance.knows_levels) == (None, False)
    assert card.parameters == sum(p.numel() for p in encoder.parameters())
    assert card.tensors == len(load_file(tmp_path / "encoder" / "model.safetensors"))
    assert list(card.layer_shapes) == encoder.layer_shapes
    assert sha256 == card.sha256 == encoder_sha256(tmp_path / "encoder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder"]
    assert sorted(path.name for path in (tmp_path / "encoder").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("name", ["timm/vit_xsmall_patch16_clip_224", "timm/vit_tiny_patch16_224", "small_cnn"])
def test_constants_of_the_network_come_back_exactly(tmp_path: Path, name: str) -> None:
    """CLIP's constants have eight digits; the card has the usual ones in their common form."""
    encoder = build(name, TINY_VIT if name.startswith("timm/") else None)
    export_encoder(encoder, tmp_path / "encoder")
    loaded = load_encoder(tmp_path / "encoder")
    assert torch.equal(loaded.mean, encoder.mean)
    assert torch.equal(loaded.std, encoder.std)
    assert torch.equal(loaded(images()), encoder(images()))
    assert len(str(read_encoder_card(tmp_path / "encoder").mean[0])) <= len("0.48145466")


def test_loading_says_what_was_loaded_and_gives_a_frozen_encoder(
    exported: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="retouch"):
        encoder = load_encoder(exported)
    card = read_encoder_card(exported)
    parts = ("small_cnn", f"{card.tensors} tensors", "rgb at 32 px", card.sha256[:12])
    assert all(part in caplog.text for part in parts)
    assert not encoder.train().training
    assert not any(p.requires_grad for p in encoder.parameters())


def test_the_card_says_how_images_are_shown(folder: Path) -> None:
    card = json.loads((folder / "config.json").read_text())["retouch"]
    assert (card["image_size"], card["view"], card["channel_order"]) == (32, "rgb", "RGB")
    assert (card["value_range"], card["mean"], card["std"]) == ([0, 1], [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert "shorter side" in card["resize"]


def test_sha256_follows_weights_and_view_but_not_provenance(exported: Path, tmp_path: Path) -> None:
    first = encoder_sha256(exported)
    assert export_encoder(build(), tmp_path / "same", Provenance(steps=8)) == first
    assert export_encoder(build(view="gray"), tmp_path / "gray") != first
    other = build()
    other.load_state_dict({name: tensor + 1 for name, tensor in other.state_dict().items()})
    assert export_encoder(other, tmp_path / "other") != first


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "args"), [("small_cnn", SMALL), ("timm/test_resnet", {}), ("timm/vit_tiny_patch16_224", TINY_VIT)]
)
def test_mask_channel_is_left_out_of_the_export(name: str, args: dict[str, Any], tmp_path: Path) -> None:
    encoder = build(name, args, mask_channel=True)
    export_encoder(encoder, tmp_path / "encoder")
    loaded = load_encoder(tmp_path / "encoder")
    assert not loaded.mask_channel
    torch.testing.assert_close(loaded(images()), encoder(images()), rtol=1e-4, atol=1e-5)


def test_export_and_load_draw_no_random_numbers(tmp_path: Path) -> None:
    encoder = build("timm/test_vit")
    before = torch.get_rng_state()
    export_encoder(encoder, tmp_path / "encoder")
    load_encoder(tmp_path / "encoder")
    random_twin(tmp_path / "encoder", seed=3)
    assert torch.equal(torch.get_rng_state(), before)


@torch.no_grad()
def test_exporting_again_replaces_the_old_export(folder: Path) -> None:
    other = build("timm/test_vit")
    export_encoder(other, folder)
    torch.testing.assert_close(load_encoder(folder)(images()), other(images()), rtol=0, atol=0)
    assert [path.name for path in folder.parent.iterdir()] == ["encoder"]


@pytest.mark.parametrize(
    "make", [lambda p: p.mkdir() or (p / "thesis.tex").write_text("x"), lambda p: p.write_text("x")]
)
def test_nothing_of_the_users_is_overwritten(make: Callable[[Path], Any], tmp_path: Path) -> None:
    target = tmp_path / "encoder"
    make(target)
    with pytest.raises(UserError, match="export to a new folder"):
        export_encoder(build(), target)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_what_another_version_recorded_of_the_training_is_kept(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["retouch"]["provenance"] = {"seed": 3, "weather": ["rain"]}
    (folder / "config.json").write_text(json.dumps(config))
    known = read_encoder_card(folder).provenance
    assert known.seed == 3
    export_encoder(build(), tmp_path / "again", known)
    again = json.loads((tmp_path / "again" / "config.json").read_text())["retouch"]["provenance"]
    assert again == {"seed": 3, "weather": ["rain"]}


def test_levels_that_are_none_differ_from_levels_that_are_not_known(tmp_path: Path) -> None:
    for name, given in (("none", Provenance(levels=None)), ("some", Provenance(levels=Levels(0, 4095)))):
        export_encoder(build(), tmp_path / name, given)
        found = read_encoder_card(tmp_path / name).provenance
        assert found.knows_levels
        assert found.levels == given.levels


def test_diverged_weights_are_not_exported(tmp_path: Path) -> None:
    encoder = build()
    with torch.no_grad():
        next(encoder.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(UserError, match=r"was not written: .*weight is not finite, so training diverged"):
        export_encoder(encoder, tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()


def test_random_twin_is_the_same_network_with_other_weights(tmp_path: Path) -> None:
    encoder = build("timm/test_resnet", view="gray")
    export_encoder(encoder, tmp_path / "encoder")
    twin, again, other = (random_twin(tmp_path / "encoder", seed) for seed in (1, 1, 2))
    assert (twin.view, twin.layer_shapes, twin.config) == ("gray", encoder.layer_shapes, encoder.config)
    weight = "model.conv1.weight"
    assert torch.equal(twin.state_dict()[weight], again.state_dict()[weight])
    assert not torch.equal(twin.state_dict()[weight], other.state_dict()[weight])
    assert not torch.equal(twin.state_dict()[weight], encoder.state_dict()[weight])
    assert not twin.training
    assert any(p.requires_grad for p in twin.parameters())


@torch.no_grad()
@pytest.mark.parametrize("num_classes", [0, 5])
def test_folder_written_by_timm_is_taken_as_an_rgb_encoder(num_classes: int, tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=num_classes, img_size=48).eval()
    timm.models.save_for_hf(model, tmp_path / "theirs", safe_serialization=True, model_args={"img_size": 48})
    encoder = load_encoder(tmp_path / "theirs")
    assert (encoder.view, encoder.image_size) == ("rgb", 48)
    x = torch.rand(2, 3, 48, 48)
    patches = model.forward_features(encoder.prepare(x))[:, model.num_prefix_tokens :]
    torch.testing.assert_close(encoder(x).flatten(2).transpose(1, 2), patches, rtol=0, atol=0)
    assert len(read_encoder_card(tmp_path / "theirs").sha256) == 64


def test_a_run_folder_stands_for_its_encoder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder, run / "encoder")
    (run / "config.yaml").write_text("# retouch pretrain\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (run, str(run), "~/run", "~/run/encoder"):
        assert read_encoder_card(path) == read_encoder_card(folder)
        assert encoder_sha256(path) == encoder_sha256(folder)
        torch.testing.assert_close(load_encoder(path)(images()), load_encoder(folder)(images()), rtol=0, atol=0)
        assert torch.equal(random_twin(path, 3)(images()), random_twin(folder, 3)(images()))


def test_encoder_inside_a_module_is_exported_with_its_current_weights(tmp_path: Path) -> None:
    encoder = build()
    optimizer = torch.optim.SGD(nn.Sequential(encoder).parameters(), lr=0.1)
    encoder.train()(images()).square().mean().backward()
    optimizer.step()
    export_encoder(encoder, tmp_path / "encoder")
    with torch.no_grad():
        torch.testing.assert_close(
            load_encoder(tmp_path / "encoder")(images()), encoder.eval()(images()), rtol=0, atol=0
        )


def test_others_may_read_an_export_as_far_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        export_encoder(build(), tmp_path / "encoder")
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "encoder").iterdir()} == {0o640}


# ---- another image size


@torch.no_grad()
def test_a_convolutional_encoder_is_rebuilt_at_another_size_with_the_same_weights(tmp_path: Path) -> None:
    encoder = build("small_cnn", SMALL, view="gray").eval()
    larger = torch.rand(2, 3, 64, 64)
    export_encoder(resized(encoder, 64), tmp_path / "encoder")
    loaded = load_encoder(tmp_path / "encoder")
    assert (loaded.image_size, loaded.view) == (64, "gray")
    assert loaded.map_shape == tuple(encoder(larger).shape[1:])
    torch.testing.assert_close(loaded(larger), encoder(larger), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "args", "size", "reason"),
    [
        ("linear", {"code": 4}, 64, "linear cannot be used as an encoder at 64 px: its weights were learned at 32 px"),
        ("timm/vit_tiny_patch16_224", TINY_VIT, 64, "at 64 px: its weights were learned at 32 px and fit no other"),
        ("small_cnn", SMALL, 60, "small_cnn cannot be used as an encoder at 60 px: it halves images 3 times"),
    ],
)
def test_weights_that_depend_on_the_size_fit_no_other(name: str, args: dict[str, Any], size: int, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        resized(build(name, args), size)


# ---- classifiers


CLASSIFIERS = [
    ("small_cnn", SMALL, "auto"),
    ("timm/test_convnext", {}, "auto"),
    ("timm/test_resnet", {}, "default"),
    ("timm/vit_tiny_patch16_224", TINY_VIT, "auto"),
    ("timm/mobilenetv4_conv_small_035", {}, "auto"),
]


@torch.no_grad()
@pytest.mark.parametrize(("name", "args", "stem"), CLASSIFIERS)
def test_classifier_is_read_back_exactly_by_us_and_by_plain_timm(
    name: str, args: dict[str, Any], stem: str, tmp_path: Path
) -> None:
    classifier = Classifier(build(name, args, stem=stem), ["cat", "dog", "owl"]).eval()
    logits = classifier(images())
    export_classifier(classifier, tmp_path / "classifier")
    loaded = load_classifier(tmp_path / "classifier")
    assert loaded.class_names == ("cat", "dog", "owl")
    torch.testing.assert_close(loaded(images()), logits, rtol=0, atol=0)
    if name.startswith("timm/"):
        plain = timm.create_model(f"local-dir:{tmp_path / 'classifier'}", pretrained=True).eval()
        torch.testing.assert_close(plain(classifier.encoder.prepare(images())), logits, rtol=0, atol=0)
        assert plain.pretrained_cfg["label_names"] == ["cat", "dog", "owl"]
    # its encoder can be frozen and probed like any other
    encoder = load_encoder(tmp_path / "classifier")
    assert encoder.num_classes == 0
    torch.testing.assert_close(encoder(images()), classifier.encoder(images()), rtol=0, atol=0)
    assert not any(p.requires_grad for p in encoder.parameters())


@torch.no_grad()
def test_encoder_of_a_classifier_is_exported_without_it(tmp_path: Path) -> None:
    classifier = Classifier(build(), ["cat", "dog"])
    sha256 = export_encoder(classifier.encoder, tmp_path / "encoder")
    assert read_encoder_card(tmp_path / "encoder").class_names == ()
    assert sha256 == export_encoder(build(), tmp_path / "same")


def test_encoder_alone_is_no_classifier(exported: Path) -> None:
    with pytest.raises(UserError, match="contains an encoder without a classifier"):
        load_classifier(exported)

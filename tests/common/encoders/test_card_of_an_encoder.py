"""The model card next to an encoder: what it says, that nothing depends on it, and that it replaces no other file."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from common.encoders.export import export_encoder
from common.encoders.load import encoder_sha256, load_encoder
from common.encoders.readme import MARK, README, About, Section
from common.errors import UserError
from tests.common.encoders.toys import TINY_VIT, build, images

ABOUT = About("denoise", (Section("Data", ("7 images of <img src=x onerror=alert(1)>, *without* labels.",)),))


def test_an_encoder_is_the_same_with_and_without_a_card(tmp_path: Path) -> None:
    encoder = build("timm/vit_tiny_patch16_224", TINY_VIT)
    bare = export_encoder(encoder, tmp_path / "bare")
    assert not (tmp_path / "bare" / README).exists()
    assert export_encoder(encoder, tmp_path / "told", about=ABOUT) == bare == encoder_sha256(tmp_path / "told")
    assert [path.name for path in sorted((tmp_path / "told").iterdir())] == [README, "config.json", "model.safetensors"]
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "told" / name).read_bytes() == (tmp_path / "bare" / name).read_bytes()
    assert torch.equal(load_encoder(tmp_path / "told")(images()), load_encoder(tmp_path / "bare")(images()))
    timm.create_model(f"local-dir:{tmp_path}/told", pretrained=True, num_classes=0)


@pytest.mark.parametrize("network", ["timm/vit_tiny_patch16_224", "small_cnn"])
def test_a_card_says_what_it_is_and_how_to_load_it(tmp_path: Path, network: str) -> None:
    encoder = build(network, TINY_VIT if network.startswith("timm") else None, view="gray")
    sha256 = export_encoder(encoder, tmp_path / "encoder", about=ABOUT)
    said = (tmp_path / "encoder" / README).read_text(encoding="utf-8")
    assert said.startswith(f"{MARK}, self-supervised-learning, denoise]\n---\n\n# denoise: an encoder that")
    assert [line for line in said.splitlines() if line.startswith("## ")] == [
        "## What it is",
        "## Data",
        "## How to load it",
    ]
    channels, height, width = encoder.layer_shapes[-1]
    assert f"the last map is {channels} × {height} × {width}." in said
    assert "It sees gray only" in said
    assert f"sha256: {sha256}." in said
    assert 'retouch.load_encoder("FOLDER")' in said
    assert ("timm.create_model" in said) == network.startswith("timm")
    assert ("plain timm cannot open this folder" in said) == (network == "small_cnn")
    assert "&lt;img src=x onerror=alert(1)&gt;, \\*without\\* labels." in said


def test_an_export_replaces_a_card_of_ours_and_no_other_file(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    export_encoder(build(), folder, about=ABOUT)
    (folder / README).write_text(f"{MARK}, denoise]\n---\n\n# Does denoise beat the same network untrained?\n")
    export_encoder(build(), folder, about=ABOUT)
    assert "an encoder that" in (folder / README).read_text(encoding="utf-8")
    (folder / README).write_text("# mine")
    with pytest.raises(UserError, match=r"contains other files \(README.md"):
        export_encoder(build(), folder, about=ABOUT)
    assert (folder / README).read_text() == "# mine"

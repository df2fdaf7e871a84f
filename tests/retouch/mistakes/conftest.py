"""A working folder with all that a user can get wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from tests.retouch.mistakes.stages import picture

TINY_VIT = {"patch_size": 4, "embed_dim": 48, "depth": 1, "num_heads": 3}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder, and one that supports only its own image size."""
    folder = tmp_path_factory.mktemp("encoders")
    for name, config in (
        ("cnn", EncoderConfig(model_args={"width": 4, "depth": 1})),
        ("vit", EncoderConfig(name="timm/vit_tiny_patch16_224", model_args=TINY_VIT)),
    ):
        torch.manual_seed(0)
        export_encoder(build_encoder(config, image_size=16), folder / name)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoders: Path) -> Path:
    """A working folder with an empty folder, a folder of notes, a full one, photos with and without classes, and
    intact and damaged encoders."""
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "notes", "full", "photos"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("no image here")
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "one.png")
    for folder, classes, first in (("two", "ab", 0), ("three", "abc", 12), ("one", "a", 24)):
        for number in range(12):
            picture(tmp_path / folder / classes[number % len(classes)] / f"{number}.png", first + number)
    shutil.copytree(encoders, tmp_path, dirs_exist_ok=True)
    shutil.copytree(encoders / "cnn", tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (tmp_path / "earlier" / "encoder").mkdir(parents=True)
    (tmp_path / "earlier" / "encoder" / "config.json").write_text("{}")
    return tmp_path

"""`hf:USER/NAME` wherever an encoder is asked for, from a server on this machine that answers as the Hub does."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch

import retouch
from common.encoders import Classifier
from common.encoders.export import export_classifier, export_encoder
from common.encoders.hub import forget_revisions, hub_folder
from common.encoders.load import encoder_sha256, load_classifier, load_encoder, random_twin, read_encoder_card
from common.encoders.provenance import Provenance
from common.errors import UserError
from tests.common.encoders.toys import build, images
from tests.hub import Hub, serving


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    export_encoder(build(), tmp_path / "encoder", Provenance(source="shapes"))
    return tmp_path / "encoder"


@torch.no_grad()
def test_an_encoder_of_the_hub_is_the_one_that_was_uploaded(hub: Hub, encoder: Path) -> None:
    hub.add("me/mine", encoder)
    for found in (load_encoder("hf:me/mine"), retouch.load_encoder("hf:me/mine")):
        torch.testing.assert_close(found(images()), load_encoder(encoder)(images()), rtol=0, atol=0)
    assert read_encoder_card("hf:me/mine") == read_encoder_card(encoder)
    assert encoder_sha256("hf:me/mine") == encoder_sha256(encoder)
    assert random_twin("hf:me/mine", 0).map_shape == load_encoder(encoder).map_shape


@pytest.mark.parametrize("inside", ["", "encoder"])
def test_only_the_files_that_are_read_are_downloaded(hub: Hub, encoder: Path, tmp_path: Path, inside: str) -> None:
    """Not what else repositories hold: other formats of the network, cards, checkpoints, pictures."""
    read = {str(Path(inside, name)) for name in ("config.json", "model.safetensors")}
    home = tmp_path / "uploaded"
    shutil.copytree(encoder, home / inside)
    others = ["model.onnx", "model.onnx.data", "model.pt2", "pytorch_model.bin", "model.fp16.safetensors", "README.md"]
    others += ["onnx/config.json", "onnx/model.safetensors", "checkpoints/step-1/model.safetensors", "export.json"]
    for name in (*others, *(f"encoder/{name}" for name in others)):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(b"0")
    hub.add("me/mine", home)
    assert load_encoder("hf:me/mine").view == "rgb"
    got = [found[1] for one in hub.asked if (found := re.search(r"/me/mine/resolve/[^/]+/(.+)", one)) is not None]
    assert set(got) == read
    folder = hub_folder("hf:me/mine")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == read


def test_one_program_sees_one_revision(hub: Hub, encoder: Path, tmp_path: Path) -> None:
    first = hub.add("me/mine", encoder)
    before = read_encoder_card("hf:me/mine").sha256
    export_encoder(build(view="gray"), tmp_path / "other")
    second = hub.add("me/mine", tmp_path / "other")
    assert load_encoder("hf:me/mine").view == "rgb"
    assert encoder_sha256("hf:me/mine") == before
    assert load_encoder(f"hf:me/mine@{second}").view == "gray"
    assert load_encoder(f"hf:me/mine@{first}").view == "rgb"


def test_the_revision_is_logged(hub: Hub, encoder: Path, caplog: pytest.LogCaptureFixture) -> None:
    commit = hub.add("me/mine", encoder)
    with caplog.at_level(logging.INFO, logger="retouch"):
        load_encoder("hf:me/mine")
    assert caplog.text.count(f"hf:me/mine: revision {commit}") == 1


def test_without_a_network_the_last_download_is_used(hub: Hub, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("me/mine", encoder)
    load_encoder("hf:me/mine")
    forget_revisions()  # as in another program
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert load_encoder("hf:me/mine").view == "rgb"
    with pytest.raises(
        UserError, match=r"^hf:me/new: the Hub cannot be reached \(no network, or HF_HUB_OFFLINE is set\)"
    ):
        load_encoder("hf:me/new")


def test_a_cache_that_cannot_be_made_names_the_variable_to_set(
    hub: Hub, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("me/mine", encoder)
    (tmp_path / "file").write_text("no folder")
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(huggingface_hub.constants, name, str(tmp_path / "file" / "hub"))
    with pytest.raises(UserError, match=r"^hf:me/mine: the download cannot be kept \(.*set HF_HOME to a folder"):
        load_encoder("hf:me/mine")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:me/none", "hf:me/none: the Hub has no such model, or it is private"),
        ("hf:me/mine@v2", "hf:me/mine@v2: the Hub has me/mine, but no revision 'v2' of it"),
        ("hf:mine", "hf:mine: the form is hf:USER/NAME, or hf:USER/NAME@REVISION"),
        ("hf:../../mine", "hf:../../mine: the form is hf:USER/NAME"),
        ("hf:me/empty", "hf:me/empty is not an encoder: it has no config.json"),
        ("hf:me/bert", "is a Hugging Face transformers model"),
        ("hf:me/half", "has no model.safetensors"),
    ],
)
def test_what_is_no_encoder_is_said_in_one_line(
    hub: Hub, encoder: Path, name: str, message: str, tmp_path: Path
) -> None:
    hub.add("me/mine", encoder)
    texts = {"empty": {"notes.txt": ""}, "bert": {"config.json": '{"model_type": "bert", "transformers_version": "1"}'}}
    texts |= {"half": {"config.json": json.dumps({"architecture": "resnet18"})}}
    texts["bert"]["model.safetensors"] = ""
    for repo, files in texts.items():
        (tmp_path / repo).mkdir()
        for file, text in files.items():
            (tmp_path / repo / file).write_text(text)
        hub.add(f"me/{repo}", tmp_path / repo)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        load_encoder(name)
    assert len(raised.value.lines) == 1


def test_a_classifier_comes_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    export_classifier(Classifier(build(), ("cat", "dog")), tmp_path / "classifier")
    hub.add("me/pets", tmp_path / "classifier")
    assert load_classifier("hf:me/pets").class_names == ("cat", "dog")
    assert retouch.load_classifier("hf:me/pets").class_names == ("cat", "dog")
    settings = ["data=shapes:train:8", f"out={tmp_path / 'run'}", "wandb.mode=disabled", "precision=float32"]
    assert retouch.predict("hf:me/pets", *settings).rows == 8


def test_a_stage_takes_an_encoder_of_the_hub(hub: Hub, encoder: Path, tmp_path: Path) -> None:
    hub.add("me/mine", encoder)
    settings = ["data=shapes:train:8", f"out={tmp_path / 'run'}", "wandb.mode=disabled", "precision=float32"]
    assert retouch.embed("encoder=hf:me/mine", *settings).rows == 8
    assert "encoder: hf:me/mine" in (tmp_path / "run" / "config.yaml").read_text()

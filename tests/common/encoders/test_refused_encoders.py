"""Folders that cannot be loaded as an encoder: one line says what is wrong, and what to use instead."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.encoders.load import load_encoder
from common.errors import UserError


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


FIRST = "blocks.0.0.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(FIRST), f"{FIRST} is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra does not belong to this network"),
        (lambda t: t.update({FIRST: t[FIRST][:4].clone()}), f"{FIRST} has shape [4, 3, 4, 4], not [8, 3, 4, 4]"),
        (lambda t: t.update({FIRST: t[FIRST].half()}), f"{FIRST} is float16, not float32"),
        (lambda t: t.update({FIRST: t[FIRST] * float("inf")}), f"{FIRST} is not finite"),
        (lambda t: t.update({FIRST: t[FIRST] + 1}), "have been modified (sha256 differs)"),
        (lambda t: t.clear(), "more"),
    ],
)
def test_damaged_tensor_is_named_in_one_line(change: Callable[[Any], Any], message: str, folder: Path) -> None:
    edit_tensors(folder, change)
    with pytest.raises(UserError) as caught:
        load_encoder(folder)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_weights_cut_short_are_refused(kept: int, folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:kept])
    with pytest.raises(UserError, match="truncated") as caught:
        load_encoder(folder)
    assert "\n" not in str(caught.value)


def test_changed_view_is_noticed(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["retouch"]["view"] = "gray"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="sha256 differs"):
        load_encoder(folder)


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def a_run(root: Path) -> None:
    write(root / "config.yaml")
    write(root / "encoder" / "config.json", "{}")


def described(text: str) -> Callable[[Path], None]:
    """A folder with this description of an encoder, and a file of tensors."""

    def make(root: Path) -> None:
        write(root / "config.json", text)
        write(root / "model.safetensors")

    return make


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (lambda r: None, "nowhere", "no such folder"),
        (lambda r: write(r / "model.safetensors"), "model.safetensors", "is a file; use the folder"),
        (lambda r: write(r / "a.txt"), "", "is not an encoder: it has no config.json"),
        (a_run, "", "{root}/encoder has no model.safetensors"),
        (
            lambda r: write(r / "config.yaml", "# retouch pretrain\nout: a\n"),
            "",
            "{root} is a run that has not finished, so it has no encoder: continue it with out={root} resume=true",
        ),
        (
            lambda r: write(r / "config.yaml", "# retouch probe\nout: a\n"),
            "",
            "{root} is a run of retouch probe, which exports no encoder; use the run that it was given",
        ),
        (
            lambda r: (a_run(r), write(r / "checkpoints/step-9/x")),
            "checkpoints/step-9",
            "but not its encoder; use {root}",
        ),
        (lambda r: write(r / "checkpoints/step-9/x"), "checkpoints/step-9", "is a training checkpoint"),
        (lambda r: write(r / "checkpoints/step-9/x"), "checkpoints", "is a training checkpoint"),
        (lambda r: write(r / "config.json", "{}"), "", "has no model.safetensors"),
        (described("{"), "", "is damaged (not JSON)"),
        (described("{}"), "", "does not describe an encoder"),
        (described('{"model_type": "vit"}'), "", "is a Hugging Face transformers model"),
        (described('{"retouch": {"format": 99}}'), "", "written by another version of Retouch"),
        (described('{"retouch": {"format": 1}}'), "", "the retouch block is damaged (name, image_size, view)"),
        (described('{"retouch": 1}'), "", "the retouch block is damaged; export it again"),
        (
            described('{"architecture": "resnet18", "num_classes": "many"}'),
            "",
            "timm's description is damaged (num_classes); export it again",
        ),
    ],
)
def test_foreign_folder_is_refused_with_what_to_give_instead(
    make: Callable[[Path], Any], given: str, message: str, tmp_path: Path
) -> None:
    make(tmp_path)
    with pytest.raises(UserError) as caught:
        load_encoder(tmp_path / given)
    assert message.format(root=tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_may_not_be_read_are_not_called_damaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "model.safetensors")  # root reads anything
    with pytest.raises(UserError, match=r"no permission to read model\.safetensors; change their permissions"):
        load_encoder(folder)

"""Pretraining that starts from an exported encoder: the stage, its chain of trainings, and its resumption."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import retouch
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.encoders.load import random_twin, read_encoder_card
from common.encoders.provenance import Provenance
from common.errors import UserError
from common.recipes import stage_config
from common.runs.folder import run_name
from pretrain.config import PretrainConfig
from retouch.reporting.card import model_card
from tests.recipe import Killed, kill_at, logged, pretraining

COLORIZE = {"kind": "colorize", "objective": "regression"}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("first") / "denoised"
    retouch.pretrain(pretraining(out, steps=2))
    return out


def going_on(out: Path, first: Path, **changes: Any) -> dict[str, Any]:
    return pretraining(out, encoder=str(first), pretext=COLORIZE, steps=4, **changes)


def test_it_starts_from_the_exported_weights_and_records_all_trainings(tmp_path: Path, first: Path) -> None:
    run = retouch.pretrain(going_on(tmp_path / "second", first, base_lr=1e-12, ema=0.0))
    assert run.results is not None
    assert run.encoder is not None
    before, after = (load_file(folder / "encoder" / "model.safetensors") for folder in (first, tmp_path / "second"))
    weights = [name for name in before if name.endswith("0.weight")]
    assert weights
    assert all(torch.allclose(after[name], before[name], atol=1e-6) for name in weights)

    sha256 = read_encoder_card(first).sha256
    card = read_encoder_card(run.encoder)
    assert (card.view, card.provenance.kind) == ("gray", "colorize")
    assert (card.provenance.started_from, card.provenance.started_sha256) == (str(first), sha256)
    [earlier] = card.provenance.before
    assert (earlier.kind, earlier.steps, earlier.artifact) == ("denoise", 2, f"encoder-{run_name(first)}")
    assert card.provenance.story == "denoise (2 steps on shapes), then colorize (4 steps on shapes)"
    assert run.results.made is not None
    assert run.results.made.inputs["encoder"] == sha256
    readme = " ".join((run.encoder / "README.md").read_text().split())
    assert "denoise (2 steps on shapes), then colorize (4 steps on shapes)" in readme
    assert "an encoder that went on learning from images without labels" in readme
    assert "No labels were used." in readme
    # the network next to it is untrained, not the start
    twin = random_twin(run.encoder, 0).state_dict()
    assert not any(torch.equal(twin[name], before[name]) for name in weights)

    third = retouch.pretrain(pretraining(tmp_path / "third", encoder={"path": str(run.encoder)}, steps=1))
    assert third.encoder is not None
    chain = read_encoder_card(third.encoder).provenance.chain
    assert [one.kind for one in chain] == ["denoise", "colorize", "denoise"]
    assert [len(one.before) for one in chain] == [0, 0, 2]


def test_a_killed_run_goes_on_bit_for_bit_even_where_its_start_has_moved_but_not_from_another(
    tmp_path: Path, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "moved"
    saving = {"checkpoint": {"every": 1}}
    retouch.pretrain(going_on(tmp_path / "whole", first, **saving))
    with monkeypatch.context() as patch:
        kill_at(patch, 2)
        with pytest.raises(Killed):
            retouch.pretrain(going_on(tmp_path / "run", first, **saving))
    torch.manual_seed(5)
    export_encoder(build_encoder(EncoderConfig(model_args={"width": 8, "depth": 1}), image_size=16), moved)
    with pytest.raises(UserError, match=r"encoder.sha256: was "):
        retouch.pretrain(going_on(tmp_path / "run", moved, **saving, resume=True))
    for name in ("config.json", "model.safetensors"):
        (moved / name).write_bytes((first / "encoder" / name).read_bytes())
    retouch.pretrain(going_on(tmp_path / "run", moved, **saving, resume=True))
    file = "encoder/model.safetensors"
    assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert logged(tmp_path / "run") == logged(tmp_path / "whole")


def test_a_run_that_started_from_an_encoder_is_repeated_and_from_another_one_it_is_refused(
    tmp_path: Path, first: Path
) -> None:
    start = tmp_path / "start"
    start.mkdir()
    for name in ("config.json", "model.safetensors"):
        (start / name).write_bytes((first / "encoder" / name).read_bytes())
    retouch.pretrain(going_on(tmp_path / "run", start))
    found = retouch.repeat(tmp_path / "run")
    assert found is not None
    assert found.verdict == "identical"
    torch.manual_seed(5)
    (start / "config.json").unlink()
    (start / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"is not an encoder|no such folder"):
        retouch.repeat(tmp_path / "run")
    export_encoder(build_encoder(EncoderConfig(model_args={"width": 8, "depth": 1}), image_size=16), start)
    with pytest.raises(UserError, match="encoder: this is not the one that was measured"):
        retouch.repeat(tmp_path / "run")


def test_each_seed_of_a_group_starts_from_it(tmp_path: Path, first: Path) -> None:
    values = going_on(tmp_path / "group", first, seeds=2)
    retouch.pretrain(values)
    sha256 = read_encoder_card(first).sha256
    for seed in (3, 4):
        assert f"sha256: {sha256}" in (tmp_path / "group" / f"seed-{seed}" / "config.yaml").read_text()
    results = (tmp_path / "group" / "results.json").read_text()
    retouch.pretrain(values | {"resume": True})  # nothing is made again
    assert json.loads((tmp_path / "group" / "results.json").read_text()) == json.loads(results)


def test_held_out_images_that_were_learned_from_are_warned_of(
    tmp_path: Path, first: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="retouch"):
        retouch.pretrain(going_on(tmp_path / "other", first, seed=9))
    assert "with seed=3 before" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="retouch"):
        retouch.pretrain(going_on(tmp_path / "same", first))
    assert "before" not in caplog.text


def test_the_center_and_the_weights_of_a_linear_code_stay_as_they_were_learned(tmp_path: Path) -> None:
    linear = {"encoder": {"name": "linear", "model_args": {"code": 8}}, "decoder": {"kind": "linear"}}
    sparse = {"pretext": {"kind": "identity"}, "penalty": {"l1": 0.01}}
    retouch.pretrain(pretraining(tmp_path / "first", **linear, **sparse, steps=1))
    again = {"encoder": str(tmp_path / "first"), "decoder": {"kind": "linear"}, "base_lr": 1e-12}
    other = {"data": {"source": "photos", "image_size": 16, "limit": 40, "workers": 0}}
    retouch.pretrain(pretraining(tmp_path / "second", **again, **sparse, **other, steps=1))
    before, after = (load_file(tmp_path / name / "encoder" / "model.safetensors") for name in ("first", "second"))
    assert torch.equal(after["centre"], before["centre"])
    assert torch.allclose(after["code.weight"], before["code.weight"], atol=1e-6)


def test_what_cannot_go_on_is_said_at_once_and_nothing_is_written(tmp_path: Path, first: Path) -> None:
    values = pretraining(tmp_path / "run", encoder={"path": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match="nowhere: no such folder"):
        retouch.pretrain(values)
    with pytest.raises(UserError, match="encoder: only autoencoders, which are trained by gradient descent, use it"):
        retouch.pretrain("pca", f"encoder={first}", f"out={tmp_path / 'run'}")
    with pytest.raises(UserError, match="path is an exported encoder, which has its own model_args"):
        retouch.pretrain("denoise", f"encoder={first}", "encoder.model_args={width: 4}", f"out={tmp_path / 'run'}")
    fitted = retouch.pretrain("pca", f"out={tmp_path / 'pca'}", "data.limit=40", "data.image_size=16", "data.workers=0",
                              "fit.components=4", "wandb.mode=disabled")  # fmt: skip
    assert fitted.encoder is not None
    small = ["data.limit=60", "data.image_size=16", "data.workers=0", "steps=1", "fit.atoms=8", "batch_size=16"]
    codes = retouch.pretrain("sparse_coding", f"out={tmp_path / 'codes'}", *small, "wandb.mode=disabled")
    with pytest.raises(UserError, match="has no weights that learn by gradient descent"):
        retouch.pretrain(pretraining(tmp_path / "run", encoder={"path": str(codes.encoder)}))
    assert not (tmp_path / "run").exists()


def test_labels_that_may_have_been_seen_before_are_said() -> None:
    now = Provenance(pretext={"kind": "denoise"}, steps=3, source="B")
    tuned = Provenance(stage="finetune", task="bird", steps=2000, source="A")
    assert not now.knew_labels
    assert not now.starting("a", "0", Provenance(pretext={"kind": "pca"})).knew_labels
    found = now.starting("a", "0", tuned)
    assert found.knew_labels
    assert found.story == "fine-tuning for bird (2,000 steps on A), then denoise (3 steps on B)"
    assert now.starting("a", "0", Provenance()).story == "unrecorded training, then denoise (3 steps on B)"
    assert Provenance.model_validate(found.model_dump()) == found


def test_weights_of_timm_are_a_training_that_is_not_known() -> None:
    asked = ["encoder.name=timm/resnet18", "encoder.pretrained=true"]
    found = stage_config(PretrainConfig, "denoise", asked).method.provenance
    assert found.knew_labels
    assert found.started_from == "timm/resnet18"
    assert found.story == "unrecorded training, then denoise"
    assert not stage_config(PretrainConfig, "denoise", asked[:1]).method.provenance.knew_labels


def test_the_report_of_a_run_tells_its_chain(tmp_path: Path, first: Path) -> None:
    retouch.pretrain(going_on(tmp_path / "second", first))
    said = model_card([tmp_path / "second"])
    assert "second started from an encoder: denoise (2 steps on shapes), then colorize (4 steps on shapes)." in said

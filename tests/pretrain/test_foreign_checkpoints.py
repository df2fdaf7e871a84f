"""A checkpoint that this run did not write, or that is damaged: one plain message, exit code 2, nothing changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.config import dump_config, validate
from pretrain.config import PretrainConfig
from pretrain.run import pretrain
from retouch.cli import main
from tests.pretrain.toys import STREAMING, settings
from tests.recipe import pretraining

METHODS = ("denoise", "pca", "cca-damage", "sparse_coding-l1", "patch_dictionary-kmeans")
FINISHED = "pca-finished"
GROUPS = {"denoise": ("model", "optimizer", "ema"), FINISHED: ("fitted",)}  # of the others: model, statistics
Damage = Callable[[Path], None]


def config_of(out: Path, name: str) -> PretrainConfig:
    if name == "denoise":
        return validate(PretrainConfig, pretraining(out, steps=2))
    name = "pca" if name == FINISHED else name
    return settings(out, name, **({"steps": 2} if name in STREAMING else {}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of every method after its last step, and a finished run of a linear method, which keeps its model alone."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pretrain.run.keep_final", lambda *_: None)
        for name in METHODS:
            pretrain(config_of(folder / name, name))
    shutil.copytree(folder / "pca", folder / FINISHED)
    pretrain(config_of(folder / FINISHED, "pca").model_copy(update={"resume": True}))
    return {name: folder / name for name in (*METHODS, FINISHED)}


def tensors_of(group: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Damage:
    def damage(checkpoint: Path) -> None:
        file = checkpoint / f"{group}.safetensors"
        save_file(change(load_file(file)), file)

    return damage


def facts_of(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def damage(checkpoint: Path) -> None:
        file = checkpoint / "state.json"
        file.write_text(json.dumps(change(json.loads(file.read_text()))))

    return damage


def first_changed(tensors: dict[str, Any], to: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    name = min(tensors)
    return {**tensors, name: to(tensors[name]).contiguous()}


def without(keys: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key != name}


STATES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "another shape": lambda tensors: first_changed(tensors, lambda one: torch.stack([one, one])),
    "another type": lambda tensors: first_changed(tensors, lambda one: one.to(torch.float16)),
    "one missing": lambda tensors: without(tensors, min(tensors)),
    "one more": lambda tensors: {**tensors, "other": torch.zeros(2)},
}


def only(group: str) -> Damage:
    return facts_of(lambda facts: {**facts, "groups": [group]})


def lacking(key: str) -> Damage:
    return facts_of(lambda facts: without(facts, key))


CASES = [
    pytest.param(name, tensors_of(group, change), id=f"{name}-{group}-{what}")
    for name in (*METHODS, FINISHED)
    for group in GROUPS.get(name, ("model", "statistics"))
    for what, change in STATES.items()
] + [
    pytest.param(name, only(group), id=f"{name}-only-{group}")
    for name in METHODS
    for group in GROUPS.get(name, ("model", "statistics"))
]
FACTS = [
    pytest.param(lacking(key), id=f"without-{key}")
    for key in ("step", "groups", "seconds", "window", "totals", "best", "best_step", "data")
] + [
    pytest.param(facts_of(lambda facts: []), id="a-list"),
    pytest.param(facts_of(lambda facts: {**facts, "data": {}}), id="data-of-another-form"),
    pytest.param(facts_of(lambda facts: {**facts, "window": "two"}), id="a-word-for-a-number"),
    pytest.param(facts_of(lambda facts: {**facts, "best": 0.5}), id="a-score-without-weights"),
    pytest.param(lambda checkpoint: (checkpoint / "state.json").write_bytes(b"\xff{"), id="no-json"),
]


def refused(run: Path, name: str, damage: Damage, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> str:
    """The message on resuming a copy of the run whose last checkpoint is damaged."""
    out = tmp_path / "run"
    shutil.copytree(run, out)
    checkpoint = max((out / "checkpoints").iterdir())
    damage(checkpoint)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "train.log"}
    config = config_of(out, name).model_copy(update={"resume": True})
    (tmp_path / "config.yaml").write_text(dump_config(config))
    capsys.readouterr()
    assert main(["pretrain", str(tmp_path / "config.yaml")]) == 2
    after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "train.log"}
    assert after == before
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("retouch pretrain: ")]
    assert len(said) == 1
    assert f"checkpoint {checkpoint}" in said[0]
    return said[0]


@pytest.mark.parametrize(("name", "damage"), CASES)
def test_a_state_that_does_not_fit_is_refused(
    runs: dict[str, Path], name: str, damage: Damage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(runs[name], name, damage, capsys, tmp_path)
    assert "cannot be resumed: " in said
    assert "another version or another run wrote it: use the Retouch that wrote it, or start over with" in said


@pytest.mark.parametrize("damage", FACTS)
def test_facts_that_are_damaged_are_refused(
    runs: dict[str, Path], damage: Damage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(runs["pca"], "pca", damage, capsys, tmp_path)
    assert "cannot be resumed: " in said or "is damaged" in said


def test_the_message_names_what_does_not_fit(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(runs["pca"], "pca", tensors_of("statistics", STATES["one missing"]), capsys, tmp_path)
    assert "cannot be resumed: state: count is missing; another version" in said

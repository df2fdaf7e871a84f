"""A finished run whose encoder was damaged: the same command with resume=true says what to do, and replaces nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from retouch.cli import main
from tests.retouch.mistakes.stages import files

QUICK = [
    *("seed=0", "data.workers=0", "precision=float32", "wandb.mode=disabled"),
    *("steps=1", "batch_size=8", "base_lr=0.01", "data.limit=40"),
]
TINY = "encoder.model_args={width: 4, depth: 1}"
LABELED = ["data.train=shapes", "data.task=color", "data.test_limit=30"]
PROBE = [
    *("knn=null", "damage=[]", "properties=false", "null_check=false", "baselines.pixels=false"),
    *("probe.layers=[-1]", "probe.poolings=[avg]", "probe.l2=[0.01]", "probe.folds=2", "feature_cache=false"),
]
COMMANDS = {
    "pretrain": ["pretrain", "denoise", *QUICK, "data.image_size=16", TINY, "out=pretrain"],
    "seeds": ["pretrain", "denoise", *QUICK, "data.image_size=16", TINY, "out=seeds", "seeds=2"],
    "finetune": [
        *("finetune", "full", "encoder=pretrain", *QUICK, *LABELED, "out=finetune"),
        *("compare.from_scratch=false", "compare.linear_probe=false"),
    ],
    "probe": [
        *("probe", "linear", "encoder=pretrain", *LABELED, *QUICK[:4], "data.limit=40", *PROBE, "out=probe"),
    ],
}
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def not_json(folder: Path) -> None:
    (folder / CONFIG).write_text('{"retouch": {"name": "sma')


def truncated(folder: Path) -> None:
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[: len(weights) // 2])


def without_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def with_notes(folder: Path) -> None:
    (folder / "notes.txt").write_text("precious")


def sha256(encoder: dict[str, bytes]) -> str:
    """Of the files of an encoder, as it names it itself."""
    named: str = json.loads(encoder[CONFIG])["retouch"]["sha256"]
    return named


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a finished run of each kind."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in COMMANDS.values():
            assert main(command) == 0
    return folder


@pytest.fixture
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the working folder."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(command: str, here: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What a command says that ends with code 2 and changes nothing."""
    before = files(here)
    capsys.readouterr()
    assert main([*COMMANDS[command], "resume=true"]) == 2
    assert files(here) == before
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (not_json, "{}/config.json is damaged (not JSON)"),
        (truncated, "{}/model.safetensors is damaged or was modified (sha256 differs)"),
        (without_weights, "{} has no model.safetensors: the copy is incomplete, or its weights have another format"),
        (with_notes, "{} contains other files (README.md, config.json, model.safetensors)"),
    ],
)
@pytest.mark.parametrize(
    ("command", "folder"),
    [
        ("pretrain", "pretrain/encoder"),
        ("seeds", "seeds/seed-1/encoder"),
        ("finetune", "finetune/encoder"),
        ("finetune", "finetune/classifier"),
    ],
)
def test_what_a_run_has_written_is_not_replaced_once_it_is_damaged(
    command: str, folder: str, damage: Callable[[Path], None], what: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = files(here / folder)
    damage(here / folder)
    if damage is with_notes:
        what = what if (here / folder / "README.md").is_file() else what.replace("README.md, ", "")
    stage = COMMANDS[command][0]
    lost = "seeds/seed-1" if command == "seeds" else folder  # a group starts no run again that has finished
    remedy = f"move {lost} away, and the same command writes it again"
    assert told(command, here, capsys) == [f"retouch {stage}: {what.format(folder)}; {remedy}"]

    (here / lost).rename(here / "away")
    assert main([*COMMANDS[command], "resume=true"]) == 0
    again = files(here / folder)
    assert again[WEIGHTS] == written[WEIGHTS]
    assert sha256(again) == sha256(written)


def card_not_json(folder: Path) -> None:
    (folder / "decoder.json").write_text('{"schema_version": 2, "enc')


def card_of_another(folder: Path) -> None:
    card = json.loads((folder / "decoder.json").read_text())
    (folder / "decoder.json").write_text(json.dumps(card | {"mean": [0.1, 0.2, 0.3]}))


def decoder_truncated(folder: Path) -> None:
    weights = (folder / "decoder.safetensors").read_bytes()
    (folder / "decoder.safetensors").write_bytes(weights[: len(weights) // 2])


def decoder_without_weights(folder: Path) -> None:
    (folder / "decoder.safetensors").unlink()


def decoder_without_card(folder: Path) -> None:
    (folder / "decoder.json").unlink()


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (card_not_json, "{}/decoder.json cannot be read ("),
        (card_of_another, "{}/decoder.safetensors or decoder.json is damaged or was modified (sha256 differs)"),
        (decoder_truncated, "{}/decoder.safetensors or decoder.json is damaged or was modified (sha256 differs)"),
        (decoder_without_weights, "{}/decoder.safetensors is missing"),
        (decoder_without_card, "{}/decoder.json cannot be read ("),
        (with_notes, "{} contains other files (notes.txt)"),
    ],
)
@pytest.mark.parametrize(("command", "lost"), [("pretrain", "pretrain/decoder"), ("seeds", "seeds/seed-1")])
def test_a_decoder_is_not_replaced_once_it_is_damaged(
    command: str, lost: str, damage: Callable[[Path], None], what: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = "seeds/seed-1/decoder" if command == "seeds" else lost
    written = files(here / folder)
    damage(here / folder)
    [line] = told(command, here, capsys)
    assert line.startswith(f"retouch pretrain: {what.format(folder)}")
    assert line.endswith(f"; move {lost} away, and the same command writes it again")
    (here / lost).rename(here / "away")
    assert main([*COMMANDS[command], "resume=true"]) == 0
    assert files(here / folder) == written


def test_what_uses_a_damaged_decoder_names_it_and_what_would_work(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what it says works: the remedy is one that the run itself accepts."""
    written = files(here / "pretrain" / "decoder")
    decoder_truncated(here / "pretrain" / "decoder")
    damaged = files(here / "pretrain")
    capsys.readouterr()
    for command in (
        ["restore", "pretrain", "data=shapes", "data.limit=2", "wandb.mode=disabled"],
        ["strange", "pretrain", "data=shapes", "data.limit=2", "wandb.mode=disabled"],
        ["export", "pretrain", "to=exported", "format=torch", "output=restorer"],
    ):
        assert main(command) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"retouch {command[0]}: pretrain/decoder/decoder.safetensors cannot be read (")
        assert "move pretrain/decoder away" in line
    assert files(here / "pretrain") == damaged
    (here / "pretrain" / "decoder").rename(here / "away")
    assert main([*COMMANDS["pretrain"], "resume=true"]) == 0
    assert files(here / "pretrain" / "decoder") == written


@pytest.mark.parametrize("command", ["finetune", "probe"])
@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (not_json, "pretrain/encoder/config.json is damaged (not JSON); copy or export it again"),
        (truncated, "pretrain/encoder/model.safetensors cannot be read ("),
    ],
)
def test_an_encoder_that_was_damaged_since_is_the_one_thing_that_is_named(
    command: str, damage: Callable[[Path], None], what: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(here / "pretrain" / "encoder")
    [line] = told(command, here, capsys)
    assert line.startswith(f"retouch {command}: {what}")

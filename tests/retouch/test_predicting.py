"""Predictions from the command line and in Python: one run, three spellings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import retouch
from retouch.cli import main
from tests.finetune.predict.runs import export, probed, rows_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a probe and new pictures."""
    folder = tmp_path_factory.mktemp("home")
    probed(folder / "runs" / "mine-probe", export(folder / "runs" / "mine" / "encoder"))
    (folder / "new").mkdir()
    for number in range(5):
        pixels = torch.randint(0, 256, (24, 20, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / "new" / f"{number}.jpg")
    return folder


@pytest.fixture
def home(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, to work in."""
    monkeypatch.chdir(made)
    return made


def test_command_function_and_mapping_write_the_same_table(home: Path) -> None:
    asked = ["data=new", "task=color", "wandb.mode=disabled"]
    assert main(["predict", "runs/mine-probe", *asked, "--top", "2"]) == 0
    found = retouch.predict("runs/mine-probe", *asked, "top=2")
    mapped = {"run": "runs/mine-probe", "data": "new", "task": "color", "top": 2, "wandb": {"mode": "disabled"}}
    retouch.predict(mapped)
    tables = [home / "runs" / f"predict-{number}" / "predictions.csv" for number in (1, 2, 3)]
    assert found.path == tables[1].relative_to(home)
    assert len({table.read_bytes() for table in tables}) == 1
    rows = rows_of(tables[0])
    assert [row["path"] for row in rows] == [f"new/{number}.jpg" for number in range(5)]
    assert (found.rows, sum(found.counts.values())) == (5, 5)


def test_a_loaded_classifier_is_called_with_images(home: Path) -> None:
    classifier = retouch.load_classifier("runs/mine-probe", "texture")
    logits = classifier(torch.rand(2, 3, 16, 16))
    assert logits.shape == (2, len(classifier.class_names))
    assert retouch.load_classifier("runs/mine-probe", "texture", "runs/mine").sha256 == classifier.sha256


def test_mistakes_are_told_at_once_and_nothing_is_written(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(home.rglob("*"))
    assert main(["predict", "runs/mine-probe", "data=old"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert (
        first == "retouch predict: runs/mine-probe has classifiers of several tasks: set task to one of color, texture"
    )
    assert second.startswith(f"'old': no such file or folder: {home}/old; ")
    assert sorted(home.rglob("*")) == before

"""Predictions from the command line and in Python: one run, three spellings."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

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
    """That folder, as the working folder."""
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


PIXELS = torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(9), dtype=torch.uint8)


class Pictures(Dataset[tuple[Image.Image, int]]):
    """As torchvision has data sets."""

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return pictures()[index], 0


def pictures() -> list[Image.Image]:
    return [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in PIXELS]


def saved(folder: Path) -> list[Path]:
    """The pictures as files."""
    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(len(PIXELS))]
    for path, picture in zip(paths, pictures(), strict=True):
        picture.save(path)
    return paths


def zipped(folder: Path) -> str:
    with zipfile.ZipFile(folder / "all.zip", "w") as file:
        for path in saved(folder / "pictures"):
            file.write(path, path.name)
    return f"{folder / 'all.zip'}"


def listed(folder: Path) -> str:
    (folder / "all.csv").write_text("".join(f"{path}\n" for path in ["path", *saved(folder / "pictures")]))
    return f"{folder / 'all.csv'}"


SOURCES: dict[str, Callable[[Path], str]] = {
    "folder": lambda folder: f"{saved(folder / 'pictures')[0].parent}",
    "one image": lambda folder: f"{saved(folder / 'pictures')[0]}",
    "list": listed,
    "zip": zipped,
    "PIL": lambda folder: retouch.images(pictures()),
    "tensor": lambda folder: retouch.images(PIXELS),
    "Dataset": lambda folder: retouch.images(Pictures()),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_images_have_the_same_answer_whatever_holds_them(home: Path, tmp_path: Path, kind: str) -> None:
    classifier = retouch.load_classifier("runs/mine-probe", "color")
    expected = classifier.probabilities(classifier(PIXELS.float() / 255))
    asked = ["task=color", "wandb.mode=disabled", "precision=float32", "data.workers=0", f"out={tmp_path / 'out'}"]
    found = retouch.predict("runs/mine-probe", f"data={SOURCES[kind](tmp_path)}", *asked)
    rows = rows_of(found.path)
    assert found.rows == len(rows) == (1 if kind == "one image" else 3)
    for row, own in zip(rows, expected.tolist(), strict=False):
        assert [float(row[f"p({name})"]) for name in classifier.class_names] == pytest.approx(own, abs=1e-6)


@pytest.mark.parametrize("top", [False, True])
@torch.no_grad()
def test_the_table_holds_the_probabilities_of_an_export(home: Path, tmp_path: Path, top: bool) -> None:
    retouch.export("runs/mine-probe", f"to={tmp_path / 'export'}", "format=torch", "task=color", "check=4")
    program = torch.export.load(tmp_path / "export" / "model.pt2").module()
    expected = program(PIXELS.float() / 255)["probabilities"].tolist()
    names = retouch.load_classifier("runs/mine-probe", "color").class_names
    asked = ["task=color", "wandb.mode=disabled", "precision=float32", *(["top=2"] if top else [])]
    rows = rows_of(retouch.predict("runs/mine-probe", f"data={retouch.images(PIXELS)}", *asked).path)
    for row, probabilities in zip(rows, expected, strict=True):
        own = dict(zip(names, probabilities, strict=True))
        shown = (
            {row[f"class_{place}"]: row[f"p_{place}"] for place in (1, 2)}
            if top
            else {name: row[f"p({name})"] for name in names}
        )
        assert {name: float(text) for name, text in shown.items()} == pytest.approx(
            {name: own[name] for name in shown}, abs=1e-6
        )
        assert float(row["confidence"]) == pytest.approx(max(probabilities), abs=1e-6)


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

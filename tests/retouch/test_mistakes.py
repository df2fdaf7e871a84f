"""The mistakes people make, as a table: what is typed, and the exact message. Exit code 2, nothing overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from retouch.cli import main

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs" / "pretrain" / "denoise.yaml")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an empty folder, a folder of notes, a full one, and one photo."""
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "notes", "full", "photos"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("no image here")
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "one.png")
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


PRETRAIN_MISTAKES = [
    pytest.param(
        ["stepz=3"],
        [f"Found 1 error in {CONFIG}:", "  stepz: unknown key; did you mean 'steps'?"],
        id="unknown-key",
    ),
    pytest.param(
        ["pretext.kind=denoize"],
        [
            f"Found 1 error in {CONFIG}:",
            "  pretext.kind: unknown kind 'denoize'; did you mean 'denoise'?; "
            "one of denoise, colorize, mask, mixed, identity",
        ],
        id="misspelled-kind",
    ),
    pytest.param(
        ["batch_size=0", "base_lr=fast", "data.image_size=4"],
        [
            f"Found 3 errors in {CONFIG}:",
            "  batch_size: input should be greater than 0, got 0",
            "  base_lr: input should be a valid number, unable to parse string as a number, got 'fast'",
            "  data.image_size: input should be greater than or equal to 8, got 4",
        ],
        id="types-and-ranges-all-at-once",
    ),
    pytest.param(
        ["steps=10", "epochs=2"],
        [f"Found 1 error in {CONFIG}:", "  give steps or epochs, exactly one of them"],
        id="two-lengths",
    ),
    pytest.param(["steps"], ["'steps': an override is written key=value"], id="override-without-value"),
    pytest.param(
        ["out=full"],
        ["out: full is not empty; use resume=true to go on, overwrite=true to start anew, or another out"],
        id="non-empty-out",
    ),
    pytest.param(
        ["out=full", "overwrite=true"],
        ["out: full holds files that no stage has written; overwrite=true will not touch it; choose another"],
        id="overwrite-of-foreign-folder",
    ),
    pytest.param(
        ["encoder.name=smal_cnn"],
        ["encoder.name: no encoder 'smal_cnn'; use small_cnn, or timm/ and the name of a timm model"],
        id="unknown-encoder",
    ),
]


@pytest.mark.parametrize(("overrides", "lines"), PRETRAIN_MISTAKES)
def test_mistake_is_answered_plainly(
    here: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], lines: list[str]
) -> None:
    before = files(here)
    assert main(["pretrain", CONFIG, "out=run", "wandb.mode=disabled", *overrides]) == 2
    assert capsys.readouterr().err.splitlines() == [f"retouch pretrain: {lines[0]}", *lines[1:]]
    assert files(here) == before


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("folder:nowhere", ["folder:nowhere", "no such folder"]),
        ("folder:empty", ["folder:empty", "empty"]),
        ("folder:notes", ["folder:notes", "no image"]),
        ("foldr:photos", ["foldr", "did you mean"]),
        ("parquet:none-*.parquet", ["none-*.parquet", "no file matches"]),
    ],
)
def test_source_that_cannot_serve_is_named(
    here: Path, capsys: pytest.CaptureFixture[str], source: str, words: list[str]
) -> None:
    assert main(["pretrain", CONFIG, "out=run", "wandb.mode=disabled", f"data.source={source}"]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert len(said.splitlines()) == 1
    assert not (here / "run").exists()


def test_problems_of_source_encoder_and_folder_come_together(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["out=full", "data.source=folder:nowhere", "encoder.name=none", "wandb.mode=disabled"]
    assert main(["pretrain", CONFIG, *overrides]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 3
    assert "nowhere" in said
    assert "encoder.name" in said
    assert "out: full is not empty" in said


def test_missing_config_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "none.yaml"]) == 2
    assert capsys.readouterr().err == "retouch pretrain: config file not found: none.yaml\n"

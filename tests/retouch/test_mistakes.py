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
        [
            "encoder.name: no encoder 'smal_cnn'; did you mean small_cnn?; use small_cnn, mlp, linear, sparse_code, "
            "patch_dictionary, kernel, or timm/ and the name of a timm model"
        ],
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


KINDS = "pca, ica, cca, tca, sparse_coding, patch_dictionary"
ONE_ERROR = "Found 1 error in {config}:"
FIT_MISTAKES = [
    pytest.param(
        "pca",
        ["fit.kind=pcaa"],
        [ONE_ERROR, f"  fit.kind: unknown kind 'pcaa'; did you mean 'pca'?; one of {KINDS}"],
        id="unknown-kind",
    ),
    pytest.param(
        "pca",
        ["fit.component=8"],
        [ONE_ERROR, "  fit.component: unknown key; did you mean 'components'?"],
        id="unknown-key",
    ),
    pytest.param(
        "pca",
        ["encoder.name=mlp", "penalty.l1=0.1"],
        [ONE_ERROR, "  fit.kind=pca brings its own encoder and objective: leave out encoder, penalty"],
        id="encoder-beside-fit",
    ),
    pytest.param(
        "pca",
        ["steps=10", "precision=bfloat16"],
        [
            "Found 2 errors in {config}:",
            "  fit.kind=pca learns without a gradient: leave out precision",
            "  fit.kind=pca sees every image once: leave out steps, and epochs too or 1",
        ],
        id="several-settings-without-use",
    ),
    pytest.param(
        "pca",
        ["steps=10"],
        [ONE_ERROR, "  fit.kind=pca sees every image once: leave out steps, and epochs too or 1"],
        id="one-pass-with-steps",
    ),
    pytest.param(
        "ica",
        ["steps=10"],
        [ONE_ERROR, "  fit.kind=ica is fitted on one sample: leave out steps, and epochs too or 1"],
        id="one-sample-with-steps",
    ),
    pytest.param(
        "cca",
        ["fit={kind: cca, views: other}"],
        [ONE_ERROR, "  fit.views=other needs data.other, the source of the second view"],
        id="second-view-not-given",
    ),
    pytest.param(
        "cca",
        ["fit.views=neighbours"],
        [ONE_ERROR, "  fit: damage is for views=damage, not views=neighbours: leave it out"],
        id="damage-of-another-view",
    ),
    pytest.param(
        "pca",
        ["data.other=shapes"],
        [ONE_ERROR, "  data.other is of no use to fit.kind=pca here: leave it out"],
        id="second-source-without-use",
    ),
    pytest.param(
        "denoise",
        ["data.other=shapes"],
        [ONE_ERROR, "  data.other is for fit.kind=cca or tca: leave it out"],
        id="second-source-without-fit",
    ),
    pytest.param(
        "tca",
        ["fit={kind: tca}"],
        [ONE_ERROR, "  fit.kind=tca needs a second domain: data.other, or fit.damage of the first"],
        id="second-domain-not-given",
    ),
    pytest.param(
        "tca",
        ["fit.components=64", "fit.landmarks=33"],
        [ONE_ERROR, "  fit: components 64 is more than there are landmarks (32): lower it"],
        id="more-components-than-landmarks",
    ),
    pytest.param(
        "tca",
        ["data.limit=300"],
        ["fit.landmarks=1000 takes 500 images of each domain; there are 300: lower it"],
        id="more-landmarks-than-images",
    ),
    pytest.param(
        "sparse_coding",
        ["fit.penalty=l0", "fit.gamma=0.1"],
        [ONE_ERROR, "  fit: gamma is for penalty=l1: with penalty=l0 atoms have unit norm; leave it out"],
        id="gamma-with-l0",
    ),
    pytest.param(
        "sparse_coding_l0",
        ["fit.penalty=atoms", "fit.atoms=16", "fit.top_k=20"],
        [ONE_ERROR, "  fit: top_k 20 is more than there are atoms (16): lower it"],
        id="top-k-beyond-atoms",
    ),
    pytest.param(
        "patch_dictionary",
        ["fit.network.atoms=7"],
        [ONE_ERROR, "  fit.network: mirror needs an even number of atoms, not 7"],
        id="odd-atoms-mirrored",
    ),
    pytest.param(
        "patch_dictionary",
        ["fit.learn=pca"],
        [ONE_ERROR, "  fit: learn=pca finds at most 108 atoms of 6 px patches"],
        id="more-components-than-a-patch-has-numbers",
    ),
    pytest.param(
        "pca",
        ["data.image_size=8", "fit.components=200"],
        [
            "fit.components=200: images of 8 px have 192 numbers and allow no more components; lower it, or raise "
            "data.image_size"
        ],
        id="more-components-than-an-image-has-numbers",
    ),
    pytest.param(
        "cca",
        ["data.limit=50"],
        [
            "fit.components=64: it takes at least 65 images, there are 50; lower it, or give more (data.source, "
            "data.limit)"
        ],
        id="more-components-than-images",
    ),
    pytest.param(
        "cca",
        ["fit={kind: cca, views: other}", "data.other=shapes:test"],
        ["fit.views=other pairs rows, but shapes:train:20000 has 20,000 and shapes:test:4000 4,000"],
        id="pairs-of-unequal-sources",
    ),
]


@pytest.mark.parametrize(("name", "overrides", "lines"), FIT_MISTAKES)
def test_mistake_with_a_fit_is_answered_plainly(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, overrides: list[str], lines: list[str]
) -> None:
    config = str(ROOT / "configs" / "pretrain" / f"{name}.yaml")
    before = files(here)
    assert main(["pretrain", config, "out=run", "wandb.mode=disabled", *overrides]) == 2
    expected = [line.format(config=config) for line in lines]
    assert capsys.readouterr().err.splitlines() == [f"retouch pretrain: {expected[0]}", *expected[1:]]
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

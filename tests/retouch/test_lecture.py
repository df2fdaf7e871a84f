"""A small lecture: every code is learned, pictured and probed, and the pictures and tables are written."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from PIL import Image

from common.data import build_source
from common.errors import UserError
from common.recipes import stage_config
from common.runs.folder import StageConfig
from retouch import lecture as walk

S = TypeVar("S", bound=StageConfig)

TINY = {
    "pca": ["fit.components=6"],
    "ica": ["fit.components=6"],
    "cca": ["fit.components=6"],
    "sparse_coding": ["fit.atoms=16", "steps=2"],
    "sparse_coding_l0": ["fit.atoms=16", "steps=2"],
    "linear_sparse_autoencoder": ["encoder.model_args.code=24", "steps=2"],
    "pca_images": ["fit.components=6"],
    "deep_sparse": ["encoder.model_args={hidden: [16], code: 24, rectify: true, top_k: 16}", "steps=2"],
    "bottleneck": ["encoder.model_args={width: 8, code_channels: 8}", "steps=2"],
    "patch_dictionary": ["fit.network.atoms=8", "steps=2"],
    "denoise": ["encoder.model_args={width: 8}", "steps=2"],
    "colorize": ["encoder.model_args={width: 8}", "steps=2"],
}


def tiny(schema: type[S], recipe: str, run: Sequence[str]) -> S:
    """The recipe, small: few components or atoms, few images, two steps, and no workers, whose start takes longer."""
    if recipe == walk.PROBE:
        return stage_config(schema, recipe, [*run, "data.limit=80", "data.test_limit=80", "data.workers=0"])
    name = recipe.removesuffix("_lecture")
    side = f"data.image_size={8 if name in walk.ATOMS else 16}"
    few = ["data.limit=64", "data.workers=0", "batch_size=32", "wandb.mode=disabled"]
    return stage_config(schema, recipe, [*run, side, *few, *TINY[name]])


@pytest.mark.usefixtures("few_strengths")
def test_the_lecture_writes_its_pictures_and_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(walk, "stage_config", tiny)
    monkeypatch.setattr(walk, "CURVE_PATCHES", 16)
    out = tmp_path / "lecture"
    rows = walk.lecture(out)

    for name in walk.ATOMS:
        for picture in ("atoms", "exciting"):
            Image.open(out / name / "panels" / f"{picture}.png").verify()
        assert json.loads((out / name / "results.json").read_text())["atoms"] in (6, 16, 24)
    Image.open(out / "sparsity.png").verify()
    curves = json.loads((out / "sparsity.json").read_text())
    assert curves["dense_bytes"] == 4 * 16
    assert {point["method"] for point in curves["points"]} == {
        "L1, FISTA", "L0, hard thresholding", "L0, matching pursuit"
    }  # fmt: skip
    for name in ("denoise", "colorize"):
        assert list((out / name / "panels").glob("step-*.png"))

    assert [row.name for row in rows] == list(walk.CODES)
    for row in rows:
        assert 0 < row.code.nonzeros <= row.code.size
        assert row.accuracy.keys() == set(walk.TASKS)
        assert all(0 <= value <= 1 for value in row.accuracy.values())
        moved = [row.code.invariance[change] for change in walk.CHANGES]
        assert all(value is None or math.isfinite(value) for value in moved)
    lines = (out / "table.md").read_text().splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == walk.HEADER
    assert [line.split("|")[1].strip() for line in lines[2:]] == list(walk.CODES)
    assert {line.count("|") for line in lines} == {len(walk.HEADER) + 1}
    said = capsys.readouterr().out
    assert all(name in said for name in walk.CODES)

    Image.new("RGB", (8, 8)).save(tmp_path / "mine.png")
    assert len(build_source(f"folder:{tmp_path}")) == 1  # no picture of the lecture is taken for one of the user


def test_a_lecture_replaces_nothing_but_a_lecture(tmp_path: Path) -> None:
    (tmp_path / "table.md").write_text("precious")
    with pytest.raises(UserError, match="holds files that no stage wrote, so it cannot be overwritten"):
        walk.lecture(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"]


def test_without_matplotlib_the_lecture_says_what_to_install_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"; install it: pip install '\.\[lecture\]' in your copy"):
        walk.lecture(tmp_path / "lecture")
    assert not (tmp_path / "lecture").exists()

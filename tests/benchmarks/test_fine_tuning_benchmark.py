"""The benchmark of fine-tuning: its draws, its comparisons, and a small run of all of it."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path

import fine_tuning
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import record
import torch
from PIL import Image

from tests.finetune.predict.runs import export


def test_draws_have_as_many_images_of_each_class_as_they_should() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 9_000)
    assert fine_tuning.counts_of(2_000) == [200] * 10
    orders = []
    for seed in range(3):
        random = np.random.default_rng(seed)
        counts = fine_tuning.counts_of(2_000, random)
        falling = sorted(counts, reverse=True)
        ratios = [more / fewer for more, fewer in pairwise(falling)]
        assert sum(counts) == pytest.approx(2_000, abs=5)
        assert falling[0] / falling[-1] == pytest.approx(20, abs=0.5)
        assert ratios == pytest.approx([20 ** (1 / 9)] * 9, rel=0.03)
        rows = fine_tuning.rows_of(labels, counts, random)
        assert np.bincount(labels[rows]).tolist() == counts
        assert (np.diff(rows) > 0).all()
        orders.append(tuple(np.argsort(counts)))
    assert len(set(orders)) == 3


def test_an_entry_is_compared_with_the_plain_one_of_the_same_draws() -> None:
    labels = torch.arange(10).repeat(100)
    right, wrong = labels.expand(3, -1), torch.where(torch.arange(1000) < 200, (labels + 1) % 10, labels).expand(3, -1)
    answers = {"plain": wrong, "mixup": right, "imbalanced": right, "imbalanced_class_weights": wrong}
    found = {name: fine_tuning.summary(name, answers, labels) for name in answers}
    assert found["mixup"]["accuracies"] == [1, 1, 1]
    assert found["mixup"]["difference"]["difference"] == pytest.approx(0.2)
    assert found["imbalanced_class_weights"]["difference"]["difference"] == pytest.approx(-0.2)
    assert "difference" not in found["plain"]
    assert "difference" not in found["imbalanced"]
    assert "difference" not in fine_tuning.summary("mixup", {"mixup": right}, labels)


def shard(path: Path, seed: int) -> None:
    """60 images of three classes, each with a color of its own."""
    random = np.random.default_rng(seed)
    images = []
    for row in range(60):
        pixels = random.integers(0, 120, (16, 16, 3))
        pixels[..., row % 3] += 120
        written = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(written, format="PNG")
        images.append({"bytes": written.getvalue(), "path": None})
    pq.write_table(pa.table({"image": images, "label": [row % 3 for row in range(60)]}), path)


@pytest.mark.usefixtures("few_strengths")
@pytest.mark.parametrize("test", [False, True])
def test_all_of_it_runs_and_opens_the_test_images_only_if_asked(
    test: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("train-0", "train-1", *(["test-0"] if test else []))):
        shard(tmp_path / f"{name}.parquet", number)
    for name, value in (("RESULTS", tmp_path), ("PACKAGES", ())):
        monkeypatch.setattr(record, name, value)
    monkeypatch.setattr(fine_tuning, "CLASSES", 3)
    monkeypatch.setattr(fine_tuning, "RATIO", 2.0)
    asked = ["--only", "plain", "linear_probe", "imbalanced_class_weights", "--seeds", "2", "--labeled", "30"]
    asked += ["--scored", "30", "--out", str(tmp_path / "out"), *(["--test"] if test else [])]
    asked += ["--encoder", str(export(tmp_path / "encoder"))]
    small = ["steps=4", "evaluate_every=2", "batch_size=8", "precision=float32"]
    monkeypatch.setattr("sys.argv", ["fine_tuning.py", "--data", str(tmp_path), *asked, "--", *small])
    fine_tuning.main()
    found = json.loads((tmp_path / "fine_tuning.json").read_text())
    assert list(found) == ["plain", "linear_probe", "imbalanced_class_weights"]
    for name, entry in found.items():
        assert entry["validation"]["images"] == 30
        assert ("test" in entry) == test
        assert ("difference" in entry["validation"]) == (name == "linear_probe")
        if test:
            assert entry["test"]["images"] == 60
    assert found["linear_probe"]["validation"]["accuracy"] > 0.8
    if test:
        assert found["linear_probe"]["test"]["accuracy"] > 0.8

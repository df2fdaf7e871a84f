"""Broken files in labeled folders: results do not depend on whether images are kept in memory or decoded on demand."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from common.data import build_source, load_images
from common.encoders.load import load_encoder
from common.pixels import to_float
from finetune.config import EmbedConfig, FinetuneConfig, ProbeConfig
from finetune.embed import embed
from finetune.full import finetune
from finetune.probe import probe

TIMES = {"seconds"}
BROKEN = {"train": ("dark/03", "dark/19", "light/00", "light/07"), "test": ("dark/11", "light/00", "light/01")}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that brightness does not quite separate; some files are truncated, one is empty."""
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 12)):
        for number in range(2 * count):
            path = root / split / ("dark", "light")[number % 2] / f"{number // 2:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 180, (16, 16, 3)) + random.integers(0, 60) + 15 * (number % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
        for name in BROKEN[split]:
            path = root / split / f"{name}.png"
            path.write_bytes(path.read_bytes()[: 0 if name.endswith("0") else 300])
    return root


def settings(pictures: Path, encoder: Path, out: Path, cache: str) -> dict[str, Any]:
    folders = {split: f"folder:{pictures / split}" for split in ("train", "test")}
    return {
        "out": out,
        "encoder": encoder,
        "data": folders | {"workers": 0, "cache": cache},
        "batch_size": 16,
        "precision": "float32",
        "wandb": {"mode": "disabled"},
    }


def without_times(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: without_times(value) for key, value in tree.items() if key not in TIMES}
    return [without_times(value) for value in tree] if isinstance(tree, list | tuple) else tree


def test_probes_agree_in_every_number(pictures: Path, encoder: Path, tmp_path: Path) -> None:
    changes = {"probe": {"layers": ["each"], "poolings": ["avg"], "l2": [1e-3, 1e-1], "folds": 2}, "knn": {"k": [5]}}
    reports = []
    for cache in ("ram", "none"):
        values = settings(pictures, encoder, tmp_path / cache, cache) | changes | {"feature_cache": False}
        values["null_check"] = False  # of the same rows
        reports.append(without_times(probe(ProbeConfig.model_validate(values)).model_dump()))
    assert reports[0] == reports[1]
    # what was said before the run folder was opened is in its log
    assert "images cannot be read and are left out" in (tmp_path / "ram" / "train.log").read_text()
    [result] = reports[1]["results"]
    linear = result["subjects"]["encoder"]["probes"]["linear"]
    assert (linear["n_train"], linear["test"]["n"]) == (76, 21)
    assert sum(map(sum, linear["test"]["confusion"])) == 21
    seen = {name: result["data"][name] for name in ("originals", "test_originals")}
    assert {name: one["unreadable"] for name, one in seen.items()} == {"originals": 4, "test_originals": 3}
    assert seen["originals"]["sizes"] == {"images": 76, "smallest": [16, 16], "median": [16, 16], "largest": [16, 16]}


def test_fine_tuning_runs_agree_to_the_last_bit(pictures: Path, encoder: Path, tmp_path: Path) -> None:
    results = []
    for cache in ("ram", "none"):
        changes: dict[str, Any] = {"steps": 4, "evaluate_every": 2, "compare": {"from_scratch": False}}
        changes["compare"]["linear_probe"] = False
        values = settings(pictures, encoder, tmp_path / cache, cache) | changes
        results.append(finetune(FinetuneConfig.model_validate(values)))
    first, second = results
    assert first is not None
    assert second is not None
    assert without_times(first.model_dump()) == without_times(second.model_dump())
    assert second.tuned.n_train + second.tuned.n_val == 76
    assert second.tuned.test.n == 21
    weights = [(tmp_path / cache / "classifier" / "model.safetensors").read_bytes() for cache in ("ram", "none")]
    assert weights[0] == weights[1]


def test_embedded_rows_are_those_of_readable_images(
    pictures: Path, encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = f"folder:{pictures / 'test'}"
    values = settings(pictures, encoder, tmp_path / "out", "none") | {"data": {"source": source}}
    with caplog.at_level(logging.WARNING, logger="retouch"):
        path = embed(EmbedConfig.model_validate(values)).path
    assert sum("unreadable image, left out" in record.getMessage() for record in caplog.records) == 3
    table = pq.read_table(path)
    kept = load_images(build_source(source), 16, cache="ram").readable()
    labels = kept.labels()
    assert table["path"].to_pylist() == [kept.where(row) for row in range(21)]
    assert table["label"].to_pylist() == [labels.names[value] for value in labels.values]
    expected = load_encoder(encoder).encode(to_float(kept.rows(torch.arange(21))))
    torch.testing.assert_close(torch.tensor(table["features"].to_pylist()), expected)
    assert pq.ParquetFile(path).metadata.metadata[b"shape"] == b"[21, 16]"

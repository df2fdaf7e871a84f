"""W&B gets the tables, curves and images of the report: read back from its real offline files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import retouch
from common.runs.tracking import Tracker, WandbConfig
from finetune.results import FinetuneResult, ProbeReport
from finetune.tracked import Curves, Matrix, Sheet, send
from tests.finetune.tuning import config, exported, finetune
from tests.offline_wandb import history, offline_records

ODD = "../../up <b>:*?"


def tables(out: Path) -> dict[str, dict[str, Any]]:
    """Every table of the offline parts of a run, by the key under which it was logged."""
    found = {}
    for row in history(out):
        for key, kind in row.items():
            if key.endswith("/_type") and kind == "table-file":
                name = key.removesuffix("/_type")
                [path] = out.glob(f"wandb/offline-run-*/files/{row[f'{name}/path']}")
                found[name] = json.loads(path.read_text())
    return found


def column(table: dict[str, Any], name: str) -> list[Any]:
    return [row[table["columns"].index(name)] for row in table["data"]]


def probed(out: Path, encoder: Path, data: dict[str, Any], **changes: Any) -> ProbeReport:
    return retouch.probe(
        {
            "out": str(out),
            "encoder": str(encoder),
            "data": {"workers": 0, **data},
            "probe": {"l2": [1e-2], "layers": ["each"], "poolings": ["avg"], "folds": 0},
            "knn": None,
            "baselines": {"pixels": False},
            "properties": False,
            "damage": [{"kind": "gray"}],
            "null_check": False,
            "label_efficiency": {"shares": [0.5], "draws": 1},
            "feature_cache": False,
            "precision": "float32",
            "wandb": {"mode": "offline"},
        }
        | changes
    )


def test_a_probe_sends_its_tables_curves_confusion_errors_and_features(tmp_path: Path, encoder: Path) -> None:
    out = tmp_path / "run"
    data = {"train": "shapes", "task": ["color", "texture"], "limit": 120, "test_limit": 60}
    report = probed(out, encoder, data)
    found = tables(out)
    color = report.results[0]
    assert set(column(found["results"], "method")) == {"small_cnn", "untrained"}
    layers = found["layers"]
    assert sum(column(layers, "chosen")) >= len(report.results)
    assert len(layers["data"]) == sum(len(one.linear.choice.spaces) for one in report.results)
    assert column(found["damage"], "test_accuracy")[0] == color.linear.damaged["gray"].accuracy
    assert column(found["data"], "task") == ["color", "texture"]

    [matrix] = [one for name, one in found.items() if name.startswith("confusion/color")]
    assert sum(column(matrix, "nPredictions")) == 60
    assert column(matrix, "nPredictions")[:8] == list(color.linear.test.confusion[0])
    [curve] = [one for name, one in found.items() if name.startswith("label_efficiency/color")]
    assert sorted(set(column(curve, "step"))) == [60, 120]

    errors = found["errors"]
    wrong = 60 - sum(color.linear.test.confusion[k][k] for k in range(8))
    assert column(errors, "task").count("color") == min(32, wrong)
    assert all(a != b for a, b in zip(column(errors, "class"), column(errors, "answer"), strict=True))
    sure = [one for task, one in zip(column(errors, "task"), column(errors, "sure"), strict=True) if task == "color"]
    assert sure == sorted(sure, reverse=True)
    places = found["embedding"]
    assert places["columns"][:5] == ["image", "color class", "color answer", "texture class", "texture answer"]
    assert len(places["data"]) == 60
    # W&B keeps the images of tables in artifacts of the run
    kept = [entry.path for one in offline_records(out, "artifact") for entry in one.manifest.contents]
    assert len([path for path in kept if path.startswith("media/images/")]) >= 60


def test_fine_tuning_sends_its_errors_and_later_the_comparison_with_its_baselines(tmp_path: Path) -> None:
    comparison = {"linear_probe": False, "from_scratch": True}
    run = config(
        tmp_path / "run", encoder=exported(tmp_path / "encoder"), steps=2, compare=comparison, wandb={"mode": "offline"}
    )
    result: FinetuneResult = finetune(run)
    found = tables(run.out)
    assert {"results", "errors", "data", "compared"} <= found.keys()
    assert any(name.startswith("confusion/color") for name in found)
    assert column(found["compared"], "method") == ["fine-tuned", "same network from scratch"]
    assert column(found["compared"], "gain")[0] == result.tuned.compared["from_scratch"].difference


@pytest.mark.parametrize("name", ["plain", ODD])
def test_tables_are_written_below_the_run_whatever_a_task_is_called(tmp_path: Path, name: str) -> None:
    tracker = Tracker(WandbConfig(mode="offline"), tmp_path / "run", job_type="probe", settings={})
    image = Image.new("RGB", (4, 4), "red")
    rows: Sequence[Sequence[Any]] = [("a", 1.5, None, image), ("b", None, 3, image)]
    send(
        tracker,
        [
            Sheet("empty", ("a",), []),
            Sheet("sheet", ("text", "number", "count", "image"), rows),
            Curves(f"curves/{name}", "labels", {"one": [(1.0, 0.5), (2.0, 0.75)], "two": [(1.0, 0.25)]}),
            Curves("nothing", "labels", {}),
            Matrix(f"confusion/{name}", ("x", name), torch.eye(2, dtype=torch.int64).tolist()),
        ],
    )
    assert tracker.active
    tracker.finish()
    found = tables(tmp_path / "run")
    assert len(found) == 3
    assert column(found["sheet"], "number") == [1.5, None]
    outside = [path for path in tmp_path.rglob("*.json") if (tmp_path / "run" / "wandb") not in path.parents]
    assert outside == []

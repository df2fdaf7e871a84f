"""Predictions of several labels per image: those of the probe on its test images, with calibrated probabilities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import retouch
from common.data import build_source, load_images
from common.errors import UserError
from common.pixels import to_float
from finetune.classifier import open_classifier
from finetune.predict.run import predict
from finetune.probe import probe
from finetune.results import ProbeReport, read_results
from finetune.structured_results import LabelResult
from tests.finetune.multilabel.labeled_pictures import config_of as probing
from tests.finetune.multilabel.labeled_pictures import pictures
from tests.finetune.predict.runs import config_of, export, rows_of

N = 40  # test images


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of images, and probes of their labels by either regression."""
    folder = tmp_path_factory.mktemp("labels")
    export(folder / "encoder")
    pictures(folder / "train", 120, 0)
    pictures(folder / "test", N, 1)
    for kind in ("logistic", "ridge"):
        quick: dict[str, Any] = {"null_check": False, "properties": False}
        quick["baselines"] = {"random_init": False, "pixels": False}
        quick["probe"] = {"kind": kind, "l2": [1e-2, 1e-1], "layers": ["all"], "poolings": ["avg"]}
        probe(probing(folder, folder / kind, **quick), show=False)
    return folder


def result_of(run: Path) -> LabelResult:
    report = read_results(run)
    assert isinstance(report, ProbeReport)
    return report.multilabel[0]


def scores_of(run: Path) -> torch.Tensor:
    """The probe's output for each label of each test image, ``[n L]``."""
    return torch.tensor(pq.read_table(run / "label_scores.parquet")["encoder.linear"].to_pylist())


def predicted(here: Path, out: Path, kind: str = "logistic", **changes: Any) -> Path:
    data = {"source": str(here / "test" / "a.csv"), "limit": None}
    return predict(config_of(out, here / kind, data=data, **changes)).path


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_labels_are_those_that_were_tested_and_their_probabilities_are_calibrated(
    here: Path, tmp_path: Path, kind: str
) -> None:
    rows, result, scores = (
        rows_of(predicted(here, tmp_path / "out", kind)),
        result_of(here / kind),
        scores_of(here / kind),
    )
    assert result.calibration is not None
    assert result.calibration.fitted_on == 120  # each held out once
    assert result.calibration.temperature != 1
    expected = (scores.double() / result.calibration.temperature).sigmoid()
    assert list(rows[0]) == ["path", "labels", "p(light)", "p(red)"]
    assert len(rows) == N
    for row, said, score in zip(rows, expected.tolist(), scores.tolist(), strict=True):
        assert [float(row["p(light)"]), float(row["p(red)"])] == pytest.approx(said, abs=1e-4)
        assert row["labels"] == ";".join(name for name, one in zip(("light", "red"), score, strict=True) if one > 0)
    assert len({row["labels"] for row in rows}) == 4  # both, either, none


def test_the_threshold_decides_which_labels_an_image_has(here: Path, tmp_path: Path) -> None:
    low, high = (rows_of(predicted(here, tmp_path / f"{threshold}", threshold=threshold)) for threshold in (0.05, 0.95))
    for one, other in zip(low, high, strict=True):
        for row, threshold in ((one, 0.05), (other, 0.95)):
            has = [name for name in ("light", "red") if float(row[f"p({name})"]) >= threshold]
            assert row["labels"] == ";".join(has)
    assert low != high


def test_the_result_counts_images_by_label(here: Path, tmp_path: Path) -> None:
    path = predicted(here, tmp_path / "out", threshold=0.6)
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    labels = [row["labels"].split(";") for row in rows_of(path)]
    assert found["counts"] == {name: sum(name in one for one in labels) for name in ("light", "red")}
    assert (found["answers"], found["threshold"], found["rows"], found["unreadable"]) == ("labels", 0.6, N, 0)
    assert found["classes"] == ["light", "red"]


def test_parquet_has_lists_and_the_best_labels_may_stand_in_place_of_all(here: Path, tmp_path: Path) -> None:
    rows = rows_of(predicted(here, tmp_path / "csv"))
    table = pq.read_table(predicted(here, tmp_path / "parquet", format="parquet", top=1))
    assert table.column_names == ["path", "labels", "label_1", "p_1"]
    for row, found in zip(rows, table.to_pylist(), strict=True):
        assert found["labels"] == [name for name in row["labels"].split(";") if name]
        best = max(("light", "red"), key=lambda name: float(row[f"p({name})"]))
        assert found["label_1"] == best
        assert found["p_1"] == pytest.approx(float(row[f"p({best})"]), abs=1e-6)


def test_predictions_can_be_read_as_labels(here: Path, tmp_path: Path) -> None:
    path = predicted(here, tmp_path / "out")
    expected = scores_of(here / "logistic") > 0
    assert torch.equal(build_source(str(path)).multi_labels(["labels"]).values, expected)


def test_unreadable_images_have_no_labels(here: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for number in range(3):
        (tmp_path / "new" / f"{number}.png").write_bytes((here / "test" / f"{number}.png").read_bytes())
    (tmp_path / "new" / "1.png").write_bytes(b"none")
    data = {"source": str(tmp_path / "new"), "limit": None}
    for kind in ("csv", "parquet"):
        found = predict(config_of(tmp_path / kind, here / "logistic", data=data, format=kind))
        assert (found.rows, found.unreadable) == (3, 1)
    rows = rows_of(tmp_path / "csv" / "predictions.csv")
    assert set(rows[1].values()) == {rows[1]["path"], ""}
    labels = pq.read_table(tmp_path / "parquet" / "predictions.parquet")["labels"].to_pylist()
    assert [one is None for one in labels] == [False, True, False]


def test_settings_of_labels_are_refused_of_classes(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"threshold applies to .*, but this one predicts one class: remove"):
        predict(config_of(tmp_path / "out", runs / "tuned", threshold=0.5))
    assert not (tmp_path / "out").exists()


def test_more_labels_than_there_are_is_all_of_them(
    here: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = rows_of(predicted(here, tmp_path / "out", top=3))
    assert list(rows[0]) == ["path", "labels", "label_1", "p_1", "label_2", "p_2"]
    assert "top=3: the classifier has 2 labels; all are written" in caplog.messages


@torch.no_grad()
def test_an_export_gives_the_probability_of_each_label(here: Path, tmp_path: Path) -> None:
    retouch.export(here / "ridge", f"to={tmp_path / 'out'}", "format=torch", "check=4")
    applied = open_classifier(here / "ridge", "tags")
    images = to_float(load_images(build_source(str(here / "test" / "a.csv")), 16).rows(torch.arange(5)))
    found = torch.export.load(tmp_path / "out" / "model.pt2").module()(images)["probabilities"]
    torch.testing.assert_close(found, applied.probabilities(applied(images)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(applied.probabilities(applied(images)), applied(images).sigmoid())  # it is calibrated
    facts = json.loads((tmp_path / "out" / "export.json").read_text())["facts"]
    assert (facts["answers"], facts["class_names"]) == ("labels", ["light", "red"])

"""Predictions of new images: those of the run on its test images, whatever the format, the interruption, the files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from common.data import build_source, load_images
from common.data.levels import Levels
from common.errors import UserError
from common.pixels import to_float
from finetune.classifier import open_classifier
from finetune.metrics import calibration_error, reliability
from finetune.predict import parts
from finetune.predict import run as stage
from finetune.predict.config import PredictConfig
from finetune.predict.run import PredictResult, predict
from finetune.predictions import read_predictions
from finetune.results import FinetuneResult, ProbeReport, read_results
from retouch.listing.headlines import Headline, read_headline
from tests.finetune.predict.runs import TEST_IMAGES, config_of, probed, rows_of, saved_images


def uncalibrated(rows: list[dict[str, str]], classes: Sequence[str], temperature: float) -> Tensor:
    """The probabilities of a table before the temperature, ``[n C]``."""
    calibrated = torch.tensor([[float(row[f"p({name})"]) for name in classes] for row in rows]).double()
    return (calibrated.log() * temperature).softmax(1)


# ---- the contract: the tested classifier is the one that is applied


@pytest.mark.parametrize("task", ["color", "texture"])
def test_a_probes_classifier_answers_as_the_probe_did(runs: Path, tmp_path: Path, task: str) -> None:
    [expected] = [one for one in read_predictions(runs / "probed") if one.task == task]
    rows = rows_of(predict(config_of(tmp_path / "out", runs / "probed", task=task)).path)
    assert [row["path"] for row in rows] == list(expected.paths)
    assert [row["class"] for row in rows] == [expected.classes[k] for k in expected.answers["encoder.linear"]]
    sure = uncalibrated(rows, expected.classes, open_classifier(runs / "probed", task).temperature).amax(1)
    assert sure.tolist() == pytest.approx(expected.confidences["encoder.linear"].tolist(), abs=1e-4)
    given = [float(row["confidence"]) for row in rows]
    assert given == pytest.approx(expected.calibrated["encoder.linear"].tolist(), abs=1e-4)


def test_a_fine_tuned_network_answers_as_its_run_did(runs: Path, tmp_path: Path) -> None:
    [expected] = read_predictions(runs / "tuned")
    rows = rows_of(predict(config_of(tmp_path / "out", runs / "tuned")).path)
    assert [row["class"] for row in rows] == [expected.classes[k] for k in expected.answers["tuned"]]
    sure = uncalibrated(rows, expected.classes, open_classifier(runs / "tuned").temperature).amax(1)
    assert sure.tolist() == pytest.approx(expected.confidences["tuned"].tolist(), abs=1e-4)
    given = [float(row["confidence"]) for row in rows]
    assert given == pytest.approx(expected.calibrated["tuned"].tolist(), abs=1e-4)


def test_a_probe_by_ridge_regression_answers_as_the_probe_did(runs: Path, tmp_path: Path) -> None:
    data = {"train": "shapes", "limit": 200, "test_limit": TEST_IMAGES, "task": "texture", "workers": 0}
    ridge = {"kind": "ridge", "l2": [0.1, 1.0], "layers": ["last3"], "poolings": ["flatten"]}
    probed(tmp_path / "probed", runs / "encoder", data=data, probe=ridge)
    [expected] = read_predictions(tmp_path / "probed")
    rows = rows_of(predict(config_of(tmp_path / "out", tmp_path / "probed")).path)
    assert [row["class"] for row in rows] == [expected.classes[k] for k in expected.answers["encoder.linear"]]
    assert open_classifier(tmp_path / "probed").temperature == 1  # the weights that are kept are calibrated
    assert all(row["confidence"] == row[f"p({row['class']})"] for row in rows)


@pytest.mark.parametrize(("run", "task"), [("probed", "color"), ("tuned", None)])
def test_all_probabilities_are_those_after_the_temperature_and_confidence_is_the_largest(
    runs: Path, tmp_path: Path, run: str, task: str | None
) -> None:
    classifier = open_classifier(runs / run, task)
    images = load_images(build_source("shapes:test"), 16, limit=TEST_IMAGES)
    with torch.inference_mode():
        logits = classifier(to_float(images.rows(torch.arange(TEST_IMAGES))))
    found = predict(config_of(tmp_path / "out", runs / run, task=task))
    rows = rows_of(found.path)
    assert found.temperature == classifier.temperature != 1
    for row, own in zip(rows, logits, strict=True):
        calibrated = (own / classifier.temperature).softmax(0).tolist()
        assert [float(row[f"p({name})"]) for name in classifier.class_names] == pytest.approx(calibrated, abs=1e-5)
        assert row["confidence"] == row[f"p({row['class']})"]
        assert float(row["confidence"]) == pytest.approx(max(calibrated), abs=1e-5)


def test_results_hold_the_calibration_error_of_these_very_predictions(runs: Path, tmp_path: Path) -> None:
    report, tuned = read_results(runs / "probed"), read_results(runs / "tuned")
    assert isinstance(report, ProbeReport)
    assert isinstance(tuned, FinetuneResult)
    for run, task, calibration, answered in (
        ("probed", "color", report.results[0].calibration, read_predictions(runs / "probed")[0]),
        ("tuned", None, tuned.calibration, read_predictions(runs / "tuned")[0]),
    ):
        assert calibration is not None
        rows = rows_of(predict(config_of(tmp_path / run, runs / run, task=task)).path)
        right = torch.tensor([row["class"] for row in rows] == np.array([answered.classes[k] for k in answered.labels]))
        before = uncalibrated(rows, answered.classes, calibration.temperature).amax(1)
        after = torch.tensor([float(row["confidence"]) for row in rows])
        assert calibration.error_before == pytest.approx(calibration_error(reliability(before, right)), abs=1e-3)
        assert calibration.error_after == pytest.approx(calibration_error(reliability(after, right)), abs=1e-3)
    assert report.results[0].calibration is not None
    assert report.results[0].calibration.fitted_on == 200  # each held out once
    assert tuned.calibration is not None
    assert tuned.calibration.fitted_on == tuned.tuned.n_val == 10


# ---- the table


def test_the_result_says_what_the_table_holds(runs: Path, tmp_path: Path) -> None:
    found = predict(config_of(tmp_path / "out", runs / "probed", task="texture"))
    answers = [row["class"] for row in rows_of(found.path)]
    assert found.path == tmp_path / "out" / "predictions.csv"
    assert (found.task, found.rows, found.unreadable, found.image_size) == ("texture", TEST_IMAGES, 0, 16)
    assert found.counts == {name: answers.count(name) for name in found.classes}
    assert found.made.inputs["classifier"] == open_classifier(runs / "probed", "texture").sha256
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == found.model_dump(mode="json")
    assert read_headline(tmp_path / "out", "predict") == Headline(f"{TEST_IMAGES} images")
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.name[0] != ".") == [
        "config.yaml", "predictions.csv", "results.json", "train.log",
    ]  # fmt: skip


def test_parquet_holds_the_same_as_csv(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 25)
    rows = rows_of(predict(config_of(tmp_path / "csv", runs / "probed", task="color")).path)
    path = predict(config_of(tmp_path / "parquet", runs / "probed", task="color", format="parquet")).path
    table = pq.read_table(path)
    assert path.name == "predictions.parquet"
    assert pq.ParquetFile(path).num_row_groups == 3
    assert table.column_names == list(rows[0])
    for name, column in table.to_pydict().items():
        mine = [row[name] if name in ("path", "class") else float(row[name]) for row in rows]
        assert mine == (column if name in ("path", "class") else pytest.approx(column, rel=1e-6))


def test_top_gives_the_best_classes_and_probabilities_in_place_of_all(runs: Path, tmp_path: Path) -> None:
    every = rows_of(predict(config_of(tmp_path / "all", runs / "probed", task="color")).path)
    found = predict(config_of(tmp_path / "top", runs / "probed", task="color", top=3))
    rows = rows_of(found.path)
    assert list(rows[0]) == ["path", "class", "confidence", "class_1", "p_1", "class_2", "p_2", "class_3", "p_3"]
    for row, full in zip(rows, every, strict=True):
        best = sorted(found.classes, key=lambda name: -float(full[f"p({name})"]))[:3]
        assert [row[f"class_{place}"] for place in (1, 2, 3)] == best
        assert [row[f"p_{place}"] for place in (1, 2, 3)] == [full[f"p({name})"] for name in best]
        assert (row["path"], row["class"], row["confidence"]) == (full["path"], full["class"], full["confidence"])
        assert (row["class"], row["confidence"]) == (row["class_1"], row["p_1"])


def test_more_than_there_are_is_all_of_them_and_it_is_said(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    every = predict(config_of(tmp_path / "every", runs / "probed", task="color", top=8))
    assert not [one for one in caplog.messages if one.startswith("top=")]
    found = predict(config_of(tmp_path / "more", runs / "probed", task="color", top=9))
    assert found.path.read_bytes() == every.path.read_bytes()
    said = [one for one in caplog.messages if one.startswith("top=")]
    assert said == ["top=9: the classifier has 8 classes; all are written"]


def test_awkward_class_names_and_paths_come_back_from_csv(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a,b", 'say "hi"', "two\nlines", "path", "café", "p(x)", "", " space"]
    classifier = open_classifier(runs / "probed", "color")
    classifier.class_names = tuple(names)
    monkeypatch.setattr(stage, "open_classifier", lambda *given: classifier)
    images = saved_images(tmp_path / 'odd, "folder"\nhere', 20)
    rows = rows_of(predict(config_of(tmp_path / "out", runs / "probed", data={"source": str(images)})).path)
    assert list(rows[0]) == ["path", "class", "confidence", *(f"p({name})" for name in names)]
    assert [row["path"] for row in rows] == [str(images / f"{row:03d}.png") for row in range(20)]
    assert {row["class"] for row in rows} <= set(names)


# ---- images


def test_one_image_is_enough(runs: Path, tmp_path: Path) -> None:
    folder = saved_images(tmp_path / "new", 3)
    every = rows_of(
        predict(config_of(tmp_path / "all", runs / "probed", task="color", data={"source": str(folder)})).path
    )
    image = str(folder / "001.png")
    [row] = rows_of(predict(config_of(tmp_path / "one", runs / "probed", task="color", data={"source": image})).path)
    assert row["path"] == image
    assert row["class"] == every[1]["class"]
    assert float(row["confidence"]) == pytest.approx(float(every[1]["confidence"]), abs=1e-5)


def test_unreadable_images_keep_their_rows(runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = saved_images(tmp_path / "new", 20)
    whole = rows_of(
        predict(config_of(tmp_path / "all", runs / "probed", task="color", data={"source": str(folder)})).path
    )
    for name in ("003.png", "019.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:40])
    for kind in ("csv", "parquet"):
        config = config_of(tmp_path / kind, runs / "probed", task="color", format=kind, data={"source": str(folder)})
        found = predict(config)
        assert (found.rows, found.unreadable, sum(found.counts.values())) == (20, 2, 18)
    assert "unreadable image, left out" in caplog.text
    rows = rows_of(tmp_path / "csv" / "predictions.csv")
    assert [row["path"] for row in rows] == [row["path"] for row in whole]
    for number, (row, other) in enumerate(zip(rows, whole, strict=True)):
        if number in (3, 19):
            assert set(row.values()) == {row["path"], ""}
        else:
            assert row["class"] == other["class"]
            assert float(row["confidence"]) == pytest.approx(float(other["confidence"]), abs=1e-5)
    table = pq.read_table(tmp_path / "parquet" / "predictions.parquet")
    assert [row for row, name in enumerate(table["class"].to_pylist()) if name is None] == [3, 19]
    assert table["confidence"].null_count == 2


def test_a_whole_part_may_be_unreadable(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 4)
    folder = saved_images(tmp_path / "new", 12)
    for number in (8, 9, 10, 11):
        (folder / f"{number:03d}.png").write_bytes(b"")
    found = predict(config_of(tmp_path / "out", runs / "tuned", batch_size=2, data={"source": str(folder)}))
    assert (found.rows, found.unreadable) == (12, 4)


def test_where_no_image_can_be_read_nothing_is_written(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="no image can be read"):
        predict(config_of(tmp_path / "out", runs / "tuned", data={"source": str(tmp_path / "one.png")}))
    assert not (tmp_path / "out").exists()


def test_values_of_more_than_8_bits_are_scaled_as_those_of_training(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    for number in range(3):
        ramp = np.random.default_rng(number).integers(0, 4000, (16, 16)).astype(np.uint16)
        Image.fromarray(ramp).save(folder / f"{number}.png")
    seen: list[Any] = []
    real = load_images

    def load(*given: Any, **named: Any) -> Any:
        seen.append(real(*given, **named))
        return seen[-1]

    monkeypatch.setattr(stage, "load_images", load)
    classifier = open_classifier(runs / "tuned")
    monkeypatch.setattr(stage, "open_classifier", lambda *given: classifier)
    for name, learned, asked, expected in (
        ("training", Levels(0, 16383), None, (0, 16383)),
        ("asked", Levels(0, 16383), [0, 65535], (0, 65535)),
        ("sample", None, None, (0, 4095)),
    ):
        classifier.levels = learned
        predict(config_of(tmp_path / name, runs / "tuned", data={"source": str(folder), "levels": asked}))
        assert seen[-1].levels == expected


def test_another_size_is_warned_of(runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predict(config_of(tmp_path / "out", runs / "tuned", data={"image_size": 32, "limit": 4}))
    assert "data.image_size=32, but the classifier learned from images of 16 px" in caplog.text
    caplog.clear()
    predict(config_of(tmp_path / "same", runs / "tuned", data={"image_size": 16, "limit": 4}))
    assert "data.image_size" not in caplog.text


def test_a_size_at_which_there_are_other_features_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="image_size=8: the classifier learned from images of 16 px and does not supp"):
        predict(config_of(tmp_path / "out", runs / "probed", task="color", data={"image_size": 8}))
    assert not (tmp_path / "out").exists()


# ---- mistakes


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        (
            {"threshold": 0.5, "data": {"source": "nowhere"}},
            ["threshold applies to classifiers of several labels", "'nowhere': no such file or folder: "],
        ),
        ({"task": "size"}, ["task: "]),
        ({"encoder": "elsewhere"}, ["encoder: a fine-tuned network has its encoder in its own folder"]),
    ],
)
def test_mistakes_are_reported_before_anything_is_written(
    runs: Path, tmp_path: Path, changes: dict[str, Any], messages: list[str]
) -> None:
    with pytest.raises(UserError) as told:
        predict(config_of(tmp_path / "out", runs / "tuned", **changes))
    assert len(told.value.problems) == len(messages)
    for problem, start in zip(told.value.problems, messages, strict=True):
        assert problem.startswith(start)
    assert not (tmp_path / "out").exists()


def test_answers_that_are_no_numbers_are_refused(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = open_classifier(runs / "probed", "color")
    classifier.network.linear.bias.fill_(float("nan"))  # type: ignore[union-attr,operator]
    monkeypatch.setattr(stage, "open_classifier", lambda *given: classifier)
    with pytest.raises(UserError, match=r"NaN or infinite numbers for shapes:test\[0\]; set precision=float32"):
        predict(config_of(tmp_path / "out", runs / "probed"))


def test_a_result_can_be_given_as_a_path(runs: Path, tmp_path: Path) -> None:
    found = predict(config_of(tmp_path / "out", runs / "tuned"))
    assert isinstance(found, PredictResult)
    with open(found) as file:  # noqa: PTH123 -- what takes any path
        assert file.readline().startswith('"path","class","confidence","p(')


def test_settings_that_change_no_number_may_differ_on_resumption() -> None:
    assert {"data.workers", "encoder"} <= PredictConfig.free_keys
    assert not {"format", "top", "batch_size", "precision", "data.image_size", "data.limit"} & PredictConfig.free_keys

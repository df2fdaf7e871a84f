"""The probe of masks, from its data to results.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from common.data import load_images
from common.data.shapes import ShapesSource
from finetune import seeds
from finetune.probe import probe
from finetune.results import ProbeReport, read_results
from finetune.summary import logged_several, notes
from finetune.table import several_table
from finetune.tracked import Sheet, probe_shown
from retouch.comparison import headline
from tests.finetune.dense.masked_pictures import SIZE, config_of


@pytest.fixture(scope="module")
def report(here: Path) -> ProbeReport:
    return probe(config_of(here, here / "run", properties=True, null_check=True), show=False)


def test_what_maps_show_is_found_and_measured(here: Path, report: ProbeReport) -> None:
    assert read_results(here / "run") == report
    assert (report.results, report.multilabel) == ((), ())
    assert report.made is not None
    assert {"data.train", "data.test", "data.masks", "data.test_masks", "encoder"} == report.made.inputs.keys()
    assert len(set(report.made.inputs.values())) == 5
    text = (here / "run" / "train.log").read_text()
    assert "masks: 3 classes, 60 training and 40 test images" in text
    assert "training images that show ground (60), red (" in text
    [result] = report.dense
    assert result.task == str(here / "train/masks")
    assert (result.classes, result.checks.frozen) == (("ground", "red", "blue"), True)
    assert list(result.subjects) == ["encoder", "random_init", "pixels"]
    for one in result.subjects.values():
        assert (one.n_train, one.n_val, one.test.n) == (60, 60, 40)
        assert one.test.mean_iou > 0.7  # colors are easy to see
        assert one.test.ci95[0] <= one.test.mean_iou <= one.test.ci95[1]
        assert one.choice.how == "5-fold cross-validation"
        assert one.choice.val_accuracy == max(space.val_accuracy for space in one.choice.spaces)
        # the middle 16 of 20 columns, of which the first is ignored
        assert sum(one.test.pixels) == 40 * SIZE * (SIZE - 1)
    mine = result.subjects["encoder"]
    assert list(mine.compared) == ["random_init", "pixels"]
    assert mine.compared["pixels"].difference == pytest.approx(
        mine.test.mean_iou - result.subjects["pixels"].test.mean_iou
    )
    # finer maps see outlines better
    cells = [int(space.pooling.partition("x")[0]) for space in mine.choice.spaces]
    assert mine.choice.pooling == f"{max(cells)}x{max(cells)} cells"
    assert not list((here / "run").glob("*.parquet"))


def test_the_protocol_the_log_and_the_table_say_what_was_done(here: Path, report: ProbeReport) -> None:
    [result] = report.dense
    for words in ("linear discriminant analysis", "split by image", "5-fold cross-validation", "tested once", "16 px"):
        assert words in result.protocol
    [logged] = [json.loads(line) for line in (here / "run" / "metrics.jsonl").read_text().splitlines()]
    numbers = logged_several(result)
    assert numbers["mean_iou"] == result.subjects["encoder"].test.mean_iou
    assert logged[f"{result.task}/pixels_pixel_accuracy"] == result.subjects["pixels"].test.pixel_accuracy
    assert {f"{result.task}/{key}" for key in numbers} <= logged.keys()
    assert "masks: 3 classes, 60 training and 40 test images" in (here / "run" / "train.log").read_text()
    sheets = {one.name: one for one in probe_shown(report) if isinstance(one, Sheet)}
    assert [row[2] for row in sheets["mask_results"].rows] == [one.test.mean_iou for one in result.subjects.values()]
    test = result.subjects["encoder"].test
    classes = list(zip(result.classes, test.images, test.per_class, strict=True))
    assert [row[2:] for row in sheets["mask_classes"].rows[:3]] == classes
    assert [row[0] for row in sheets["data"].rows] == [result.task]
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(several_table(result))
    text = console.export_text()
    assert f"{100 * test.mean_iou:.1f} [{100 * test.ci95[0]:.1f}" in text
    for words in ("denoise", "untrained", "raw pixels", "gain over", "3 classes", "40 test images"):
        assert words in text


def test_training_masks_of_other_images_teach_nothing(here: Path, report: ProbeReport, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for number in range(60):
        other = here / f"train/masks/{(number + 7) % 60}.png"
        (tmp_path / "masks" / f"{number}.png").write_bytes(other.read_bytes())
    changes = {"data": {"masks": str(tmp_path / "masks")}, "baselines": {"random_init": False, "pixels": False}}
    [wrong] = probe(config_of(here, tmp_path / "out", **changes), show=False).dense
    assert wrong.subjects["encoder"].test.mean_iou < 0.4
    assert wrong.subjects["encoder"].choice.val_accuracy < 0.4


def test_the_same_whatever_the_batch_and_the_room(
    here: Path, report: ProbeReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.dense.cells.ROOM", 5000)
    monkeypatch.setattr("common.data.masks.available_memory", lambda: 0)
    changes = {"batch_size": 7, "data": {"cache": "none"}}
    [found] = probe(config_of(here, tmp_path / "out", **changes), show=False).dense
    for name, one in report.dense[0].subjects.items():
        assert found.subjects[name].test.mean_iou == pytest.approx(one.test.mean_iou, abs=2e-3)
    assert found.code is None


def test_shapes_have_masks(here: Path, tmp_path: Path) -> None:
    data = {"train": "shapes:train:40", "masks": "object", "test": "shapes:test:20", "test_masks": None}
    config = config_of(here, tmp_path / "out", data=data | {"mask_names": []})
    [result] = probe(config, show=False).dense
    assert (result.task, result.classes) == ("object", ("background", "object"))
    source = ShapesSource("test", 20)
    masks = source.masks("object").bulk(torch.arange(20))
    assert masks is not None
    halved = masks[:, 0, 1::2, 1::2]  # the nearest of 32 pixels at 16
    assert result.subjects["encoder"].test.pixels == (int((halved == 0).sum()), int((halved == 1).sum()))
    assert load_images(source, SIZE).size == SIZE


def test_several_seeds_have_a_mean(here: Path, tmp_path: Path) -> None:
    config = config_of(here, tmp_path / "out", seeds=2, baselines={"random_init": False})
    found = seeds.probe(config)
    assert len(found.dense) == 2
    assert found.seeds is not None
    encoder, pixels = found.seeds.spreads
    assert (encoder.subject, pixels.subject, encoder.measure) == ("encoder", "pixels", "mean_iou")
    ious = [one.subjects["encoder"].test.mean_iou for one in found.dense]
    assert encoder.spread.mean == pytest.approx(sum(ious) / 2)
    read = read_results(tmp_path / "out")
    assert [value for _, value, _ in headline(read)] == [encoder.spread.mean, pixels.spread.mean]
    assert next(value for _, value, _ in headline(read_results(here / "run"))) > 0.5


def test_the_end_of_the_grid_is_noted(report: ProbeReport, here: Path) -> None:
    [result] = report.dense
    changed = {"at_end_of_grid": True, "setting": {**result.linear.choice.setting, "l2": 1.0}}
    mine = result.linear.model_copy(update={"choice": result.linear.choice.model_copy(update=changed)})
    at_end = result.model_copy(update={"subjects": {**result.subjects, "encoder": mine}})
    said = notes(config_of(here, here / "none", probe={}), ProbeReport(results=(), dense=(at_end,)))
    assert (
        f"at an end of the grid for {result.task}, which goes from 0.0001 to 1; try a wider one: probe.l2=[0.0001,"
        in said[-1]
    )
    assert said[-1].endswith(",1,3.2,10,32,100]")
    assert "a wider one: probe.l2=[0.0001," in said[-1]

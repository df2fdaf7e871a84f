"""Labeled data: where the test set comes from, and training and test sets that do not match."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from common.data.levels import Levels
from common.encoders.provenance import Provenance
from common.errors import UserError
from finetune.data import LabeledData, load_labeled, open_sources
from tests.common.data.samples import png


def folder(root: Path, classes: dict[str, int]) -> Path:
    """A folder of plain images, with one subfolder per class."""
    for number, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (9, 8), (40 * number, index, 7)).save(root / name / f"{index}.png")
    return root


def test_shapes_has_a_test_set_of_its_own() -> None:
    sources = open_sources(LabeledData(), seed=0)
    assert [source.spec.split(":")[1] for source in sources] == ["train", "test"]


@pytest.mark.parametrize("test", [None, "shapes:test:50"])
def test_the_images_of_a_data_set_do_not_depend_on_the_seed(test: str | None) -> None:
    data = LabeledData(test=test, task=["shape", "color"])
    one, other = open_sources(data, seed=0), open_sources(data, seed=7)
    rows = torch.arange(5)
    for mine, theirs in zip(one, other, strict=True):
        assert mine.fingerprint == theirs.fingerprint
        mine_pixels, their_pixels = mine.bulk(rows), theirs.bulk(rows)
        assert mine_pixels is not None
        assert their_pixels is not None
        assert torch.equal(mine_pixels, their_pixels)


def test_a_folder_without_a_test_set_is_split_stratified(tmp_path: Path) -> None:
    root = folder(tmp_path / "all", {"cat": 10, "dog": 20})
    data = LabeledData(train=f"folder:{root}", workers=0)
    train, test = open_sources(data, seed=0)
    assert torch.bincount(train.labels().values).tolist() == [8, 16]
    assert torch.bincount(test.labels().values).tolist() == [2, 4]
    train_places = {train.where(index) for index in range(len(train))}
    assert not train_places & {test.where(index) for index in range(len(test))}
    images = load_labeled(open_sources(data, seed=0), data, 8, seed=0)
    assert len(images.train) == 24
    assert [len(labels.values) for labels in images.tasks["label"]] == [24, 6]


def test_a_limited_test_set_does_not_depend_on_the_seed(tmp_path: Path) -> None:
    root = folder(tmp_path / "all", {"cat": 20, "dog": 20})
    data = LabeledData(train=f"folder:{root}", test=f"folder:{root}", limit=8, test_limit=8, workers=0)
    sources = open_sources(data, seed=0)
    one, other = load_labeled(sources, data, 8, seed=0), load_labeled(sources, data, 8, seed=7)
    assert torch.equal(one.test.kept, other.test.kept)
    assert not torch.equal(one.train.kept, other.train.kept)


def test_several_tasks_come_from_one_set_of_images() -> None:
    data = LabeledData(task=["shape", "color"], limit=30, test_limit=10, workers=0)
    images = load_labeled(open_sources(data, seed=0), data, 32, seed=0)
    assert list(images.tasks) == ["shape", "color"]
    assert [len(labels.values) for pair in images.tasks.values() for labels in pair] == [30, 10, 30, 10]


def test_other_classes_in_the_test_set_are_refused(tmp_path: Path) -> None:
    train = folder(tmp_path / "train", {"cat": 2, "dog": 2})
    test = folder(tmp_path / "test", {"cat": 2, "bird": 2})
    with pytest.raises(UserError, match="images of bird are in the test set only; training has cat, dog"):
        open_sources(LabeledData(train=f"folder:{train}", test=f"folder:{test}"), seed=0)


def test_a_test_set_of_some_classes_is_labeled_by_the_classes_of_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = folder(tmp_path / "train", {"bee": 3, "cat": 3, "dog": 3})
    test = folder(tmp_path / "test", {"cat": 1, "dog": 2})
    data = LabeledData(train=f"folder:{train}", test=f"folder:{test}", workers=0)
    images = load_labeled(open_sources(data, seed=0), data, 8, seed=0)
    known, held = images.tasks["label"]
    assert known.names == held.names == ("bee", "cat", "dog")
    assert held.values.tolist() == [1, 2, 2]
    assert "task label: no test image shows bee, so the accuracy there is unknown" in caplog.text
    assert "count as wrong" not in caplog.text


def test_classes_that_differ_in_case_alone_are_worth_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = folder(tmp_path / "train", {"Cat": 3, "cat": 3, "dog": 3, "Straße": 3, "STRASSE": 3})
    data = LabeledData(train=f"folder:{train}", workers=0)
    images = load_labeled(open_sources(data, seed=0), data, 8, seed=0)
    assert len(images.tasks["label"][0].names) == 5  # they stay apart
    said = "task label: Cat and cat, STRASSE and Straße differ in upper and lower case alone; if they are one, write"
    assert said in caplog.text


def test_test_images_of_a_class_that_the_limit_leaves_out_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder(tmp_path / "all", {"bee": 1, "cat": 40, "dog": 40})
    data = LabeledData(train=f"folder:{root}", test=f"folder:{root}", limit=8, workers=0)
    load_labeled(open_sources(data, seed=0), data, 8, seed=0)
    assert "task label: test images of bee count as wrong, since no training image shows them" in caplog.text


CLASSES = datasets.ClassLabel(names=["cat", "dog", "emu"])
REVERSED = datasets.ClassLabel(names=["emu", "dog ", "cat"])


@pytest.mark.parametrize(
    ("train", "test", "kinds", "names"),
    [
        ([5, 6, 7], [7, 5], (None, None), [2, 0]),
        ([5, 6, 7], ["7", "5"], (None, None), [2, 0]),
        ([False, True], [True, True], (None, None), [1, 1]),
        ([0, 1, 2], [0, 1], (CLASSES, REVERSED), [2, 1]),
        ([0, 1, 2], ["emu", "dog"], (CLASSES, None), [2, 1]),
        (["a b", "c"], [" c", "a  b"], (None, None), [1, 0]),
    ],
)
def test_labels_of_any_type_are_matched_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: list[Any], test: list[Any], kinds: Any, names: list[int]
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    for number, (name, cells) in enumerate({"train": train, "test": test}.items()):
        values = {"image": [png(100 * number + row) for row in range(2 * len(cells))], "label": cells * 2}
        table = datasets.Dataset.from_dict(values)
        table = table if kinds[number] is None else table.cast_column("label", kinds[number])
        table.to_parquet(tmp_path / f"{name}.parquet")
    data = LabeledData(train=f"parquet:{tmp_path}/train.parquet", test=f"parquet:{tmp_path}/test.parquet", workers=0)
    images = load_labeled(open_sources(data, seed=0), data, 8, seed=0)
    assert images.tasks["label"][1].values.tolist() == names * 2


@pytest.mark.parametrize("cells", [["a", ""], ["a", None], ["a", " "]])
def test_rows_without_a_label_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[Any]) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.Dataset.from_dict({"image": [png(0), png(1)], "label": cells}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t\.parquet: 1 of 2 rows have no label in column 'label'"):
        open_sources(LabeledData(train=f"parquet:{tmp_path}/t.parquet"), seed=0)


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "one", {"cat": 10})
    with pytest.raises(UserError, match="only one class"):
        open_sources(LabeledData(train=f"folder:{root}", test=f"folder:{root}"), seed=0)


def test_an_unknown_task_is_refused_and_the_message_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="no task 'size'; it has shape, color, texture"):
        open_sources(LabeledData(task=["shape", "size"]), seed=0)


def test_unlabeled_images_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(UserError, match="labels are needed"):
        open_sources(LabeledData(train=f"folder:{tmp_path}"), seed=0)


def test_other_levels_than_the_encoder_was_trained_on_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split, top in (("train", 4000), ("test", 500)):
        for number in range(8):
            path = tmp_path / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            ramp = np.random.default_rng(number).integers(0, top - number, (16, 16)).astype(np.uint16)
            Image.fromarray(ramp).save(path)
    folders = {split: f"folder:{tmp_path / split}" for split in ("train", "test")}
    data = LabeledData.model_validate(folders | {"workers": 0})
    sources = open_sources(data, 0)
    images = load_labeled(sources, data, 16, 0, Provenance(levels=Levels(0, 4095)))
    assert images.test.levels == images.train.levels == (0, 4095)
    assert "the encoder was trained on" not in caplog.text
    load_labeled(sources, data, 16, 0, Provenance(levels=None))
    assert "the encoder was trained on images of 8 bits, but folder:" in caplog.text
    assert (
        "has values 0 to 4095 (12 bits): the same value is a different gray; convert the images to one" in caplog.text
    )
    load_labeled(sources, data, 16, 0, Provenance(levels=Levels(0, 16383)))
    assert (
        "is a different gray; set data.levels=[0, 16383], convert the images to one range, or pretrain on"
        in caplog.text
    )
    caplog.clear()
    data = LabeledData.model_validate(folders | {"workers": 0, "levels": [0, 16383]})
    images = load_labeled(open_sources(data, 0), data, 16, 0, Provenance(levels=Levels(0, 16383)))
    assert images.test.levels == images.train.levels == (0, 16383)
    assert "the encoder was trained on" not in caplog.text


def test_folders_of_splits_are_the_training_and_test_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split, count in (("train", 6), ("test", 4)):
        folder(tmp_path / split, {"cat": count, "dog": count + 1})
    data = LabeledData(train=f"folder:{tmp_path}", workers=0)
    sources = open_sources(data, seed=0)
    assert [len(source) for source in sources] == [13, 9]
    assert sources.train.labels().names == sources.test.labels().names == ("cat", "dog")
    with caplog.at_level("DEBUG", logger="retouch"):
        load_labeled(sources, data, 8, seed=0)
    said = {record.getMessage(): record.levelname for record in caplog.records}
    assert said["task label: 2 classes (training + test images): cat (6 + 4), dog (7 + 5)"] == "INFO"


def test_no_task_means_all_that_the_images_have() -> None:
    data = LabeledData(limit=30, test_limit=10, workers=0)
    images = load_labeled(open_sources(data, seed=0), data, 32, seed=0)
    assert list(images.tasks) == ["shape", "color", "texture"]  # without `all`, which is made of these
    named = LabeledData(label="color", limit=30, test_limit=10, workers=0)
    assert list(load_labeled(open_sources(named, seed=0), named, 32, seed=0).tasks) == ["color"]


def test_the_size_of_the_images_is_said(caplog: pytest.LogCaptureFixture) -> None:
    for size, said in ((None, "images at 32 px, the encoder's size"), (24, "images at 24 px")):
        data = LabeledData(task="shape", image_size=size, limit=30, test_limit=10, workers=0)
        with caplog.at_level("INFO", logger="retouch"):
            load_labeled(open_sources(data, seed=0), data, size or 32, seed=0)
        assert said in caplog.messages
        caplog.clear()


def test_labels_are_never_the_first_of_several_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    cells = {"image": [buffer.getvalue()] * 4, "size": [1, 1, 2, 2], "age": [5, 6, 5, 6], "id": [0, 1, 2, 3]}
    datasets.Dataset.from_dict(cells).to_parquet(tmp_path / "t.parquet")
    spec = f"parquet:{tmp_path}/t.parquet"
    train = open_sources(LabeledData(train=spec, test=spec), seed=0).train
    assert train.default_tasks() == ("size", "age")  # the values of the last column do not repeat
    with pytest.raises(
        UserError, match=r"several columns may be labels: size, age, id; set data\.label to one of them"
    ):
        train.resolve(None)
    assert open_sources(LabeledData(train=spec, test=spec, task="age"), seed=0).train.resolve("age") == "age"
    assert open_sources(LabeledData(train=spec, test=spec, label="age"), seed=0).train.resolve(None) == "age"

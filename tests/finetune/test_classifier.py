"""Opening classifiers: by run or folder, by task, with a moved encoder; messages name damaged or missing files."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from common.encoders.load import load_classifier, load_encoder, read_encoder_card
from common.errors import UserError
from finetune.classifier import (
    ClassifierCard,
    Kept,
    folder_names,
    open_classifier,
    share_classifier,
    write_classifiers,
)
from finetune.pooling import pool
from finetune.results import ProbeReport, read_results
from tests.finetune.predict.runs import export, probed, tuned

IMAGES = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs side by side, as they are made in one folder."""
    folder = tmp_path_factory.mktemp("runs")
    encoder = export(folder / "mine" / "encoder")
    probed(folder / "probed", encoder)
    tuned(folder / "tuned", encoder)
    return folder


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    """The same, to be changed; the first ones are at another place."""
    return Path(shutil.copytree(runs, tmp_path / "runs"))


def test_a_run_and_the_folder_of_a_task_open_the_same(runs: Path) -> None:
    one = open_classifier(runs / "probed", "color")
    other = open_classifier(runs / "probed" / "classifiers" / "color")
    assert (one.task, one.image_size, one.levels, one.sha256) == (other.task, 16, None, other.sha256)
    assert torch.equal(one(IMAGES), other(IMAGES))
    assert one.class_names == open_classifier(runs / "tuned").class_names


def test_results_say_where_the_classifiers_are(runs: Path) -> None:
    report = read_results(runs / "probed")
    assert isinstance(report, ProbeReport)
    assert [result.classifier for result in report.results] == ["classifiers/color", "classifiers/texture"]
    for result in report.results:
        classifier = open_classifier(runs / "probed" / str(result.classifier))
        assert (classifier.task, classifier.class_names) == (result.task, result.classes)
        assert result.calibration is not None
        assert classifier.temperature == result.calibration.temperature != 1


def test_a_probes_classifier_is_encoder_pooling_and_a_linear_layer(runs: Path) -> None:
    classifier = open_classifier(runs / "probed", "texture")
    assert classifier(IMAGES).shape == (5, 4)
    assert classifier(IMAGES).dtype == torch.float32
    maps = load_encoder(runs / "mine" / "encoder").layers(IMAGES)
    parts = [pool(maps[layer], pooling) for layer, pooling in classifier.network.parts]  # type: ignore[union-attr]
    linear = classifier.network.linear
    torch.testing.assert_close(classifier(IMAGES), linear(torch.cat(parts, 1)))  # type: ignore[operator]
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    assert not classifier.train().encoder.training  # frozen


@pytest.mark.parametrize("name", ["probed", "tuned"])
def test_a_classifier_refuses_standardized_images(runs: Path, name: str) -> None:
    classifier = open_classifier(runs / name, "color" if name == "probed" else None)
    with pytest.raises(ValueError, match="do not standardize them: the encoder does that itself"):
        classifier((IMAGES - 0.45) / 0.22)


def test_the_linear_layer_is_in_float32_whatever_the_autocast(runs: Path) -> None:
    classifier = open_classifier(runs / "probed", "texture")
    with torch.autocast("cpu", torch.bfloat16):
        logits = classifier(IMAGES)
    assert not torch.equal(logits, logits.bfloat16().float())


def test_a_fine_tuned_network_is_the_classifier_of_its_folder(runs: Path) -> None:
    expected = load_classifier(runs / "tuned" / "classifier")
    for path in (runs / "tuned", runs / "tuned" / "classifier"):
        classifier = open_classifier(path)
        with torch.inference_mode():
            assert torch.equal(classifier(IMAGES), expected(IMAGES))
        card = read_encoder_card(runs / "tuned" / "classifier")
        assert (classifier.sha256, classifier.temperature, classifier.task) == (card.sha256, card.temperature, "color")
        assert card.temperature != 1


def test_the_temperature_is_not_part_of_what_a_classifier_is(copied: Path) -> None:
    before = open_classifier(copied / "probed", "color")
    path = copied / "probed" / "classifiers" / "color" / "classifier.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"temperature": 3.0}))
    after = open_classifier(copied / "probed", "color")
    assert (before.sha256 == after.sha256, after.temperature) == (True, 3.0)


@pytest.mark.parametrize("version", [1, 2])
def test_a_classifier_of_an_earlier_version_opens(copied: Path, version: int) -> None:
    """Its digest covers the name of its task, and in the first version not the later fields."""
    expected = open_classifier(copied / "probed", "color")
    folder = copied / "probed" / "classifiers" / "color"
    card = json.loads((folder / "classifier.json").read_text()) | {"schema_version": version}
    if version == 1:
        del card["answers"], card["class_numbers"]
    aside = ("temperature", "calibrated_on", "encoder", "encoder_beside", "sha256")
    facts = json.dumps({key: value for key, value in card.items() if key not in aside}, sort_keys=True)
    card["sha256"] = hashlib.sha256(facts.encode() + (folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "classifier.json").write_text(json.dumps(card))
    found = open_classifier(copied / "probed", "color")
    assert (found.answers, found.sha256) == ("class", card["sha256"])
    assert torch.equal(found(IMAGES), expected(IMAGES))


# ---- the encoder


def test_an_encoder_that_moved_with_its_probe_is_found(copied: Path, runs: Path) -> None:
    shutil.move(runs / "mine", runs / "away")
    try:
        assert open_classifier(copied / "probed", "color")(IMAGES).shape == (5, 8)
    finally:
        shutil.move(runs / "away", runs / "mine")


def test_an_encoder_that_is_elsewhere_is_named(copied: Path, runs: Path, tmp_path: Path) -> None:
    expected = open_classifier(runs / "probed", "color")(IMAGES)
    shutil.move(runs / "mine", runs / "away")
    shutil.move(copied / "mine", tmp_path / "elsewhere")
    try:
        with pytest.raises(UserError, match=r"needs its encoder: .*no such folder.*; set encoder=FOLDER"):
            open_classifier(copied / "probed", "color")
        for place in (tmp_path / "elsewhere", tmp_path / "elsewhere" / "encoder"):
            assert torch.equal(open_classifier(copied / "probed", "color", place)(IMAGES), expected)
        other = export(tmp_path / "other", seed=1)
        with pytest.raises(
            UserError, match=r"other is not the encoder that this classifier was fitted on: its sha256 is"
        ):
            open_classifier(copied / "probed", "color", other)
    finally:
        shutil.move(runs / "away", runs / "mine")


def test_an_encoder_that_was_replaced_is_refused(copied: Path, runs: Path) -> None:
    """Another run in the same folder would silently give other features."""
    shutil.move(runs / "mine", runs / "away")
    try:
        shutil.rmtree(copied / "mine")
        export(copied / "mine" / "encoder", seed=1)
        with pytest.raises(UserError, match="is not the encoder that"):
            open_classifier(copied / "probed", "color")
    finally:
        shutil.move(runs / "away", runs / "mine")


# ---- what cannot be opened


def test_one_of_several_tasks_has_to_be_named(runs: Path) -> None:
    with pytest.raises(UserError, match="classifiers of several tasks: set task to one of color, texture"):
        open_classifier(runs / "probed")
    with pytest.raises(UserError, match="no classifier of 'size'; it has color, texture"):
        open_classifier(runs / "probed", "size")
    with pytest.raises(UserError, match="classifies color, not texture; remove task"):
        open_classifier(runs / "tuned", "texture")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "no such folder; give a finished run of retouch probe or retouch finetune"),
        ("mine", "holds no classifier: run retouch probe or retouch finetune on labeled images"),
        ("mine/encoder", "is an encoder without a classifier: run retouch probe or retouch finetune"),
        ("file", "is a file; give a finished run"),
        ("half", "is a run that has not finished: continue it with out="),
        ("older", "has no classifier: older versions of Retouch saved none"),
        ("group", "holds runs with several seeds: give one of them, such as .*group/seed-3"),
        ("pretrained", "is a run of retouch pretrain, which does not save a classifier"),
    ],
)
def test_what_is_no_classifier_is_told_apart(copied: Path, name: str, message: str) -> None:
    (copied / "file").touch()
    for folder, mark in (("half", "probe"), ("older", "probe"), ("group", "probe_seeds"), ("pretrained", "pretrain")):
        (copied / folder).mkdir()
        (copied / folder / "config.yaml").write_text(f"# retouch {mark}\n")
    (copied / "older" / "results.json").write_text("{}")
    (copied / "group" / "seed-3").mkdir()
    with pytest.raises(UserError, match=message):
        open_classifier(copied / name)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("classifier.json", lambda text: text[:50], "classifier.json cannot be read"),
        ("classifier.json", lambda text: text.replace(b'"features"', b'"width"'), r"is damaged \(.*features"),
        ("classifier.json", lambda text: text.replace(b'"red"', b'"rot"'), "have been modified"),
        (
            "classifier.json",
            lambda text: text.replace(b'"schema_version": 3', b'"schema_version": 4'),
            "another version",
        ),
        ("model.safetensors", lambda data: data[:-4], "model.safetensors cannot be read"),
        ("model.safetensors", lambda data: data[:-4] + b"1234", "have been modified"),
    ],
)
def test_a_classifier_whose_files_were_changed_is_refused(
    copied: Path, file: str, change: object, message: str
) -> None:
    path = copied / "probed" / "classifiers" / "color" / file
    assert callable(change)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        open_classifier(copied / "probed", "color")


def test_folders_of_tasks_have_names_that_all_file_systems_take() -> None:
    tasks = ["color", "a/b", "a:b", "..", "", "Color", "x" * 100, "Größe", "color"]
    names = folder_names(tasks)
    assert names == ["color", "a_b", "a_b-2", "task", "task-2", "Color-2", "x" * 60, "Größe", "color-3"]
    assert len({name.casefold() for name in names}) == len(tasks)


def test_a_task_is_found_by_its_name_whatever_its_folder_is_called(copied: Path) -> None:
    kept = copied / "probed" / "classifiers"
    (kept / "color").rename(kept / "other")
    (kept / "texture").rename(kept / "color")  # as the folder of a task "a_b" may be that of "a b"
    assert open_classifier(copied / "probed", "color").task == "color"
    assert open_classifier(copied / "probed", "texture").task == "texture"
    assert open_classifier(copied / "probed", "other").task == "color"


def test_a_shared_classifier_of_masks_names_no_folder_of_this_machine(runs: Path, tmp_path: Path) -> None:
    """Its task is the path of the masks."""
    kept = runs / "probed" / "classifiers" / "color"
    card = ClassifierCard.model_validate_json((kept / "classifier.json").read_text())
    masks = card.model_copy(update={"answers": "mask", "task": "/home/me/my masks"})
    zeros = Kept(masks, torch.zeros(card.features, len(card.class_names)), torch.zeros(len(card.class_names)))
    [written] = write_classifiers(tmp_path / "run", [zeros])
    share_classifier(tmp_path / "run" / written, tmp_path / "shared")
    [shared] = (tmp_path / "shared").glob("classifiers/*/classifier.json")
    found = json.loads(shared.read_text())
    assert (found["task"], found["encoder"], found["encoder_beside"]) == ("my masks", "", "encoder")
    assert found["sha256"] == json.loads((tmp_path / "run" / written / "classifier.json").read_text())["sha256"]


def test_probabilities_of_images_in_place_of_logits_are_refused(runs: Path) -> None:
    applied = open_classifier(runs / "probed", "color")
    with pytest.raises(ValueError, match=r"expected the logits that this classifier gives for images, \[B \d+\], got"):
        applied.probabilities(torch.rand(2, 3, 16, 16))


def test_an_encoder_of_the_hub_without_a_classifier_is_named_as_it_was_given(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.classifier.local_folder", lambda path: runs / "mine" / "encoder")
    with pytest.raises(UserError, match=r"^hf:me/mine is an encoder without a classifier: its owner can add one with"):
        open_classifier("hf:me/mine")

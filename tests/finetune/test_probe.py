"""The probe stage from an exported encoder to results.json, on generated images."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.encoders.load import load_encoder, read_encoder_card
from common.encoders.provenance import Provenance
from common.errors import UserError
from finetune import metrics
from finetune.config import ProbeConfig
from finetune.data import Sources, open_sources
from finetune.kinds import ClassLabels, classes
from finetune.kinds.classes import damage_name
from finetune.predictions import Predictions, read_predictions
from finetune.probe import probe
from finetune.results import ProbeReport, ProbeResult, read_results
from finetune.subjects import Subject
from finetune.summary import logged_numbers
from tests.finetune.toys import Shuffled
from tests.offline_wandb import history, settings


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "encoder"
    torch.manual_seed(0)
    config = EncoderConfig(name="small_cnn", model_args={"width": 4, "depth": 1})
    export_encoder(build_encoder(config, image_size=16, view="gray"), folder, Provenance(pretext={"kind": "colorize"}))
    return folder


# one space, one strength, and only the classifiers and their baselines
SHORT: dict[str, Any] = {
    "probe": {"l2": [1e-2], "layers": [-1], "poolings": ["avg"]},
    "damage": [],
    "properties": False,
    "null_check": False,
}
ALONE = {"random_init": False, "pixels": False}


def config_of(out: Path, encoder: Path, **changes: Any) -> ProbeConfig:
    data = {"train": "shapes", "limit": 300, "test_limit": 90, "task": ["color", "texture"], "workers": 0}
    values: dict[str, Any] = {
        "out": out,
        "encoder": encoder,
        "data": data | changes.pop("data", {}),
        "probe": {
            "l2": [1e-3, 1e-1],
            "layers": ["each"],
            "poolings": ["avg", "avg2"],
            "search_images": 100,
            "folds": 2,
        },
        "precision": "float32",
        "wandb": {"mode": "disabled"},
    }
    return ProbeConfig.model_validate(values | changes)


@pytest.fixture(scope="module")
def report(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> ProbeReport:
    """One complete probe run; the tests of this module check its results."""
    out = tmp_path_factory.mktemp("probe") / "out"
    returned = probe(config_of(out, encoder))
    assert json.loads((out / "results.json").read_text()) == returned.model_dump(mode="json")
    assert read_results(out) == returned
    predictions = read_predictions(out)
    assert len(predictions) == len(returned.results)
    for result, found in zip(returned.results, predictions, strict=True):
        _check_predictions(result, found)
    return returned


def _check_predictions(result: ProbeResult, found: Predictions) -> None:
    """Each score, and each comparison, can be computed again from the predictions on disk."""
    assert (found.task, found.classes) == (result.task, result.classes)
    assert found.rows.tolist() == list(range(90))
    scores = {f"{name}.{key}": one for name, subject in result.subjects.items() for key, one in subject.probes.items()}
    assert list(found.answers) == list(scores)
    assert list(found.confidences) == list(scores)  # logistic regression and k-NN have probabilities
    for name, outcome in scores.items():
        assert metrics.score(found.answers[name], found.labels, len(found.classes)) == outcome.test
        subject, key = name.split(".")
        assert list(outcome.compared) == (["random_init", "pixels"] if subject == "encoder" else [])
        for other, compared in outcome.compared.items():
            assert compared == metrics.compare(found.answers[name], found.answers[f"{other}.{key}"], found.labels)
            difference = outcome.test.accuracy - result.subjects[other].probes[key].test.accuracy
            assert compared.difference == pytest.approx(difference)


def test_results_say_what_was_measured_on_what_and_how(report: ProbeReport, encoder: Path) -> None:
    assert [result.task for result in report.results] == ["color", "texture"]
    assert [result.needs_color for result in report.results] == [True, False]
    for result in report.results:
        assert result.data.model_dump() == {
            "train": "shapes:train:20000", "test": "shapes:test:4000", "image_size": 16, "duplicates": 0,
            "near_duplicates": {
                "test_images": 0, "pairs": 0, "most_alike": (), "compared": 300, "of": 300
            },
            "in_pretraining": None, "left_out": 0,
            "not_compared": {"in_pretraining": "the encoder does not name the images that it was trained on"},
            "originals": None, "test_originals": None,
        }  # fmt: skip
        assert (result.encoder.path, result.encoder.pretext) == (str(encoder), "colorize")
        assert result.encoder.sha256 == read_encoder_card(encoder).sha256
        assert list(result.subjects) == ["encoder", "random_init", "pixels"]
        assert [subject.view for subject in result.subjects.values()] == ["gray", "gray", "rgb"]
        assert len(result.classes) == len(result.linear.test.confusion)
        assert "tested once" in result.protocol
        assert "2-fold cross-validation of the training images (stratified, seed 0" in result.protocol


def test_every_outcome_has_its_counts_and_a_score_that_agrees_with_its_confusion(report: ProbeReport) -> None:
    for result in report.results:
        for subject in result.subjects.values():
            assert list(subject.probes) == ["linear", "knn"]
            for outcome in subject.probes.values():
                assert (outcome.n_train, outcome.n_val, outcome.test.n) == (300, 300, 90)
                assert outcome.choice.how == "2-fold cross-validation"
                confusion = torch.tensor(outcome.test.confusion)
                assert int(confusion.sum()) == 90
                assert outcome.test.accuracy == pytest.approx(int(confusion.diagonal().sum()) / 90)
                assert outcome.test.ci95[0] < outcome.test.accuracy < outcome.test.ci95[1]
                assert len(outcome.test.per_class) == len(result.classes)
                assert outcome.seconds >= 0


def test_baselines_choose_among_the_same_spaces(report: ProbeReport) -> None:
    for result in report.results:
        twin, pixels = (result.baselines[name].probes["linear"] for name in ("random_init", "pixels"))
        assert twin.test.confusion != result.linear.test.confusion  # another network
        assert twin.choice.at_end_of_grid  # a grid of two strengths has only ends
        assert pixels.choice.features == 3 * 16 * 16


def test_the_untrained_twin_gets_exactly_the_encoders_spaces(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: dict[str, list[str]] = {}
    real = ClassLabels.measure

    def spy(self: ClassLabels, subject: Subject, how: Any) -> Any:
        offered[subject.name] = [f"{space.layer} {space.pooling}" for space in subject.spaces]
        return real(self, subject, how)

    monkeypatch.setattr(ClassLabels, "measure", spy)
    spaces = {"l2": [1e-2], "layers": ["each"], "poolings": ["avg", "avg2"], "folds": 2}
    probe(config_of(tmp_path / "out", encoder, data={"task": "texture"}, **{**SHORT, "probe": spaces, "knn": None}))
    assert offered["random_init"] == offered["encoder"]
    assert offered["pixels"] == ["0 flatten"]


def test_a_color_task_can_be_solved_from_pixels_but_not_by_a_gray_encoder(report: ProbeReport) -> None:
    color = report.results[0]
    pixels = color.baselines["pixels"].probes["linear"]
    assert pixels.test.accuracy > color.linear.test.accuracy + 0.1
    assert any("gray only" in note for note in report.notes)
    assert color.linear.damaged["gray"].accuracy == color.linear.test.accuracy


def test_damaged_images_are_classified_by_the_same_linear_classifier(report: ProbeReport) -> None:
    for result in report.results:
        assert list(result.linear.damaged) == ["gaussian sigma=0.1", "gray", "holes ratio=0.25"]
        for damaged in result.linear.damaged.values():
            assert damaged.n == sum(map(sum, damaged.confusion)) == 90
            assert damaged.ci95[0] <= damaged.accuracy <= damaged.ci95[1]
        others = [one for subject in result.subjects.values() for one in subject.probes.values()]
        assert all(not one.damaged for one in others if one is not result.linear)


def test_properties_of_the_code_are_shared_by_tasks(report: ProbeReport, encoder: Path) -> None:
    first, second = (result.code for result in report.results)
    assert first is not None
    assert first == second
    assert first.size == math.prod(load_encoder(encoder).map_shape)
    assert 0 < first.nonzeros <= first.size
    assert list(first.invariance) == ["gaussian", "shift", "flip", "brightness", "gray"]
    assert first.invariance["gray"] == pytest.approx(1, abs=1e-4)  # this encoder sees gray only


def test_numbers_are_logged_under_distinct_names(report: ProbeReport) -> None:
    result = report.results[0]
    numbers = logged_numbers(result)
    assert result.code is not None
    assert numbers["test_accuracy"] == result.linear.test.accuracy
    assert numbers["val_accuracy"] == result.linear.choice.val_accuracy
    assert numbers["knn_test_accuracy"] == result.subjects["encoder"].probes["knn"].test.accuracy
    assert numbers["random_init_test_accuracy"] == result.baselines["random_init"].probes["linear"].test.accuracy
    assert numbers["pixels_knn_test_accuracy"] == result.baselines["pixels"].probes["knn"].test.accuracy
    assert numbers["code_size"] == result.code.size
    assert numbers["invariance_flip"] == result.code.invariance["flip"]


def test_properties_can_be_switched_off(encoder: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path / "out", encoder, **SHORT, knn=None, baselines=ALONE)
    assert {result.code for result in probe(config).results} == {None}


def test_test_labels_change_only_the_accuracy_not_the_choice(
    report: ProbeReport, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shuffled(*given: Any) -> Sources:
        train, test = open_sources(*given)
        return Sources(train, Shuffled(test))

    monkeypatch.setattr(classes, "open_sources", shuffled)
    other = probe(config_of(tmp_path / "out", encoder, damage=[], properties=False, null_check=False))
    for one, two in zip(report.results, other.results, strict=True):
        assert one.linear.test.confusion != two.linear.test.confusion
        assert list(one.subjects) == list(two.subjects) == ["encoder", "random_init", "pixels"]
        for name, subject in one.subjects.items():
            for key, outcome in subject.probes.items():
                assert outcome.choice == two.subjects[name].probes[key].choice


def test_the_test_set_is_scored_once_for_each_reported_row(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[int] = []
    real = metrics.score
    monkeypatch.setattr(classes, "score", lambda *given: scored.append(1) or real(*given))
    probe(config_of(tmp_path / "out", encoder, **SHORT, baselines=ALONE))
    assert len(scored) == 2 * 2  # linear and k-NN, two tasks


def test_a_second_probe_reads_features_from_the_cache_and_agrees(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one_task = {"task": "texture"}
    short = {**SHORT, "baselines": {"pixels": False}, "cache_folder": tmp_path / "cache"}
    first = probe(config_of(tmp_path / "one", encoder, data=one_task, **short))
    monkeypatch.setattr("finetune.features.extract", lambda *given: pytest.fail("features were recomputed"))
    second = probe(config_of(tmp_path / "two", encoder, data=one_task, **short))
    for one, two in zip(first.results, second.results, strict=True):
        assert one.linear.test.confusion == two.linear.test.confusion
        mine, again = (result.baselines["random_init"].probes["linear"] for result in (one, two))
        assert mine.test.confusion == again.test.confusion


def test_several_data_sets_can_be_probed_in_one_call(encoder: Path, tmp_path: Path) -> None:
    more = {"train": "shapes", "task": "color", "limit": 150, "test_limit": 40, "workers": 0}
    other = {"train": "shapes", "test": "shapes:train:60", "task": "color", "limit": 150, "workers": 0}
    config = config_of(
        tmp_path / "out",
        encoder,
        **SHORT,
        knn=None,
        baselines=ALONE,
        more_data=[more, other],
    )
    results = probe(config).results
    assert [(result.task, result.linear.n_train, result.linear.test.n) for result in results] == [
        ("color", 300, 90),
        ("texture", 300, 90),
        ("color", 150, 40),
        ("color", 150, 60),
    ]
    # each is logged under its own name
    logged = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    accuracies = [value for row in logged for key, value in row.items() if key.endswith("/test_accuracy")]
    assert accuracies == [result.linear.test.accuracy for result in results]
    assert len({key for row in logged for key in row if key.endswith("/test_accuracy")}) == 4


def test_wandb_holds_the_hash_of_the_encoder_and_its_results(encoder: Path, tmp_path: Path) -> None:
    config = config_of(
        tmp_path / "out",
        encoder,
        data={"task": "texture"},
        **SHORT,
        knn=None,
        baselines=ALONE,
        wandb={"mode": "offline"},
    )
    [result] = probe(config).results
    rows = history(config.out)
    assert settings(config.out)["encoder_sha256"] == read_encoder_card(encoder).sha256
    assert settings(config.out)["encoder_path"] == str(encoder)
    assert [row["texture/test_accuracy"] for row in rows if "texture/test_accuracy" in row] == [
        result.linear.test.accuracy
    ]


def test_protocol_says_how_layers_and_poolings_were_compared(report: ProbeReport) -> None:
    assert (
        "of the training images (stratified, seed 0; layers and poolings first compared on 100 of them, then the best "
        "2 and the widest on all; logistic probe: all features unless fewer are better by a standard error); "
    ) in report.results[0].protocol


def test_ridge_is_a_probe_too(encoder: Path, tmp_path: Path) -> None:
    config = config_of(
        tmp_path / "out",
        encoder,
        **{**SHORT, "probe": {"kind": "ridge", "folds": 2}},
        knn=None,
        baselines=ALONE,
        data={"limit": 600, "test_limit": 300, "task": "texture"},
    )
    result = probe(config).results[0]
    assert "ridge probe" in result.protocol
    assert result.linear.test.ci95[0] > 1 / 4  # of 4 textures


def test_test_images_that_are_training_images_are_reported(
    encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(
        tmp_path / "out",
        encoder,
        data={"train": "shapes:train:120", "test": "shapes:train:40", "limit": None, "test_limit": None},
        **SHORT,
        knn=None,
        baselines=ALONE,
    )
    with caplog.at_level(logging.WARNING, logger="retouch"):
        report = probe(config)
    assert "40 of 40 test images are identical" in caplog.text
    assert any("40 of 40 test images are also training images" in note for note in report.notes)


def test_all_mistakes_are_reported_at_once_and_nothing_is_written(encoder: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path / "out", tmp_path / "nowhere", data={"task": "size"})
    with pytest.raises(UserError) as caught:
        probe(config)
    assert "no such folder" in str(caught.value)
    assert "no task 'size'" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probe": {"poolings": ["avg+mean"]}}, "must be avg, avg2, max, flatten"),
        ({"probe": {"layers": ["first"]}}, "must be a layer number, each, all, or lastN"),
        ({"probe": {"l2": [0.0]}}, "greater than or equal to 0.000000000001"),
        ({"probe": {"kind": "svm"}}, "'logistic' or 'ridge'"),
        ({"knn": {"k": []}}, "at least 1 item"),
        ({"damage": [{"kind": "fog"}]}, "fog"),
        ({"data": {"task": ["a", "a"]}}, "different tasks"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str, encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(tmp_path / "out", encoder, **changes)


def test_damage_is_named_by_its_non_default_settings() -> None:
    names = [damage_name(damage) for damage in ProbeConfig(out=Path("o"), encoder=Path("e")).damage]
    assert names == ["gaussian sigma=0.1", "gray", "holes ratio=0.25"]

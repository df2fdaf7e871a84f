"""The probe of several labels per image, from its choice to results.json."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from common.data import MultiLabels, build_source, load_images
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.encoders.provenance import Provenance
from common.errors import UserError
from finetune.features import Features
from finetune.multilabel import null
from finetune.multilabel.data import ProbeData, load_multilabel, open_multilabel
from finetune.multilabel.scores import LABEL_SCORES, LabelScores, read_scores, write_scores
from finetune.multilabel.task import MultiLabelTask, build_multilabel_task
from finetune.pooling import Part, Space
from finetune.probe import probe
from finetune.probes import Candidates, Fitted, Linear, Probe, Search
from finetune.ranking import average_precision, compare_labels, halves, mean_average_precision
from finetune.results import ProbeReport, read_results
from finetune.summary import logged_several
from finetune.table import several_table
from tests.finetune.multilabel.labeled_pictures import config_of, pictures
from tests.finetune.probes.features import BAD, BAD_SPACE, CPU
from tests.finetune.probing import refusal

GOOD = Part(0, "avg")
GOOD_SPACE = Space((0,), ("avg",), (GOOD,), 4)
PROBES: dict[str, Probe] = {"logistic": Linear(l2=(1e-3, 1e-1)), "ridge": Linear(kind="ridge", l2=(1e-2, 1.0))}


@pytest.fixture(params=PROBES)
def one(request: pytest.FixtureRequest) -> Probe:
    return PROBES[request.param]


def tagged(n: int, seed: int) -> tuple[Features, MultiLabels]:
    """Layer 0 says which of three labels an image has, with noise; layer 1 is noise. The last label is rare."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(n, 3, generator=generator) < torch.tensor([0.6, 0.3, 0.08])
    good = torch.randn(n, 4, generator=generator) + 5
    good[:, :3] += 2 * values
    features = Features({GOOD: good, BAD: torch.randn(n, 2, generator=generator)}, torch.arange(n))
    return features, MultiLabels(values, ("a", "b", "c"), "t")


def task_of(labels: MultiLabels, folds: int = 0, search: int | None = None) -> MultiLabelTask:
    return build_multilabel_task(labels, Search(folds=folds, search_images=search), seed=0)


@pytest.mark.parametrize(("folds", "search"), [(0, None), (5, None), (0, 100), (3, 100)])
def test_the_informative_features_are_chosen_by_mean_average_precision(
    one: Probe, folds: int, search: int | None
) -> None:
    features, labels = tagged(300, 0)
    task = task_of(labels, folds, search)
    chosen = one.choose(Candidates(features, [BAD_SPACE, GOOD_SPACE], CPU, 1), task)
    assert chosen.space == GOOD_SPACE
    assert task.how == ("held-out 10%" if folds == 0 else f"{folds}-fold cross-validation")
    assert task.held == (sum(len(fold.held) for fold in task.folds) if folds == 0 else 300)
    if search is not None:
        assert all(90 <= len(fold.fit) <= 110 for fold in task.first)
        assert all(bool(labels.values[fold.fit].any(0).all()) for fold in task.first)  # the rare label, too
    scores = []
    for fold in task.folds:
        matrix = features.matrix(GOOD_SPACE, fold.fit)
        mean, scale = matrix.mean(0), matrix.std(0, correction=0)
        rows = one.split(Candidates(features, [GOOD_SPACE], CPU), GOOD_SPACE, task, fold).rows
        fitted = one.fit(rows._replace(features=(matrix - mean) / scale), [chosen.setting], final=True)
        scores.append(fitted.predict((features.matrix(GOOD_SPACE, fold.held) - mean) / scale)[0])
    held = torch.cat([fold.held for fold in task.folds])
    expected = average_precision_score(labels.values[held].numpy(), torch.cat(scores).numpy())
    assert chosen.val_accuracy == pytest.approx(expected, abs=0.01)


def test_held_out_labels_decide_the_choice(one: Probe) -> None:
    features, labels = tagged(300, 0)
    task = task_of(labels)
    [fold] = task.folds
    spoiled = labels.values.clone()
    spoiled[fold.held] = ~spoiled[fold.held]
    chosen = one.choose(Candidates(features, [BAD_SPACE, GOOD_SPACE], CPU), replace(task, labels=spoiled))
    assert chosen.space == BAD_SPACE


def test_the_tested_classifiers_are_those_of_scikit_learn() -> None:
    features, labels = tagged(300, 0)
    test, truth = tagged(200, 1)
    candidates, task, linear = Candidates(features, [GOOD_SPACE], CPU), task_of(labels), Linear(l2=(1e-2,))
    scores = linear.refit(candidates, task, linear.choose(candidates, task)).predict(test)
    fitted = features.parts[GOOD].double()
    rows = ((test.parts[GOOD].double() - fitted.mean(0)) / fitted.std(0, correction=0)).numpy()
    whole = ((fitted - fitted.mean(0)) / fitted.std(0, correction=0)).numpy()
    for label in range(3):
        model = LogisticRegression(C=1 / (300 * 1e-2)).fit(whole, labels.values[:, label])
        np.testing.assert_allclose(scores[:, label].numpy(), model.decision_function(rows), atol=0.02)
        expected = average_precision_score(truth.values[:, label], model.decision_function(rows))
        assert float(average_precision(scores, truth.values)[label]) == pytest.approx(expected, abs=0.01)  # near ties


def test_answers_are_likely_where_they_are_above_zero(one: Probe) -> None:
    features, labels = tagged(500, 0)
    candidates, task = Candidates(features, [GOOD_SPACE], CPU), task_of(labels)
    said = one.refit(candidates, task, one.choose(candidates, task)).predict(features) > 0
    assert ((said == labels.values).double().mean(0) > 0.8).all()


@pytest.mark.parametrize("folds", [0, 5])
def test_too_few_images_with_a_label_are_refused(folds: int) -> None:
    values = torch.zeros(30, 2, dtype=torch.bool)
    values[0, 0] = True
    with pytest.raises(UserError, match="1 training images with a label are too few"):
        task_of(MultiLabels(values, ("a", "b"), "t"), folds)


# ---- the stage


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, and tables of training and test images."""
    folder = tmp_path_factory.mktemp("multilabel")
    torch.manual_seed(0)
    small = EncoderConfig(name="small_cnn", model_args={"width": 4, "depth": 1})
    export_encoder(build_encoder(small, image_size=16), folder / "encoder", Provenance(pretext={"kind": "denoise"}))
    pictures(folder / "train", 160, 0)
    pictures(folder / "test", 90, 1)
    return folder


@pytest.fixture(scope="module")
def report(here: Path) -> ProbeReport:
    return probe(config_of(here, here / "run", properties=True, null_check=True), show=False)


def scores_of(folder: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The scores of each subject, and the true labels, as the file has them."""
    table = pq.ParquetFile(folder / "label_scores.parquet").read()
    [names] = json.loads(table.schema.metadata[b"labels"])
    truth = torch.tensor([[name in row for name in names] for row in table["labels"].to_pylist()])
    columns = [name for name in table.column_names if name.endswith(".linear")]
    return {name.removesuffix(".linear"): torch.tensor(table[name].to_pylist()) for name in columns}, truth


def test_scores_of_several_results_are_read_back(here: Path, tmp_path: Path) -> None:
    """Each with its own images, labels and subjects."""
    images = load_images(build_source(str(here / "test" / "a.csv")), 16)
    found = []
    for number, names in enumerate((("a", "b"), ("b", "c", "d"))):
        values = torch.rand(5 + number, len(names), generator=torch.Generator().manual_seed(number)) < 0.5
        scores = torch.randn(values.shape, generator=torch.Generator().manual_seed(number))
        subjects = {"encoder": scores} if number else {"encoder": scores, "pixels": -scores}
        found.append(LabelScores(images, torch.arange(len(values)), MultiLabels(values, names, "t"), subjects))
    write_scores(tmp_path, found)
    for written, read in zip(found, read_scores(tmp_path), strict=True):
        assert torch.equal(read.truth, written.labels.values)
        assert {name: one.tolist() for name, one in read.scores.items()} == {
            name: one.tolist() for name, one in written.scores.items()
        }
    (tmp_path / LABEL_SCORES).write_bytes(b"no table")
    with pytest.raises(UserError, match="cannot be read as scores of labels"):
        read_scores(tmp_path)


def test_results_can_be_computed_again_from_the_scores_on_disk(here: Path, report: ProbeReport) -> None:
    assert read_results(here / "run") == report
    assert report.results == ()
    [result] = report.multilabel
    assert (result.task, result.labels, result.checks.frozen) == ("tags", ("light", "red"), True)
    scores, truth = scores_of(here / "run")
    assert list(scores) == list(result.subjects) == ["encoder", "random_init", "pixels"]
    for name, one in result.subjects.items():
        assert (one.n_train, one.n_val, one.test.n) == (160, 160, 90)
        for label, found in enumerate(one.test.per_label):
            assert found == pytest.approx(average_precision_score(truth[:, label], scores[name][:, label]))
        assert one.test.mean_average_precision == pytest.approx(float(mean_average_precision(scores[name], truth)))
        assert one.test.positives == tuple(truth.sum(0).tolist())
        assert one.choice.how == "5-fold cross-validation"
    mine = result.subjects["encoder"]
    assert list(mine.compared) == ["random_init", "pixels"]
    for name, compared in mine.compared.items():
        other = result.subjects[name].test
        drawn = halves(scores["encoder"], truth), halves(scores[name], truth)
        assert compared == compare_labels(mine.test, other, *drawn)
    assert mine.test.mean_average_precision > 0.8  # light and red are easy to see
    assert not (here / "run" / "predictions.parquet").exists()


def test_the_protocol_and_the_log_say_what_was_done(here: Path, report: ProbeReport) -> None:
    [result] = report.multilabel
    for words in (
        "logistic probe for each label",
        "5-fold cross-validation",
        "iterative stratification",
        "tested once",
    ):
        assert words in result.protocol
    [logged] = [json.loads(line) for line in (here / "run" / "metrics.jsonl").read_text().splitlines()]
    numbers = logged_several(result)
    assert logged["tags/mean_average_precision"] == result.subjects["encoder"].test.mean_average_precision
    assert logged["tags/pixels_macro_f1"] == result.subjects["pixels"].test.macro_f1
    assert {f"tags/{key}" for key in numbers} <= logged.keys()
    text = (here / "run" / "train.log").read_text()
    assert re.search(r"tags: 2 labels, \d+ training and \d+ test images, \d+ \+ \d+ of them without any", text)
    assert re.search(r"tags: light \(\d+ \+ \d+\), ", text)


def test_the_table_has_each_subject_with_its_gain(report: ProbeReport) -> None:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(several_table(report.multilabel[0]))
    text = console.export_text()
    best = report.multilabel[0].subjects["encoder"]
    assert f"{100 * best.test.mean_average_precision:.1f} [{100 * best.test.ci95[0]:.1f}" in text
    for words in ("denoise", "untrained", "raw pixels", "gain over", "2 labels", "90 test images"):
        assert words in text


def test_columns_of_0_and_1_give_the_same_as_lists(here: Path, report: ProbeReport) -> None:
    flags = probe(config_of(here, here / "flags", data={"labels": ["light", "red"]}), show=False)
    [result], [lists] = flags.multilabel, report.multilabel
    assert result.task == "light+red"
    assert result.subjects["encoder"].test == lists.subjects["encoder"].test


def test_test_labels_are_taken_by_name(here: Path, report: ProbeReport, tmp_path: Path) -> None:
    """The test set has a label less, so its own numbers are others."""
    lines = (here / "test/a.csv").read_text().splitlines()[1:]
    cells = [line.split(",") for line in lines]
    rows = [f"{here / 'test' / cell[0]},{'red' if 'red' in cell[1] else ''}" for cell in cells]
    (tmp_path / "b.csv").write_text("\n".join(["path,tags", *rows]) + "\n")
    [found] = probe(config_of(here, tmp_path / "out", data={"test": str(tmp_path / "b.csv")}), show=False).multilabel
    test, before = found.subjects["encoder"].test, report.multilabel[0].subjects["encoder"].test
    assert found.labels == ("light", "red")
    assert test.per_label == (None, before.per_label[1])
    assert test.positives == (0, before.positives[1])


def test_without_a_test_set_a_fifth_is_held_out_with_each_label_in_both(here: Path) -> None:
    data = ProbeData(train=str(here / "train/a.csv"), labels=("tags",), workers=0)
    sources = open_multilabel(data, seed=0)
    assert (len(sources.train), len(sources.test)) == (128, 32)
    images = load_multilabel(sources, data, 8, seed=0)
    whole = torch.cat([part.values for part in images.labels]).sum(0)
    assert (images.labels[1].values.sum(0) - whole / 5).abs().max() <= 1
    again = open_multilabel(data, seed=0)
    assert again.train.fingerprint == sources.train.fingerprint
    assert open_multilabel(data, seed=1).train.fingerprint != sources.train.fingerprint


# ---- labels at random


def test_exchanged_rows_of_labels_give_chance(report: ProbeReport) -> None:
    null = report.multilabel[0].checks.null
    assert null is not None
    assert (null.images, null.repetitions) == (160, 9)
    assert null.chance > report.multilabel[0].subjects["encoder"].test.chance  # orders here are good, or bad
    assert null.ci95[0] < null.chance < null.ci95[1]
    assert not any("at random" in note for note in report.notes)


def test_rows_of_labels_stay_together(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[MultiLabels] = []

    def watched(labels: MultiLabels, *rest: Any) -> MultiLabelTask:
        given.append(labels)
        return build_multilabel_task(labels, *rest)

    monkeypatch.setattr(null, "build_multilabel_task", watched)
    alone = {"random_init": False, "pixels": False}
    config = config_of(here, tmp_path / "out", baselines=alone, null_check=True)
    probe(config, show=False)
    true = load_multilabel(open_multilabel(config.data, 0), config.data, 16, seed=0).labels[0].values
    assert len(given) == 9
    for labels in given:
        assert not torch.equal(labels.values, true)
        assert sorted(labels.values.tolist()) == sorted(true.tolist())


def test_a_probe_that_is_told_test_labels_is_caught(
    here: Path, report: ProbeReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, truth = scores_of(here / "run")
    predict = Fitted.predict

    def leaky(self: Fitted, features: Any) -> torch.Tensor:
        said = predict(self, features)
        return said + 10 * truth if len(said) == 90 else said

    monkeypatch.setattr(Fitted, "predict", leaky)
    alone = {"random_init": False, "pixels": False}
    found = probe(config_of(here, tmp_path / "out", baselines=alone, null_check=True), show=False)
    [result] = found.multilabel
    assert result.checks.null is not None
    assert result.checks.null.accuracy > 0.95
    assert result.checks.null.above_chance
    assert any("the mean average precision of the linear probe is" in note for note in found.notes)


def test_too_few_images_with_a_label_leave_the_check_out() -> None:
    features, labels = tagged(60, 0)
    values = torch.zeros(60, 3, dtype=torch.bool)
    values[:2, 0] = True
    candidates = Candidates(features, [GOOD_SPACE], CPU)
    few = labels._replace(values=values)
    given = (candidates, GOOD_SPACE, few, features, labels.values)
    assert null.check_null_labels(Linear(), Search(folds=0, validation=0.9), 0, *given) is None


def test_labels_that_training_lacks_are_refused(here: Path, tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text(f"path,tags\n{here / 'test' / '0.png'},light;blue\n")
    assert "blue in the test set only" in refusal(
        config_of, here, tmp_path / "out", data={"test": str(tmp_path / "b.csv")}
    )


@pytest.mark.parametrize(("tags", "said"), [("", "no image has a label"), ("a;b", "all images have the same labels")])
def test_labels_without_anything_to_learn_are_refused(here: Path, tmp_path: Path, tags: str, said: str) -> None:
    rows = [f"{here / 'train' / f'{number}.png'},{tags}" for number in range(20)]
    (tmp_path / "b.csv").write_text("\n".join(["path,tags", *rows]) + "\n")
    assert said in refusal(config_of, here, tmp_path / "out", data={"train": str(tmp_path / "b.csv"), "test": None})

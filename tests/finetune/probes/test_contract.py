"""One contract for every probe: choose on validation only, refit on all training rows, predict every row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from common.data import Labels
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.errors import UserError
from finetune.checks import random_answers
from finetune.config import ProbeConfig
from finetune.efficiency import Right, label_efficiency, right_answers
from finetune.features import Features
from finetune.lines import probe_lines
from finetune.probe import probe
from finetune.probes import (
    AnyProbe,
    Attentive,
    Candidates,
    Classifiers,
    Linear,
    Nearest,
    NearestMean,
    Probe,
    Rows,
    Search,
    Task,
    build_task,
)
from finetune.records import Checks, Setting
from finetune.results import read_results
from finetune.solvers.logistic import fit_logistic
from finetune.solvers.preconditioner import Preconditioner
from finetune.summary import failed
from finetune.worth import LabelEfficiency
from tests.finetune.probes.features import CPU, GOOD, GOOD_SPACE, both, informative, task_of
from tests.finetune.probes.toys import Medians, NearestMedian, config_of

PROBES: dict[str, Probe] = {
    "logistic": Linear(l2=(1e-4, 1e-2, 1.0)),
    "ridge": Linear(kind="ridge", l2=(1e-2, 1.0)),
    "knn": Nearest(k=(1, 5, 20)),
    "whitened_knn": Nearest(k=(5, 20), whiten=(2, 4)),
    "nearest_mean": NearestMean(),
    "attentive": Attentive(l2=(1e-4, 1e-2, 1.0), heads=(1, 2), steps=5),
    "nearest_median": NearestMedian(),
}


@pytest.fixture(params=PROBES)
def one(request: pytest.FixtureRequest) -> Probe:
    return PROBES[request.param]


@pytest.mark.parametrize(("search", "folds"), [(None, 0), (60, 0), (None, 5), (60, 3)])
def test_the_informative_features_are_chosen_and_the_choice_is_reported(
    one: Probe, search: int | None, folds: int
) -> None:
    features, labels = informative(300, 0)
    task = task_of(labels, search, folds)
    chosen = one.choose(both(features, finalists=1), task)
    assert chosen.space == GOOD_SPACE
    assert chosen.val_accuracy > 0.8
    facts = chosen.facts
    assert (facts.layer, facts.pooling, facts.features) == ("0", "avg", 4)
    assert facts.setting in one.grid(task)
    assert facts.val_accuracy == chosen.val_accuracy
    assert facts.how == task.how
    assert facts.text.startswith("layer 0, avg")


def test_a_probe_gets_no_test_labels() -> None:
    assert {field.name for field in fields(Task)} == {"name", "classes", "labels", "folds", "first", "how"}
    _, labels = informative(300, 0)
    assert len(task_of(labels).labels) == 300  # those of the training set


def test_held_out_labels_decide_the_choice(one: Probe) -> None:
    features, labels = informative(300, 0)
    task = task_of(labels)
    spoiled = labels.clone()
    [fold] = task.folds
    spoiled[fold.held] = (spoiled[fold.held] + 1) % 3
    chosen = one.choose(both(features), replace(task, labels=spoiled))
    assert chosen.space != GOOD_SPACE  # on these labels the informative layer is now nearly always wrong


def test_cross_validation_scores_each_image_by_a_fit_without_its_fold(
    one: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = informative(60, 0)
    task = task_of(labels, folds=5)
    fitted: list[Tensor] = []
    real = type(one).fit

    def spy(self: Probe, rows: Rows, settings: Sequence[Setting], *, final: bool) -> Classifiers:
        fitted.append(rows.features.clone())
        return real(self, rows, settings, final=final)

    monkeypatch.setattr(type(one), "fit", spy)
    candidates = Candidates(features, [GOOD_SPACE], CPU)
    chosen = one.choose(candidates, task)
    assert task.how == chosen.how == "5-fold cross-validation"
    assert task.held == 60
    right = 0
    for fold in task.folds:
        matrix = features.matrix(GOOD_SPACE, fold.fit)
        mean, scale = matrix.mean(0), matrix.std(0, correction=0)
        expected = (matrix - mean) / scale  # by the statistics of the rows that are fitted on
        assert any(found.shape == expected.shape and torch.allclose(found, expected, atol=1e-4) for found in fitted)
        alone = one.fit(
            Rows(expected, labels[fold.fit], 3, partial(Preconditioner.of, expected)), [chosen.setting], final=True
        )
        held = (features.matrix(GOOD_SPACE, fold.held) - mean) / scale
        right += int((alone.predict(held)[0] == labels[fold.held]).sum())
    assert chosen.val_accuracy == pytest.approx(right / 60, abs=1 / 60)


def test_the_same_task_gives_the_same_choice_and_predictions(one: Probe) -> None:
    features, labels = informative(300, 0)
    answers = []
    for _ in range(2):
        torch.rand(1)  # the global generator is not used
        candidates, task = both(features), task_of(labels)
        chosen = one.choose(candidates, task)
        answers.append((chosen, one.refit(candidates, task, chosen).predict(features)))
    assert answers[0][0].facts == answers[1][0].facts
    assert torch.equal(answers[0][1], answers[1][1])


def test_the_refit_gets_all_training_rows_and_only_the_chosen_setting(
    one: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = informative(300, 0)
    candidates, task = both(features), task_of(labels)
    chosen = one.choose(candidates, task)
    given: list[tuple[Tensor, Tensor, Sequence[Setting], bool]] = []
    real = type(one).fit

    def spy(self: Probe, rows: Rows, settings: Sequence[Setting], *, final: bool) -> Classifiers:
        given.append((rows.features.clone(), rows.labels, settings, final))
        return real(self, rows, settings, final=final)

    monkeypatch.setattr(type(one), "fit", spy)
    one.refit(candidates, task, chosen)
    [(matrix, fitted_labels, settings, final)] = given
    assert final
    assert settings == [chosen.setting]
    assert torch.equal(fitted_labels, labels)
    whole = features.matrix(chosen.space)
    torch.testing.assert_close(matrix, (whole - whole.mean(0)) / whole.std(0, correction=0), atol=1e-4, rtol=1e-4)


def test_every_row_is_predicted_with_training_statistics(one: Probe) -> None:
    features, labels = informative(300, 0)
    candidates, task = both(features), task_of(labels)
    fitted = one.refit(candidates, task, one.choose(candidates, task))
    answers = fitted.predict(features)
    assert answers.shape == labels.shape
    assert answers.dtype == torch.int64
    assert set(answers.tolist()) == {0, 1, 2}
    assert (answers == labels).float().mean() > 0.85
    # a single row has no statistics: its prediction must be the same as among other rows
    row = Features({GOOD: features.parts[GOOD][5:6]}, torch.arange(1))
    assert fitted.predict(row)[0] == answers[5]
    assert torch.equal(fitted.predict(features), answers)  # predicting does not change the features


def test_answers_are_the_predictions_with_probabilities_where_a_probe_has_them(one: Probe) -> None:
    features, labels = informative(300, 0)
    candidates, task = both(features), task_of(labels)
    fitted = one.refit(candidates, task, one.choose(candidates, task))
    classes, confidence = fitted.answers(features)
    assert torch.equal(classes, fitted.predict(features))
    assert (confidence is not None) == (one.kind in ("logistic", "knn", "attentive"))
    if confidence is not None:
        assert (confidence.shape, confidence.dtype) == (labels.shape, torch.float32)
        assert bool(((confidence >= 1 / 3 - 1e-6) & (confidence <= 1 + 1e-6)).all())
        right = classes == labels
        assert confidence[right].mean() >= confidence[~right].mean()


def test_the_confidence_of_the_logistic_probe_is_its_softmax() -> None:
    features, labels = informative(300, 0)
    candidates, task, linear = Candidates(features, [GOOD_SPACE], CPU), task_of(labels), Linear(l2=(1e-2,))
    fitted = linear.refit(candidates, task, linear.choose(candidates, task))
    rows = fitted.standardize.apply_(features.matrix(GOOD_SPACE)).double()
    fit = fitted.classifiers.fit  # type: ignore[attr-defined]
    logits = rows @ fit.weight[0].double() + fit.bias[0].double()
    expected = (logits.exp() / logits.exp().sum(1, keepdim=True)).amax(1)
    torch.testing.assert_close(fitted.answers(features).confidence, expected.float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("folds", [0, 5])
def test_too_few_images_for_a_validation_split_are_refused(folds: int) -> None:
    with pytest.raises(UserError, match="too few"):
        build_task(Labels(torch.tensor([0, 1, 2]), ("a", "b", "c"), "t"), Search(folds=folds), 0)


def test_a_probe_is_a_frozen_config(one: Probe) -> None:
    assert type(one).model_validate(one.model_dump()) == one
    assert one.text
    with pytest.raises(ValueError, match="frozen"):
        one.kind = "other"  # type: ignore[misc]


# ---- fits that do not converge


class Hasty(Medians):
    """Classifiers of which the first did not converge."""

    @property
    def unconverged(self) -> tuple[int, ...]:
        return (0,)


class HastyMedian(NearestMedian):
    kind: Literal["hasty"] = "hasty"  # type: ignore[assignment]

    def fit(self, rows: Rows, settings: Sequence[Setting], *, final: bool) -> Medians:
        return Hasty(super().fit(rows, settings, final=final).medians)


def test_every_probe_converges_on_easy_features(one: Probe) -> None:
    features, labels = informative(300, 0)
    candidates, task = both(features), task_of(labels)
    chosen = one.choose(candidates, task)
    assert chosen.facts.unconverged == 0
    assert one.refit(candidates, task, chosen).converged


def test_fits_that_did_not_converge_are_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    features, labels = informative(300, 0)
    task = task_of(labels, search=60)
    hasty = HastyMedian()
    chosen = hasty.choose(both(features, finalists=1), task)
    assert chosen.facts.unconverged == 3  # two spaces on few rows, and the winner on all
    assert len(caplog.messages) == 3
    assert not hasty.refit(both(features), task, chosen).converged
    fitted, count = hasty.choose_and_fit(both(features, finalists=1), task)
    assert torch.equal(fitted.predict(features), hasty.refit(both(features), task, chosen).predict(features))
    assert count == 4
    assert NearestMedian().choose_and_fit(both(features, finalists=1), task)[1] == 0
    assert caplog.messages[-1].startswith("t, refit: the hasty probe did not converge (layer 0, avg)")


def test_a_logistic_fit_that_runs_out_of_steps_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = informative(300, 0)
    candidates, task = both(features), task_of(labels)
    impatient = partial(fit_logistic, max_steps=1, careful_steps=1)
    monkeypatch.setattr("finetune.probes.linear.fit_logistic", impatient)
    linear = Linear(l2=(1e-4, 1e6))
    chosen = linear.choose(candidates, task)
    assert chosen.facts.unconverged >= 1
    fitted = linear.refit(candidates, task, chosen._replace(setting={"l2": 1e-4}))
    assert not fitted.converged
    assert linear.refit(candidates, task, chosen._replace(setting={"l2": 1e6})).converged


def test_fits_that_did_not_converge_are_counted_wherever_a_probe_is_repeated() -> None:
    features, values = informative(300, 0)
    labels, hasty = Labels(values, ("a", "b", "c"), "t"), HastyMedian()
    given = (Search(), 0, both(features), labels, features, values)
    null = random_answers(hasty, *given, range(2)).check
    draws = {30: [torch.arange(30), torch.arange(30, 60)]}
    right = right_answers(hasty, Search(), both(features), labels, features, values, draws, 0)
    assert null.unconverged > 2
    assert right.unconverged > 2
    found = label_efficiency({"encoder": right, "pixels": Right(right)})
    assert found.unconverged == {"encoder": right.unconverged}
    assert LabelEfficiency.model_validate(found.model_dump(mode="json")) == found
    [line] = failed(Checks(frozen=True, null=null.model_copy(update={"p_value": 0.5})))
    assert line == (
        f"with training labels at random, {null.unconverged} fits of the linear probe did not converge, so that check "
        "may miss what it looks for"
    )


# ---- a new probe is one file and one line


def test_a_new_probe_is_measured_reported_logged_and_tabled_like_the_others(tmp_path: Path) -> None:
    small = EncoderConfig(name="small_cnn", model_args={"width": 4, "depth": 1})
    export_encoder(build_encoder(small, image_size=16), tmp_path / "encoder")
    config = config_of(tmp_path / "out", tmp_path / "encoder", more_probes=[{"kind": "nearest_median"}])
    report = probe(config)
    assert read_results(config.out) == report
    [result] = report.results
    for subject in result.subjects.values():
        assert list(subject.probes) == ["linear", "knn", "nearest_median"]
        assert subject.probes["nearest_median"].choice.setting == {}
        assert subject.probes["nearest_median"].test.n == 40
    assert "nearest median probe" in result.protocol
    lines = [(line.method, line.probe) for line in probe_lines(report.results)]
    assert ("small_cnn", "nearest_median") in lines
    assert ("raw pixels", "nearest_median") in lines
    [logged] = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    found = result.subjects["encoder"].probes["nearest_median"]
    assert logged["color/nearest_median_test_accuracy"] == found.test.accuracy


def test_a_probe_that_did_not_converge_is_named_in_the_notes(tmp_path: Path) -> None:
    small = EncoderConfig(name="small_cnn", model_args={"width": 4, "depth": 1})
    export_encoder(build_encoder(small, image_size=16), tmp_path / "encoder")

    class WithHasty(ProbeConfig):
        more_probes: tuple[AnyProbe | HastyMedian, ...] = ()  # type: ignore[assignment]

    usual = config_of(tmp_path / "out", tmp_path / "encoder")
    config = WithHasty.model_validate(usual.model_dump() | {"more_probes": [{"kind": "hasty"}]})
    report = probe(config, show=False)
    assert report.notes == read_results(config.out).notes
    notes = [note for note in report.notes if "converge" in note]
    assert notes == [
        "color: the hasty probe of encoder did not converge: its accuracy may be too low",
        "color: the hasty probe of encoder was chosen among fits of which 5 did not converge",
        "color: the hasty probe of pixels did not converge: its accuracy may be too low",
        "color: the hasty probe of pixels was chosen among fits of which 5 did not converge",
    ]
    [result] = report.results
    assert not result.subjects["encoder"].probes["hasty"].converged
    assert result.linear.converged


def test_a_second_linear_probe_can_be_added_and_names_must_differ(tmp_path: Path) -> None:
    config = config_of(
        tmp_path / "out", tmp_path / "encoder", more_probes=[{"kind": "ridge"}, {"kind": "nearest_median"}]
    )
    assert list(config.probes) == ["linear", "knn", "ridge", "nearest_median"]
    with pytest.raises(ValueError, match="already a probe named knn"):
        config_of(tmp_path / "out", tmp_path / "encoder", more_probes=[{"kind": "knn"}])

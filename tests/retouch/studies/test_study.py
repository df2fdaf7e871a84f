"""A whole study in small: what it leaves, that a killed one goes on, and that its plan gives the same choices again."""

from __future__ import annotations

import logging
import os
import pkgutil
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import retouch
from common.config import validate
from common.encoders.load import load_encoder
from common.files import write_json
from finetune.predictions import read_predictions
from finetune.probes import linear
from retouch.cli import main
from retouch.reporting.page import html
from retouch.reporting.reading import read_facts
from retouch.studies import final, outcome, run
from retouch.studies.budget import ScratchTime
from retouch.studies.config import StudyConfig
from retouch.studies.contestants import Learned, Restoring, Speed
from retouch.studies.images import chosen_rows
from retouch.studies.journal import Clock, read_plan
from retouch.studies.judge import PROBES, Judge
from retouch.studies.parts import Parts
from retouch.studies.results import StudyReport, read_results
from tests.common.data.samples import picture
from tests.retouch.reporting.reading import Page
from tests.retouch.studies.studies import NAMES, settings

FILES = {"config.yaml", "contestants", "judged.json", "metrics.jsonl", "plan.json", "predictions.parquet"}


@pytest.fixture(autouse=True, scope="module")
def _few_strengths() -> Iterator[None]:
    """The usual probe of the winner tries two strengths: the judge has its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(linear.STRENGTHS, "logistic", (2e-3, 2e-1))  # none of the faster probe
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def ended(home: Path) -> tuple[StudyReport, Parts]:
    """A study, and what it worked with."""
    kept: list[Parts] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "finish", lambda parts, plan: (kept.append(parts), final.finish(parts, plan))[1])
        report = retouch.study(settings(home, "whole"))
    assert report is not None
    return report, kept[0]


@pytest.fixture(scope="module")
def found(ended: tuple[StudyReport, Parts]) -> StudyReport:
    return ended[0]


def numbers(report: StudyReport) -> Any:
    """All that two studies of one plan must agree on: not what the clock says."""
    plain = report.model_dump()
    contenders = [
        {**one, "trained": 0, "validations": [{**found, "seconds": 0} for found in one["validations"]]}
        for one in plain["contenders"]
    ]
    probe = {task: {**one, "seconds": 0} for task, one in plain["probe"].items()}
    return {**plain, "seconds": 0, "contenders": contenders, "probe": probe}


def test_everything_is_left_in_one_folder(found: StudyReport, home: Path) -> None:
    out = home / "whole"
    assert {path.name for path in out.iterdir()} >= FILES | {"report.html", "results.json", "train.log"}
    assert read_results(out) == found
    page = (out / "report.html").read_text()
    assert "Does pretraining help on shapes?" in page
    assert "The race" in page
    [predictions] = read_predictions(out)
    assert set(predictions.answers) == {one.name for one in found.contenders}
    assert len(predictions.labels) == 50
    cards = {name: (out / "contestants" / name / "encoder" / "README.md").read_text(encoding="utf-8") for name in NAMES}
    told = [name for name, said in cards.items() if "# Does pretraining help on these images?" in said]
    assert told == [name for name in NAMES if name == found.winner]


def test_everybody_competes_and_the_better_two_train_to_the_end(found: StudyReport) -> None:
    kinds = {one.name: one.kind for one in found.contenders}
    assert kinds == {
        "pixels": "pixels",
        "untrained_rgb": "untrained",
        "untrained_gray": "untrained",
        "pca": "simple",
        "scratch": "scratch",
        **dict.fromkeys(NAMES, "restoring"),
    }
    restoring = [one for one in found.contenders if one.kind == "restoring"]
    assert sorted(len(one.validations) for one in restoring) == [1, 2, 2]
    assert {one.steps for one in restoring if len(one.validations) == 2} == {9}
    [gone] = [one for one in restoring if len(one.validations) == 1]
    assert gone.steps == 3
    assert gone.validations[0].mean == min(one.validations[0].mean for one in restoring)
    assert {one.name: one.twin for one in restoring} == {
        "denoise_tiny": "untrained_rgb",
        "mask_tiny": "untrained_rgb",
        "colorize_tiny": "untrained_gray",
    }


def test_the_winner_is_best_on_validation_and_was_trained_to_the_end(found: StudyReport) -> None:
    last = [one.validations[-1] for one in found.contenders if one.validations]
    ended = [one.mean for one in last if one.rung in (None, 2)]
    assert found.named(found.winner).validations[-1].mean == max(ended)
    assert {one.one for one in found.comparisons} == {found.winner}
    assert "scratch" in {one.other for one in found.comparisons}
    assert found.probe["color"].n_train == 90
    assert {score.n for one in found.contenders for score in one.test.values()} == {50}


def test_losers_stay_as_they_are(found: StudyReport, home: Path) -> None:
    for one in found.contenders:
        if one.kind == "restoring":
            run = home / "whole" / "contestants" / one.name
            assert load_encoder(run).view == one.view
            assert max(path.name for path in (run / "checkpoints").iterdir()) == f"step-{one.steps:07d}"


def test_a_gain_is_measured_in_labels_on_draws_of_the_images_that_were_fitted(
    ended: tuple[StudyReport, Parts], home: Path
) -> None:
    report, parts = ended
    plan = read_plan(home / "whole")
    assert plan is not None
    [versus, *_] = report.comparisons
    found = versus.found.model_copy(update={"difference": 0.2, "ci95": (0.1, 0.3), "p_value": 1e-4})
    gain = versus.model_copy(update={"role": "untrained", "found": found, "adjusted_p": 1e-4})
    valued = plan.model_copy(update={"worth": True})
    assert final.worth_of(parts, plan, "mask_tiny", [gain]) == ({}, [])
    assert final.worth_of(parts, valued, "pca", [gain]) == ({}, [])
    loss = gain.model_copy(update={"found": found.model_copy(update={"difference": -0.2, "ci95": (-0.3, -0.1)})})
    assert final.worth_of(parts, valued, "mask_tiny", [loss]) == ({}, [])
    worth, unknown = final.worth_of(parts, valued, "mask_tiny", [gain])
    assert unknown == []
    clocked = replace(parts, config=parts.config.model_copy(update={"plan": None}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clock, "left", property(lambda clock: 0.001))
        none, [line] = final.worth_of(clocked, valued, "mask_tiny", [gain])
    assert none == {}
    assert line.startswith("what mask_tiny is worth in labels: needs up to ")
    assert line.endswith(" s, but only 0 s were left")
    curves = worth["color"].curves
    assert [point.labels for point in curves["encoder"]] == [18, 35, 70]  # a quarter, a half and all of the fitted
    # with all labels both are as they were tested
    for subject, name in (("encoder", "mask_tiny"), ("random_init", "untrained_rgb")):
        assert curves[subject][-1].accuracy == pytest.approx(report.named(name).test["color"].accuracy)


def test_the_usual_probe_of_the_winner_is_checked(found: StudyReport) -> None:
    checks = found.checks["color"]
    assert checks.frozen
    assert checks.null is not None
    assert (checks.null.images, checks.null.chance) == (88, 1 / 8)
    assert not checks.null.above_chance
    assert found.notes == ()


def test_the_winner_answers_some_test_images_again_when_they_are_damaged(
    ended: tuple[StudyReport, Parts], home: Path
) -> None:
    report, parts = ended
    found = report.damage["color"]
    assert list(found.damaged) == ["gaussian sigma=0.1", "gray", "holes ratio=0.25"]
    assert {score.n for score in (found.clean, *found.damaged.values())} == {30}
    assert len({score.confusion for score in (found.clean, *found.damaged.values())}) > 1
    assert report.protocol.count(", and damaged copies of 30 of them 3 times, by the winner") == 1
    # undamaged: as it was tested
    [said] = read_predictions(home / "whole")
    [part] = parts.images.sets
    rows = chosen_rows(part.images.tasks["color"][1], 30, parts.config.seed)
    right = (said.answers[report.winner] == said.labels)[rows]
    assert found.clean.accuracy == pytest.approx(right.double().mean())
    # an encoder that sees gray only does not miss the color
    again = parts.judge.probe(parts.field.named("colorize_tiny"), None, 30).damage["color"]
    assert again.damaged["gray"].confusion == again.clean.confusion
    assert parts.judge.probe(parts.field.named("colorize_tiny"), None).damage == {}
    page = (home / "whole" / "report.html").read_text()
    assert "Robustness to damage" in page
    assert "and damaged copies of 30 of them 3 times, by the winner&#39;s classifier" in page


def test_the_test_of_the_winner_is_the_same_from_the_features_of_its_probe(ended: tuple[StudyReport, Parts]) -> None:
    report, parts = ended
    tested, probed, *_ = parts.judge.probe(parts.field.named("mask_tiny"), "ridge")
    assert tested["color"].outcome.test.accuracy == report.named("mask_tiny").test["color"].accuracy
    assert (tested["color"].outcome.n_train, probed["color"].outcome.n_train) == (70, 90)
    assert probed["color"].outcome.choice.setting["l2"] in (PROBES["ridge"].l2 or ())
    assert probed["color"].checks is not None
    alone, none, *_ = parts.judge.probe(parts.field.named("mask_tiny"), None)
    assert torch.equal(alone["color"].predictions, tested["color"].predictions)
    assert none == {}


def test_an_encoder_that_changes_while_it_is_probed_and_leaks_are_noted(
    ended: tuple[StudyReport, Parts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, parts = ended
    forward = torch.nn.BatchNorm2d.forward

    def training(self: torch.nn.BatchNorm2d, images: torch.Tensor) -> torch.Tensor:
        self.training = True
        return forward(self, images)

    monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", training)
    probed = parts.judge.probe(parts.field.named("mask_tiny"), "logistic").probed
    checks = {task: one.checks for task, one in probed.items()}
    failing = {task: one for task, one in checks.items() if one is not None}
    assert failing["color"].frozen is False
    facts = {"color": report.data["color"].model_copy(update={"duplicates": 3})}
    said = outcome.notes(failing, facts, {"color": torch.zeros(50)})
    assert said[0].startswith("color: the encoder or its untrained twin changed while it was measured")
    assert said[-1] == "color: 3 of 50 test images are also training images"


def test_test_images_are_in_no_pool(found: StudyReport) -> None:
    assert found.unlabeled_images == 90
    assert found.repeated == 0


def test_another_study_with_the_plan_of_this_one_makes_the_same_choices(found: StudyReport, home: Path) -> None:
    again = retouch.study(settings(home, "again", plan=str(home / "whole" / "plan.json")))
    assert again is not None
    assert numbers(again) == numbers(found)
    for name in NAMES:
        weights = [home / out / "contestants" / name / "encoder" / "model.safetensors" for out in ("whole", "again")]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_study_that_is_stopped_while_training_and_killed_while_judging_goes_on(
    found: StudyReport, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, step = iter(range(10**9)), torch.optim.AdamW.step

    def told(self: torch.optim.AdamW, *given: Any, **named: Any) -> Any:
        if next(calls) == 4:  # the second contestant, in its second step
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", told)
        assert retouch.study(settings(home, "cut")) is None

    judged, validate = iter(range(10**9)), Judge.validate

    def killed(self: Judge, *given: Any) -> Any:
        if next(judged) == 2:  # the first contestant of the second rung is trained, but not judged
            raise KeyboardInterrupt
        return validate(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Judge, "validate", killed)
        with pytest.raises(KeyboardInterrupt):
            retouch.study(settings(home, "cut", resume=True, plan=None))
    tests: list[str] = []
    test = Judge.test

    def killed_again(self: Judge, one: Any) -> Any:
        if len(tests) == 2:
            raise KeyboardInterrupt
        tests.append(one.name)
        return test(self, one)

    with monkeypatch.context() as patch:
        patch.setattr(Judge, "test", killed_again)
        with pytest.raises(KeyboardInterrupt):
            retouch.study(settings(home, "cut", resume=True, plan=None))
    assert not (home / "cut" / "results.json").exists()
    monkeypatch.setattr(Judge, "test", lambda self, one: (tests.append(one.name), test(self, one))[1])
    resumed = retouch.study(settings(home, "cut", resume=True, plan=None))
    assert resumed is not None
    assert numbers(resumed) == numbers(found)
    assert len(tests) == len(set(tests)) == len(found.contenders) - 2  # the winner and scratch are tested otherwise
    assert read_plan(home / "cut") == read_plan(home / "whole")


@pytest.mark.parametrize("place", ["retouch.studies.judge.extract", "torch.optim.AdamW.step"])
def test_a_study_that_is_stopped_names_its_folder_once_and_exits_with_0(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    work = pkgutil.resolve_name(place)

    def interrupted(*given: Any, **named: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return work(*given, **named)

    values = settings(tmp_path, "stopped")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr(place, interrupted)
    with caplog.at_level(logging.INFO, "retouch"):
        assert main(["study", str(tmp_path / "study.yaml")]) == 0
    said = [line for line in caplog.messages if "to continue" in line]
    assert [line.partition("to continue, ")[2] for line in said] == [
        f"run the same command with out={values['out']} resume=true"
    ]


def test_rungs_follow_from_measured_speeds_and_shrink_when_time_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a fake clock: 400 s are left when the race is planned, and 150 s after its first rung."""
    made: list[Path] = []

    def left(clock: Clock) -> float:
        return 150.0 if made else 400.0

    def rung(one: Restoring, *given: Any) -> Any:
        trained = fit(one, *given)
        made.append(one.config.out)
        return replace(trained, seconds=float(trained.step))  # a second per step

    fit = Restoring.fit
    monkeypatch.setattr(Clock, "left", property(left))
    monkeypatch.setattr(Restoring, "fit", rung)
    monkeypatch.setattr(Learned, "speed", lambda one: Speed(0.0, 1.0, 0.0))
    monkeypatch.setattr("retouch.studies.budget.scratch_pace", lambda *given: 1.0)
    report = retouch.study(settings(tmp_path, "run", plan=None, budget="400s"))
    assert report is not None
    plan = read_plan(tmp_path / "run")
    assert plan.settled == len(plan.rungs) == 2
    assert plan.scratch_settled
    assert plan.scratch > 0
    planned = set(plan.steps.values())
    assert len(planned) == 1  # all are equally fast
    first, last = ({rung.steps[name] for name in NAMES} for rung in plan.rungs)
    assert len(first) == 1
    assert abs(4 * max(first) - max(planned)) < 8  # a quarter of it, in whole steps
    ended = [one for one in report.contenders if len(one.validations) == 2]
    assert len(ended) == 2
    assert all(max(first) < one.steps < max(planned) for one in ended)
    assert min(last) < max(planned)


def test_rungs_that_end_early_on_a_machine_that_has_become_slower_are_repeated_step_for_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Learned, "speed", lambda one: Speed(0.0, 0.001, 0.0))  # far too fast
    monkeypatch.setattr("retouch.studies.plan.LATE", (0.0, 0.0))
    monkeypatch.setattr("retouch.studies.plan.JITTER", 0.1)
    values = settings(tmp_path, "cut", plan=None, budget="60s")
    with monkeypatch.context() as patch:
        patch.setattr("retouch.studies.final.scratch_time", lambda *given: ScratchTime(100_000, 0.2))
        report = retouch.study(values)
    assert report is not None
    plan = read_plan(tmp_path / "cut")
    for name in NAMES:
        ends = [rung.steps[name] for rung in plan.rungs if name in rung.steps]
        found = [one.steps for one in report.named(name).validations]
        assert found == ends[: len(found)]
    assert any(rung.steps[name] < 0.1 * plan.steps[name] for name, rung in zip(NAMES, plan.rungs, strict=False))
    assert plan.scratch_ends["color"] < plan.scratch
    assert report.named("scratch").taken == plan.scratch_ends["color"]
    assert [line for line in report.notes if line.startswith("color: training from scratch ended after ")]
    given = plan.model_copy(update={"scratch_most": 1e-6})  # a repetition takes its steps, however long that takes
    write_json(tmp_path / "plan.json", given.model_dump(mode="json"))
    again = retouch.study({**values, "out": tmp_path / "again", "plan": str(tmp_path / "plan.json")})
    assert again is not None
    assert numbers(again) == numbers(report)


def test_a_budget_that_is_too_small_for_training_is_answered_all_the_same(tmp_path: Path) -> None:
    values = settings(tmp_path, "short", plan=None, budget="4s", contestants=["denoise", "scratch", "pca"])
    report = retouch.study(values)
    assert report is not None
    assert {one.kind for one in report.contenders} <= {"pixels", "untrained", "simple"}
    said = [line.partition(":")[0] for line in report.left_out]
    assert {"denoise", "scratch"} <= set(said)
    short = r"Not answered: 4 s are too few to train a network on these images; try budget=\d+m\."
    assert re.fullmatch(short, report.verdict[0])
    assert re.match(r"Of the rest, .* best on validation\.", report.verdict[1])
    page = Page(html(read_facts([tmp_path / "short"])))
    assert "The race" not in page.said
    assert "rung" not in page.said


def test_a_budget_that_opening_the_images_has_used_up_is_said_in_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = settings(tmp_path, "late", plan=None, budget="2s", contestants=["denoise"])
    config = validate(StudyConfig, values)
    with caplog.at_level(logging.INFO, "retouch"):
        assert run.study(config, started=time.monotonic() - 14) is not None
    assert "the budget of 2 s is too small: opening and decoding the images took 1" in caplog.text
    assert not re.search(r"-\d+ (of|s)\b", caplog.text)
    assert re.search(r"done in \d+ s \(budget: 2 s\)", caplog.text)


def test_a_model_whose_weights_do_not_come_is_left_out_and_said(tmp_path: Path) -> None:
    values = settings(tmp_path, "timm", plan=None, budget="1s", contestants=["scratch"], pretrained="timm/resnet18")
    report = retouch.study(values)
    assert report is not None
    assert [line for line in report.left_out if line.startswith("resnet18: its ")]
    assert all(one.kind != "pretrained" for one in report.contenders)


def test_images_are_split_if_there_is_no_test_set_and_the_test_images_leave_the_pool(tmp_path: Path) -> None:
    for number in range(60):
        folder = tmp_path / "pictures" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture(number, 20, 24).save(folder / f"{number}.png")
    labels = {"train": str(tmp_path / "pictures"), "workers": 0}
    values = settings(tmp_path, "split", labels=labels, data={"source": labels["train"], "workers": 0})
    report = retouch.study(values | {"contestants": values["contestants"][:1], "plan": None, "budget": "4s"})
    assert report is not None
    assert (report.repeated, report.unlabeled_images) == (12, 48)
    assert {score.n for one in report.contenders for score in one.test.values()} == {12}

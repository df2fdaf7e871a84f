"""The part about a study: why a contestant was chosen, why a difference is not bold, and how all were measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retouch.reporting.facts import Facts
from retouch.reporting.page import html
from retouch.reporting.reading import read_facts
from retouch.reporting.study import study_tables
from retouch.studies.results import Contender, Counts, Validation
from tests.retouch.reporting.reading import Page
from tests.retouch.reporting.runs import probe_result, write_probe
from tests.retouch.studies.finished import write_study

OLD = "ridge regression fitted on 720, so test accuracy is usually above validation accuracy; differences are paired"
WHY = "The choice was made on validation all the same: a choice on the test images would favor luck"


@pytest.fixture
def study(tmp_path: Path) -> Facts:
    return read_facts([write_study(tmp_path / "study")])


def updated(facts: Facts, **update: Any) -> Facts:
    """The same study with other results."""
    [run] = facts.studies
    return replace(facts, studies=(replace(run, report=run.report.model_copy(update=update)),))


def said(facts: Facts) -> str:
    return Page(html(facts)).said


def test_the_chosen_one_is_called_so_and_why_it_need_not_be_the_best_on_test(study: Facts) -> None:
    assert "winner is ahead" not in said(study)
    assert WHY not in said(study)  # colorize has 80% on test, mask 79%
    assert "colorize chosen: best on validation" in said(study).replace("colorizechosen", "colorize chosen")
    second = said(updated(study, winner="mask"))
    assert f"Higher on the test than the chosen one: colorize. {WHY}" in second


def test_a_network_from_scratch_could_not_be_chosen(study: Facts) -> None:
    """It is for comparison, so that it may be the best on test without a word about luck."""
    [run] = study.studies
    best = run.report.named("colorize").test
    others = [
        one.model_copy(update={"test": best}) if one.kind == "scratch" else one
        for one in run.report.contenders
        if one.name != "colorize"
    ]
    assert WHY not in said(updated(study, winner="mask", contenders=tuple(others)))


@pytest.mark.parametrize(("low", "explained"), [(0.001, True), (-0.001, False)])
def test_a_difference_above_zero_that_is_not_bold_is_explained_beside_the_table(
    study: Facts, low: float, explained: bool
) -> None:
    [run] = study.studies
    one = run.report.comparisons[0]
    found = one.found.model_copy(update={"ci95": (low, 0.06)})
    alone = one.model_copy(update={"found": found, "adjusted_p": 0.2})
    page = said(updated(study, comparisons=(alone,)))
    assert ("Some differences are not bold although their intervals exclude zero" in page) == explained


def validated(one: Contender, accuracy: float) -> Contender:
    found = Validation(rung=None, steps=0, seconds=0.0, accuracy={"animal": accuracy})
    return one.model_copy(update={"validations": (found,) if one.validations else ()})


@pytest.mark.parametrize(
    ("fitted", "accuracy", "expected"),
    [
        (720, 0.4, ""),  # 720 images against 500 explain little
        (2000, 0.4, "and 4 of 4 contestants are more accurate on test than on validation."),
        (2000, 0.7, ""),  # true of two of four: 80 and 79%, not 60 and 50%
    ],
)
def test_test_accuracy_is_said_to_be_above_validation_only_where_it_is_and_the_fitted_images_explain_it(
    study: Facts, fitted: int, accuracy: float, expected: str
) -> None:
    [run] = study.studies
    page = said(
        updated(
            study,
            protocol=OLD,
            counts={"animal": Counts(judged=500, fitted=fitted, labeled=3000)},
            contenders=tuple(validated(one, accuracy) for one in run.report.contenders),
        )
    )
    assert "usually above" not in page
    assert "Ridge regression fitted on 720. Differences are paired." in page
    assert ("Tested classifiers are fitted on many more images" in page) == bool(expected)
    assert expected in page


def test_a_task_is_named_the_same_way_in_all_parts(study: Facts, tmp_path: Path) -> None:
    """Of one task alone: not; next to a probe of another task: in the tables of the study as well."""
    alone = [block.title for block in study_tables(study) if hasattr(block, "title")]
    assert alone == ["Accuracy"]
    probe = read_facts([write_probe(tmp_path / "p", probe_result(task="plant"))])
    both = replace(study, probes=probe.probes)
    assert [block.title for block in study_tables(both) if hasattr(block, "title")] == ["animal"]


@pytest.mark.parametrize(("fitted", "kind", "said_again"), [(500, "ridge", False), (200, "ridge", True)])
def test_a_probe_that_was_fitted_like_the_test_is_not_said_again(
    study: Facts, fitted: int, kind: str, *, said_again: bool
) -> None:
    [run] = study.studies
    test = run.report.named("colorize").test["animal"]
    probe = {"animal": probe_result()[0].linear.model_copy(update={"test": test})}
    counts = {"animal": Counts(judged=100, fitted=fitted, labeled=500)}
    text = said(updated(study, probe=probe, probe_kind=kind, counts=counts))
    assert ("The other contestants had no such probe" in text) == said_again

"""How much accuracy falls on damaged images is said, and is a limit where it is large."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from finetune.metrics import score
from finetune.results import Score
from retouch.reporting.facts import Facts
from retouch.reporting.falls import falls
from retouch.reporting.limits import limits
from retouch.reporting.page import html
from retouch.reporting.reading import read_facts
from retouch.reporting.tables import damage_table
from retouch.studies.results import UnderDamage
from tests.retouch.reporting.reading import Page
from tests.retouch.reporting.runs import answers_of, facts_of, probe_result
from tests.retouch.studies.finished import write_study

LABELS = torch.arange(300) % 3


def right(share: float) -> Score:
    return score(answers_of(LABELS, share, 3), LABELS, 3)


def studied(folder: Path, clean: float, **damaged: float) -> Facts:
    """A study whose winner has these accuracies."""
    facts = read_facts([write_study(folder / "study")])
    [study] = facts.studies
    found = UnderDamage(clean=right(clean), damaged={name: right(share) for name, share in damaged.items()})
    report = study.report.model_copy(update={"damage": {"animal": found}})
    return replace(facts, studies=(replace(study, report=report),))


def test_the_largest_fall_of_a_winner_is_said_and_that_others_were_not_tested(tmp_path: Path) -> None:
    facts = studied(tmp_path, 0.9, gray=0.8, **{"gaussian sigma=0.1": 0.4})
    [one] = falls(facts)
    assert one.sentence == (
        "With Gaussian noise (standard deviation 0.1), the accuracy of colorize falls from 90.0 to 40.0% (always "
        "answering the most frequent class: 33.3%). Other methods were not tested."
    )
    assert one.sentence in limits(facts)
    assert Page(html(facts)).said.count(one.sentence) == 2  # next to the table, and among the limits


@pytest.mark.parametrize(("damaged", "large"), [(0.6, True), (0.63, False), (0.89, False)])
def test_a_fall_is_a_limit_if_more_than_half_of_what_is_above_chance_is_lost(
    tmp_path: Path, damaged: float, large: bool
) -> None:
    facts = studied(tmp_path, 0.9, gray=damaged)  # a third is right by chance: half is lost at 0.62
    [one] = falls(facts)
    assert one.large == large
    assert (one.sentence in limits(facts)) == large


def test_a_fall_within_the_intervals_is_no_limit(tmp_path: Path) -> None:
    assert [one.large for one in falls(studied(tmp_path, 0.36, gray=0.34))] == [False]


def test_where_nothing_falls_nothing_is_said(tmp_path: Path) -> None:
    assert falls(studied(tmp_path, 0.8, gray=0.8)) == []
    assert falls(facts_of(probe_result())) == []


def test_of_several_encoders_that_were_probed_the_one_that_falls_most_is_named() -> None:
    found = []
    for name, sha256, after in (("denoise", "a", 0.7), ("mask", "b", 0.5)):
        result, predictions = probe_result(pretext=name, sha256=sha256 * 64, damage=["gray"])
        subject = result.subjects["encoder"]
        linear = subject.probes["linear"].model_copy(update={"damaged": {"gray": right(after)}})
        known = subject.model_copy(update={"probes": {**subject.probes, "linear": linear}})
        found.append((result.model_copy(update={"subjects": {**result.subjects, "encoder": known}}), predictions))
    [one] = falls(facts_of(*found))
    assert one.sentence == (
        "With no color, the accuracy of mask falls from 80.0 to 50.0% (always answering the most frequent "
        "class: 33.3%)."
    )


def test_the_winner_has_the_same_name_in_all_parts(tmp_path: Path) -> None:
    facts = studied(tmp_path, 0.9, gray=0.8)
    [study] = facts.studies
    contenders = tuple(
        one.model_copy(update={"name": "kmeans_2400"}) if one.name == "colorize" else one
        for one in study.report.contenders
    )
    report = study.report.model_copy(update={"contenders": contenders, "winner": "kmeans_2400"})
    table = damage_table(replace(facts, studies=(replace(study, report=report),)))
    assert table is not None
    assert table.rows[0][0].text == "kmeans_2400"

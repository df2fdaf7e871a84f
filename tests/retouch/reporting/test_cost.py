"""The cost of a study adds up to its time, and the machine is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from common.runs.made import Made
from retouch.reporting.cost_tables import REST, cost_table, machine_text
from retouch.reporting.facts import Facts
from retouch.reporting.page import html
from retouch.reporting.reading import read_facts
from tests.retouch.reporting.reading import Page
from tests.retouch.reporting.runs import probe_result, write_probe
from tests.retouch.studies.finished import write_study

MADE = Made(versions={}, code="0" * 64, processor="Some CPU", device="cpu", threads=2, processes=1, inputs={})


def studied(folder: Path, seconds: float = 1180.0, made: Made | None = None) -> Facts:
    """A study of a pretraining run of 43.21 s and a network that was trained from scratch for 256 s."""
    facts = read_facts([write_study(folder / "study")])
    [study] = facts.studies
    contenders = tuple(
        one.model_copy(update={"trained": 256.0, "planned": 4602}) if one.kind == "scratch" else one
        for one in study.report.contenders
    )
    probe = {"animal": probe_result()[0].linear.model_copy(update={"seconds": 80.0})}
    update = {"contenders": contenders, "probe": probe, "seconds": seconds, "made": made}
    return replace(facts, studies=(replace(study, report=study.report.model_copy(update=update)),))


def test_the_parts_of_a_study_add_up_to_its_time(tmp_path: Path) -> None:
    table = cost_table(studied(tmp_path))
    seconds = {row[0].text: float(row[2].text.replace(",", "")) for row in table.rows}
    assert list(seconds) == [
        *("study", "colorize", "training from scratch on the labels", "linear probe of colorize on all labels", REST),
    ]
    total, *parts = seconds.values()
    assert (total, parts[1], parts[2]) == (1180.0, 256.0, 80.0)
    assert sum(parts) == pytest.approx(total, abs=0.05 * len(parts))
    assert table.foot.startswith("The time of a study includes that of its parts, which follow.")


def test_seconds_and_steps_of_networks_from_scratch_are_those_of_all_tasks(tmp_path: Path) -> None:
    """Two networks of 4,602 steps each, which took 256 s together."""
    facts = studied(tmp_path)
    [study] = facts.studies
    classes = {**study.report.classes, "color": ("red", "blue")}
    data = {**study.report.data, "color": study.report.data["animal"]}
    contenders = tuple(
        one.model_copy(update={"test": {**one.test, "color": one.test["animal"]}}) for one in study.report.contenders
    )
    report = study.report.model_copy(update={"classes": classes, "data": data, "contenders": contenders})
    table = cost_table(replace(facts, studies=(replace(study, report=report),)))
    [row] = [row for row in table.rows if row[0].text.startswith("training from scratch")]
    assert (row[0].text, row[2].text) == ("training from scratch on the labels, 2 networks", "256.0")
    assert "9,204" in [cell.text for cell in row]
    [alone] = [row for row in cost_table(facts).rows if row[0].text.startswith("training from scratch")]
    assert "4,602" in [cell.text for cell in alone]


def test_the_rest_is_not_said_where_the_networks_of_the_study_are_not_listed(tmp_path: Path) -> None:
    """As in a report of a folder of runs: it would hide their training."""
    alone = replace(studied(tmp_path), pretraining=())
    assert REST not in [row[0].text for row in cost_table(alone).rows]


def test_a_rest_that_would_be_negative_is_not_said(tmp_path: Path) -> None:
    assert REST not in [row[0].text for row in cost_table(studied(tmp_path, seconds=300.0)).rows]


def test_the_cost_of_other_runs_says_nothing_of_studies(tmp_path: Path) -> None:
    assert "study" not in cost_table(read_facts([write_probe(tmp_path / "p", probe_result())])).foot


def test_the_machine_is_named_once_if_it_is_known(tmp_path: Path) -> None:
    assert machine_text(MADE) == "Some CPU, 2 threads, no GPU"
    many = MADE.model_copy(update={"device": "Some GPU", "processes": 4})
    assert machine_text(many) == "Some CPU, 2 threads, Some GPU, 4 processes"
    assert Page(html(studied(tmp_path / "known", made=MADE))).said.count("Machine: Some CPU, 2 threads, no GPU.") == 1
    assert "Machine: " not in Page(html(studied(tmp_path / "unknown"))).said

"""The page and the console of a study: who competed, in which order, and what is bold."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from common.files import write_json
from finetune.metrics import compare, score
from finetune.records import NONE_LEFT
from finetune.tracked import send
from retouch.reporting.answer import verdict
from retouch.reporting.card import model_card
from retouch.reporting.charts import Racer, race_chart
from retouch.reporting.choices import touched
from retouch.reporting.limits import limits
from retouch.reporting.page import html
from retouch.reporting.parts import repeat_command
from retouch.reporting.reading import read_facts
from retouch.studies.results import read_results
from retouch.studies.table import study_table
from retouch.studies.tracked import study_shown
from tests.retouch.reporting.reading import Page
from tests.retouch.reporting.runs import (
    EVIL,
    probe_result,
    write_probe,
)
from tests.retouch.studies.finished import RIGHT, write_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study")


def test_the_study_comes_first_with_its_verdict_and_its_runs_follow(study: Path) -> None:
    facts = read_facts([study])
    page = Page(html(facts))
    assert page.sections[0] == "study"
    assert "training" in page.sections
    said = page.said
    assert "Does pretraining help on animals?" in said
    assert "Yes: colorize beats the untrained network. colorize is not shown to beat mask." in said
    assert "Methods learned without labels from 1,234 images of 16 px." in said
    assert "The study took 1,180 s; its budget was 1,200 s." in said
    assert "Left out of pretraining: 7 images that repeat test images." in said
    assert (
        "colorize and mask learn by restoring damaged images; untrained is a restoring network as it is before "
        "training, with random weights;" in said
    )
    assert "describes images by typical patches or principal components, without a network." in said
    assert "Not run: mixed: needs at least 90 s." in said
    assert "3 of 300 test images are also training images" in said
    assert "training from scratch on the labels" in said
    assert "Test accuracy in %, by ridge regression, of colorize (encoder) and its untrained network" in said
    assert "<img src=x" not in html(facts)


def test_the_page_says_how_to_classify_new_pictures_with_the_winner(study: Path) -> None:
    assert "use" not in Page(html(read_facts([study]))).sections  # its encoder is gone
    (study / "contestants" / "colorize" / "encoder").mkdir()
    page = Page(html(read_facts([study])))
    assert page.sections.index("use") < page.sections.index("repeat")
    encoder = study / "contestants" / "colorize"
    assert "With colorize, since it is best on validation:" in page.said
    assert f"retouch probe linear encoder={encoder} data=animals out={study}-probe" in page.said
    assert f"retouch predict {study}-probe data=my/new" in page.said


def test_a_page_of_several_studies_names_each(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_study(tmp_path / name)
    facts = read_facts([tmp_path])
    said = Page(html(facts)).said
    for name in ("first", "second"):
        assert f"{name}: Yes: colorize beats the untrained network." in said
        assert f"Study: {name}. Methods learned without labels" in said
    assert "second: Yes: colorize beats" in model_card([tmp_path])


def test_the_page_says_what_a_rung_is_before_its_first_use(study: Path) -> None:
    said = Page(html(read_facts([study]))).said
    meant = (
        "The networks were trained in a race: after each of its parts, called rungs, the networks were judged and "
        "trained on."
    )
    assert said.index(meant) == said.index("rung") - meant.index("rung")
    assert said.index(meant) < said.index("rung 1: ")
    assert "Study: " not in said


SECTIONS = [
    *("study", "choices", "errors", "training", "places", "data", "damage", "code", "cost", "repeat", "limits"),
]


def test_the_page_of_a_study_has_all_its_parts(study: Path) -> None:
    page = Page(html(read_facts([study])))
    assert page.sections == SECTIONS
    said = page.said
    assert "colorize was chosen from 4 contestants by cross-validated ridge regression on 100 labeled training" in said
    # five contestants, of which one is a baseline, and two networks again with 50 and 200 labels
    assert "The 300 test images of tests were used once by each of 9 classifiers, 3 of them only for" in said
    assert "and damaged copies of 100 of them 2 times, by the winner's classifier" in said
    damage = said[said.index("The classifier of a study's winner, as in the race's table, on 100 of its test images") :]
    assert "undamaged% no color% holes% colorizewinner of study 75.0" in damage
    assert "Damage: no color and holes (25% of the squares of 4 px)." in damage
    assert "colorize, the winner of study" in said
    assert "Test images as colorize sees them" in said
    assert "300 test images: the interval of an accuracy extends up to 5.6 points to either side." in said
    assert " 100 test images per class" in said
    assert "Each contestant of a study was trained once." in said
    assert "Choices were made on 100 training images, where an accuracy is known only to within" in said
    assert "Labeled" in said


def test_an_uneven_study_whose_winner_only_guesses_says_so(study: Path) -> None:
    [run] = read_facts([study]).studies
    guesses = score(torch.zeros(300, dtype=torch.int64), (torch.arange(300) >= 240).long(), 3)
    contenders = tuple(
        one.model_copy(update={"test": {"animal": guesses}}) if one.name == "colorize" else one
        for one in run.report.contenders
    )
    report = run.report.model_copy(update={"contenders": contenders})
    facts = replace(read_facts([study]), studies=(replace(run, report=report),))
    said = limits(facts)
    assert "Always answering the most frequent class would be right for 80.0% of the images." in said
    assert "colorize is not shown to be better than always answering the most frequent class." in said


def test_a_study_and_a_probe_on_the_same_test_images_are_counted_together(study: Path, tmp_path: Path) -> None:
    result, predictions = probe_result()
    same = result.model_copy(update={"data": result.data.model_copy(update={"test": "folder:tests"})})
    probe = write_probe(tmp_path / "probe", (same, predictions))
    [said] = touched(read_facts([study, probe]))
    assert said.startswith("The 300 test images of tests were used once by each of 15 classifiers, 7 of them only")


def test_a_folder_of_runs_may_hold_a_study(study: Path) -> None:
    assert [run.origin.name for run in read_facts([study.parent]).studies] == ["study"]


def test_wandb_gets_contestants_comparisons_the_race_and_what_a_gain_is_worth(study: Path) -> None:
    told: dict[str, tuple[Any, ...]] = {}
    tracker = SimpleNamespace(
        table=lambda name, *given: told.update({name: given}),
        curves=lambda name, *given: told.update({name: given}),
        confusion=lambda name, *given: told.update({name: given}),
    )
    send(tracker, study_shown(read_results(study)))  # type: ignore[arg-type]
    assert list(told) == [
        *("contestants", "comparisons", "damage", "race", "label_efficiency/animal", "confusion/animal", "data"),
    ]
    assert [row[:3] for row in told["damage"][1]] == [
        ("animal", "none", 0.75), ("animal", "gray", 0.5), ("animal", "holes ratio=0.25", 0.75),
    ]  # fmt: skip
    assert told["confusion/animal"][1] == read_results(study).named("colorize").test["animal"].confusion
    columns, rows = told["contestants"]
    assert {len(row) for row in rows} == {len(columns)}
    assert [row[1] for row in rows] == list(RIGHT)
    by_name = {row[1]: dict(zip(columns, row, strict=True)) for row in rows}
    assert (by_name["mask"]["seconds"], by_name["mask"]["test_accuracy"]) == (20.0, 0.79)
    assert by_name["scratch"]["val_accuracy"] is None  # it is validated in another way
    assert [row[2] for row in told["comparisons"][1]] == [name for name in RIGHT if name != "colorize"]
    assert told["race"][1] == {"colorize": [(10.0, 0.79), (20.0, 0.8)], "mask": [(10.0, 0.78), (20.0, 0.79)]}


def test_bold_is_what_is_shown(study: Path) -> None:
    lines = {line.split("|")[1].strip(): line for line in model_card([study]).splitlines() if line.startswith("| ")}
    assert "**+20.0**" in lines["untrained"]
    assert "| +1.0 [" in lines["mask"].replace("\u00a0", " ")
    assert "**+19.0**" in lines["mask"]  # over its untrained network


def test_a_study_is_repeated_as_a_whole_and_its_runs_are_not_listed(study: Path) -> None:
    facts = read_facts([study])
    command = repeat_command(facts.studies[0].origin)
    assert command == f"retouch repeat {study}"
    said = model_card([study])
    assert command in said
    assert f"retouch repeat {study}/contestants" not in said


def test_the_table_fits_a_console(study: Path) -> None:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(study_table(read_facts([study]).studies[0].report))
    said = console.export_text()
    assert max(map(len, said.splitlines())) <= 100
    assert "79.0 80.0" in said
    assert "(not shown)" in said
    assert EVIL.partition(" onerror")[0] in said  # names may be wrapped


@pytest.mark.parametrize(("low", "explained"), [(0.001, True), (-0.001, False)])
def test_the_table_explains_why_a_difference_above_zero_is_not_shown(study: Path, low: float, explained: bool) -> None:
    report = read_facts([study]).studies[0].report
    one = report.comparisons[0]
    found = one.found.model_copy(update={"ci95": (low, 0.06)})
    alone = (one.model_copy(update={"found": found, "adjusted_p": 0.2}),)
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(study_table(report.model_copy(update={"comparisons": alone})))
    said = " ".join(console.export_text().split())
    assert ("although the interval excludes zero" in said) == explained


def test_lines_of_a_race_go_through_its_points_and_names_do_not_overlap() -> None:
    racers = [Racer("a", (5.0, 20.0), (0.4, 0.6)), Racer("b", (0.0,), (0.599,)), Racer("<b>", (0.0,), (0.598,))]
    drawn = race_chart("The race", racers)
    assert drawn.count("<polyline") == 1
    assert "&lt;b&gt; 59.8" in drawn
    assert drawn.count('class="chance"') == 2
    heights = [float(part.split('y="')[1].split('"')[0]) for part in drawn.split("<text")[1:] if 'class="name"' in part]
    assert all(later - earlier >= 12 for earlier, later in pairwise(heights))


def test_two_studies_of_tasks_with_one_name_are_told_apart(study: Path, tmp_path: Path) -> None:
    other = write_study(tmp_path / "other")
    falls_ = [text for text in limits(read_facts([study, other])) if "the accuracy of" in text]
    assert len(falls_) == 2
    assert any("study: with" in text for text in falls_)
    assert any("other: with" in text for text in falls_)
    alone = [text for text in limits(read_facts([study])) if "the accuracy of" in text]
    assert alone[0].startswith("With ")


def test_the_protocol_is_a_list_of_sentences(study: Path) -> None:
    [run] = read_facts([study]).studies
    protocol = "the test is by ridge regression; each task's test images were used by 3 classifiers, once each"
    write_json(study / "results.json", run.report.model_copy(update={"protocol": protocol}).model_dump(mode="json"))
    page = html(read_facts([study]))
    assert "<li>The test is by ridge regression.</li>" in page
    assert "test images were used by 3 classifiers, once each.</li>" in page


def test_the_answer_is_two_sentences_and_the_rest_a_list_under_it(study: Path, tmp_path: Path) -> None:
    [run] = read_facts([study]).studies
    said = ("No: a.", "Training changed b.", "a beats c.", "b rose.")
    write_json(study / "results.json", run.report.model_copy(update={"verdict": said}).model_dump(mode="json"))
    facts = read_facts([study])
    assert verdict(facts) == (said[:2], said[2:])
    page = html(facts)
    assert page.count('<p class="verdict">') == 2
    assert '<ul class="more">' in page
    other = write_study(tmp_path / "other")
    both = verdict(read_facts([study, other]))
    assert [one.partition(": ")[2] for one in both.answer] == ["No: a.", "Yes: colorize beats the untrained network."]
    assert [one.rpartition("study: ")[2] for one in both.more[:2]] == ["Training changed b.", "a beats c."]


def test_probes_and_fine_tuning_next_to_a_study_are_answered_too(study: Path, tmp_path: Path) -> None:
    probed = write_probe(tmp_path / "probed", probe_result({"encoder": 0.8, "random_init": 0.5}, task="plant"))
    facts = read_facts([study, probed])
    first, second, third, *_ = verdict(facts).all
    assert first.startswith("Yes: colorize beats the untrained network.")
    assert second.startswith("colorize is not shown")
    assert third.startswith("Other runs: Yes: denoise beats the untrained network on plant by 30.0 points [")
    assert "beats the untrained network on plant" in model_card([study, probed])


def test_a_study_says_that_its_untrained_network_is_a_single_one(study: Path) -> None:
    [run] = read_facts([study]).studies
    gain = compare(torch.ones(300), torch.zeros(300), torch.ones(300))
    report = run.report
    trained = report.named(report.winner).model_copy(update={"over_twin": {"animal": gain}})
    others = [one for one in report.contenders if one.name != report.winner]
    report = report.model_copy(update={"contenders": (trained, *others)})
    write_json(study / "results.json", report.model_dump(mode="json"))
    assert "Each gain is over a single untrained network" in Page(html(read_facts([study]))).said


def test_test_images_that_were_left_out_of_pretraining_are_known_not_to_be_seen(study: Path) -> None:
    [run] = read_facts([study]).studies
    data = run.report.data["animal"].model_copy(update={"not_compared": {"in_pretraining": NONE_LEFT}})
    report = run.report.model_copy(update={"data": {"animal": data}})
    write_json(study / "results.json", report.model_dump(mode="json"))
    said = Page(html(read_facts([study]))).said
    assert "test images seen in pretraining, exactly or nearly 0images that repeat them were left out" in said

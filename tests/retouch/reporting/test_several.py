"""Several labels per image, and masks, on the page: tables, the verdict in words, and what is not shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from finetune.records import NearDuplicates, Repeat
from finetune.structured_results import LabelComparison
from retouch.reporting.answer import verdict
from retouch.reporting.blocks import Table
from retouch.reporting.choices import chosen, touched
from retouch.reporting.cost_tables import cost_table
from retouch.reporting.facts import Facts
from retouch.reporting.limits import limits
from retouch.reporting.page import html
from retouch.reporting.parts import card_parts, page_parts
from retouch.reporting.question import about, question
from retouch.reporting.run_tables import labeled_tables, repeats_table
from retouch.reporting.several import several_blocks
from retouch.reporting.tables import choice_table
from tests.retouch.reporting.runs import probe_result, write_probe
from tests.retouch.reporting.several import NAMES, label_result, mask_result, report_on

Strength = Literal["best", "better", "same", "worse"]  # than the baselines


@dataclass(frozen=True)
class Member:
    """A kind of results, and the words for it."""

    made: Callable[..., Any]
    strengths: dict[Strength, float]
    task: str
    anchor: str
    title: str
    measure: str
    level: str  # how the second sentence of the verdict begins
    rarest: str
    each: str  # its measure
    shows: str
    probe: str
    space: str
    setting: str

    def result(self, strength: Strength = "better", pretext: str = "denoise", **changes: Any) -> Any:
        return self.made(self.strengths[strength], pretext, **changes)


MEMBERS = {
    "labels": Member(
        label_result, {"best": 2.5, "better": 2.0, "same": 0.0, "worse": -2.0}, "tags", "multilabel",
        "Several labels per image", "mean average precision", "The linear probe's mean average precision is ",
        "label", "average precision", "has", "linear, per label", "avg", "l2 0.01",
    ),
    "masks": Member(
        mask_result, {"best": 0.95, "better": 0.9, "same": 0.5, "worse": 0.2}, "masks", "masks", "Masks", "mean IoU",
        "The mean IoU of the probe of masks is ", "class of pixels", "IoU", "shows", "linear, per cell", "8x8 cells",
        "l2 0.01, prior 0.5",
    ),
}  # fmt: skip


@pytest.fixture(params=MEMBERS)
def one(request: pytest.FixtureRequest) -> Member:
    return MEMBERS[request.param]


def means(facts: Facts) -> Table:
    """The table of all encoders and baselines of the first task."""
    table = several_blocks(facts.several)[0]
    assert isinstance(table, Table)
    return table


def bold(facts: Facts) -> list[bool]:
    """Whether the gain over the untrained network is bold, for each encoder."""
    table = means(facts)
    place = [column.text for column in table.columns].index("gain over")
    return [row[place].strong for row in table.rows if row[place].text]


# ---- the verdict


@pytest.mark.parametrize(
    ("strength", "words"),
    [
        ("better", "Yes: denoise beats the untrained network on {task} by "),
        ("same", "No difference shown: on {task}, denoise and the untrained network differ by "),
        ("worse", "No: denoise is worse than the untrained network on {task}, by "),
    ],
)
def test_the_verdict_is_that_of_the_paired_interval(
    one: Member, strength: Strength, words: str, tmp_path: Path
) -> None:
    found = verdict(report_on(tmp_path, one.result(strength))).all
    assert found[0].startswith(words.format(task=one.task))
    assert re.search(rf" of {one.measure} \(p [<=] [\d.]+\)(, in favor of .*)?\.$", found[0])
    assert found[1].startswith(one.level)


def test_many_encoders_are_answered_in_one_sentence(one: Member, tmp_path: Path) -> None:
    results = one.result(), one.result("best", "colorize"), one.result("same", "mask")
    found = [said.replace("\u00a0", " ") for said in verdict(report_on(tmp_path, *results)).answer]
    assert len(found) == 2
    assert found[0].startswith("In 2 of 3 comparisons: the trained encoder beats the untrained network by ")
    assert found[0].endswith(f"for mask on {one.task} no difference is shown, in {one.measure}.")
    assert f"for denoise on {one.task}" in found[1]


def test_without_a_baseline_nothing_is_claimed(one: Member, tmp_path: Path) -> None:
    made = one.result()
    encoder = made.subjects["encoder"].model_copy(update={"compared": {}})
    alone = made.model_copy(update={"subjects": {"encoder": encoder}})
    assert verdict(report_on(tmp_path, alone)).all[0] == f"Not compared: no baseline was probed on {one.task}."
    against = {"pixels": LabelComparison(difference=0.1, ci95=(0.05, 0.15))}
    encoder = encoder.model_copy(update={"compared": against})
    pixels = made.model_copy(update={"subjects": {"encoder": encoder}})
    assert f"beats raw pixels on {one.task}" in verdict(report_on(tmp_path / "other", pixels)).all[0]


def test_differences_that_several_comparisons_explain_are_not_shown(one: Member, tmp_path: Path) -> None:
    """Four intervals that exclude zero by themselves, with p = 0.03 each: one in eight pages has one by chance."""

    def result(pretext: str, p_value: float) -> Any:
        found = one.result(pretext=pretext)
        against = {
            name: LabelComparison(difference=0.1, ci95=(0.01, 0.19), p_value=p_value)
            for name in ("random_init", "pixels")
        }
        encoder = found.subjects["encoder"].model_copy(update={"compared": against})
        return found.model_copy(update={"subjects": {**found.subjects, "encoder": encoder}})

    names = ("denoise", "colorize", "mask", "mixed")
    open_ = report_on(tmp_path / "open", *(result(name, 0.03) for name in names))
    assert bold(open_) == [False] * 4
    assert verdict(open_).all[0].startswith("No difference shown in any of 4 comparisons with the untrained network")
    alone = report_on(tmp_path / "alone", result("denoise", 0.03))
    assert bold(alone) == [True]
    assert "Yes: denoise beats the untrained network" in verdict(alone).all[0]
    some = report_on(tmp_path / "some", result("denoise", 0.001), *(result(name, 0.03) for name in names[1:]))
    assert bold(some) == [True, False, False, False]
    assert verdict(some).all[0].startswith("In 1 of 4 comparisons: denoise beats")


# ---- the page


def test_the_page_has_every_number_and_every_name_safely(one: Member, tmp_path: Path) -> None:
    result = one.result()
    facts = report_on(tmp_path, result)
    assert question(facts) == "Does denoise beat the same network untrained?"
    assert about(facts).startswith("1 probe")
    page = html(facts)
    for subject in result.subjects.values():
        for value in (subject.test.mean, *subject.test.others.values(), *subject.test.each):
            assert value is not None
            assert f"{100 * value:.1f}" in page
    assert "&lt;img src=x&gt;" in page
    assert "<img src=x>" not in page
    assert result.protocol in page
    assert [part.title for part in page_parts(facts) if part.anchor == one.anchor] == [one.title]
    assert one.anchor in [part.anchor for part in card_parts(facts)]


def test_gains_are_bold_only_where_they_are_shown(one: Member, tmp_path: Path) -> None:
    shown, open_ = (report_on(tmp_path / strength, one.result(strength)) for strength in ("better", "same"))
    assert (bold(shown), bold(open_)) == ([True], [False])
    assert [row[0].text for row in means(shown).rows] == ["denoise", "untrained", "raw pixels"]


def test_two_encoders_share_a_table_and_data_of_one_name_are_told_apart(one: Member, tmp_path: Path) -> None:
    other = one.result("same", "mask", train="folder:b")
    facts = report_on(tmp_path, one.result(), one.result("best", "colorize"), other)
    assert facts.encoders == ("denoise", "colorize", "mask")
    assert {entry.task for entry in facts.several} == {f"{one.task} (folder:a)", f"{one.task} (folder:b)"}
    assert [row[0].text for row in means(facts).rows][:4:3] == ["denoise", "colorize"]


def test_an_encoder_that_was_probed_twice_is_named_with_its_run(one: Member, tmp_path: Path) -> None:
    results = one.result(), one.result("same")
    facts = report_on(tmp_path, *results)
    _, each, *_ = several_blocks(facts.several)
    assert isinstance(each, Table)
    names = [row[0].text for row in means(facts).rows]
    assert names[:4:3] == ["denoise, probe-0", "denoise, probe-1"]
    columns = [column.text for column in each.columns]
    places = [columns.index(name) for name in names[:4:3]]
    shown = {row[0].text: tuple(row[place].text for place in places) for row in each.rows}
    for name, *values in zip(NAMES, *(result.linear.test.each for result in results), strict=True):
        assert shown[name] == tuple(f"{100 * value:.1f}" for value in values if value is not None)


def test_classes_are_reported_together_with_them(one: Member, tmp_path: Path) -> None:
    write_probe(tmp_path / "classes", probe_result(sha256="d" * 64))
    facts = report_on(tmp_path, one.result())
    assert facts.encoders == ("denoise",)
    assert [said.partition(":")[0] for said in verdict(facts).answer] == ["Yes", "Yes"]
    page = html(facts)
    assert "animal" in page
    assert one.title in page


# ---- what else is told


def test_data_choices_cost_and_looks_at_the_test_set_are_told(one: Member, tmp_path: Path) -> None:
    result = one.result()
    facts, n = report_on(tmp_path, result), result.linear.test.n
    [data], choices, cost = labeled_tables(facts), choice_table(facts), cost_table(facts)
    assert choices is not None
    assert {"folder:a", "500", f"{n}"} <= {cell.text for row in data.rows for cell in row}
    assert {one.probe, one.space, one.setting} <= {cell.text for row in choices.rows for cell in row}
    assert "3.0" in [cell.text for row in cost.rows for cell in row]
    assert any("5-fold cross-validation" in line for line in chosen(facts))
    [line] = touched(facts)
    assert line.startswith(f"The {n} test images of a (test) were used once by each of 3 classifiers, 2 of them only")


def test_limits_name_the_rarest_and_those_that_no_image_shows(one: Member, tmp_path: Path) -> None:
    result = one.result()
    rare = result.linear.test.shown_by[2]
    rarest = f"rarest {one.rarest}, <img src=x>, is in only {rare} test images, which limits how well its {one.each} is"
    assert f"The {rarest} known." in limits(report_on(tmp_path / "one", result))
    other = result.model_copy(update={"task": "other"})
    assert f"{one.task}: the {rarest} known." in limits(report_on(tmp_path / "two", result, other))
    unseen = report_on(tmp_path / "other", one.result(unseen=True))
    assert f"No test image {one.shows} <img src=x>, so the {one.each} is not known." in limits(unseen)
    html(unseen)
    drawn = limits(report_on(tmp_path / "third", one.result(train="shapes:train:20")))
    assert any(line.startswith("The images of shapes are drawn by a program") for line in drawn)


def test_pairs_of_every_result_are_named_once_with_their_encoder(one: Member, tmp_path: Path) -> None:
    def near(*others: str) -> NearDuplicates:
        pairs = tuple(Repeat(test="t.png", other=other, alike=0.95) for other in others)
        return NearDuplicates(test_images=1, pairs=len(pairs), most_alike=pairs)

    def result(pretext: str, pool: str) -> Any:
        found = one.result(pretext=pretext)
        seen = {"near_duplicates": near("train.png"), "in_pretraining": near(pool)}
        return found.model_copy(update={"data": found.data.model_copy(update=seen)})

    found = [result("denoise", "a.png"), result("colorize", "a.png"), result("mask", "b.png")]
    table = repeats_table(report_on(tmp_path, *found))
    assert table is not None
    assert [(row[0].text, row[0].below, row[2].text) for row in table.rows] == [
        ("training", "", "train.png"),
        ("pretraining", "denoise and colorize", "a.png"),
        ("pretraining", "mask", "b.png"),
    ]

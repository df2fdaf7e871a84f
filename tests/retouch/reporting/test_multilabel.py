"""Several labels per image on the page: tables, the verdict in words, and what is not shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from finetune.ranking import compare_labels, halves, score_labels
from finetune.records import Checks, DataFacts, EncoderFacts, ProbeChoice
from finetune.results import ProbeReport, write_results
from finetune.structured_results import LabelComparison, LabelProbed, LabelResult
from retouch.reporting.blocks import Table
from retouch.reporting.facts import Facts
from retouch.reporting.limits import limits
from retouch.reporting.page import html
from retouch.reporting.parts import card_parts, page_parts
from retouch.reporting.reading import read_facts
from retouch.reporting.sentences import about, question, verdict
from retouch.reporting.several import OVER, several_blocks
from tests.retouch.reporting.runs import probe_result, start, write_probe

LABELS = ("sea", "sky", "<img src=x>")


def label_result(
    gap: float = 2.0, pretext: str = "denoise", train: str = "csv:a.csv", unseen: bool = False
) -> LabelResult:
    """An encoder whose scores are better than those of its baselines by a gap."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(200, 3, generator=generator) < torch.tensor([0.5, 0.3, 0.1])
    if unseen:
        truth[:, 2] = False
    noise = torch.randn(3, 200, 3, generator=generator)
    signal = torch.tensor([0.5 + gap, 0.5, 0.4])
    scores = dict(zip(("encoder", "random_init", "pixels"), noise + signal[:, None, None] * truth, strict=True))
    drawn = {name: halves(one, truth) for name, one in scores.items()}
    tests = {name: score_labels(one, truth, drawn[name]) for name, one in scores.items()}
    choice = ProbeChoice(
        val_accuracy=0.7, how="5-fold cross-validation", layer="0+1", pooling="avg", features=8, setting={"l2": 0.01},
        at_end_of_grid=False,
    )  # fmt: skip
    compared = {
        name: compare_labels(tests["encoder"], tests[name], drawn["encoder"], drawn[name])
        for name in ("random_init", "pixels")
    }
    return LabelResult(
        task="tags",
        labels=LABELS,
        data=DataFacts(train=train, test=f"{train} (test)", image_size=16, duplicates=0),
        protocol="frozen encoder; each label by itself",
        encoder=EncoderFacts(path=f"runs/{pretext}", name="cnn", view="rgb", pretext=pretext, sha256=pretext[0] * 64),
        subjects={
            name: LabelProbed(
                view="rgb", choice=choice, n_train=500, n_val=500, test=test, seconds=1.0,
                compared=compared if name == "encoder" else {},
            )
            for name, test in tests.items()
        },
        checks=Checks(frozen=True, null=None),
    )  # fmt: skip


def facts_of(tmp_path: Path, *results: LabelResult) -> Facts:
    for number, result in enumerate(results):
        start(tmp_path / f"probe-{number}", "probe", "seed: 3\ndata: {train: a.csv, labels: [tags]}\n")
        write_results(tmp_path / f"probe-{number}", ProbeReport(results=(), multilabel=(result,)))
    return read_facts([tmp_path])


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        (2.0, "Yes: denoise beats the untrained network on tags by "),
        (0.0, "No difference shown: on tags, denoise and the untrained network differ by "),
        (-2.0, "No: denoise is worse than the untrained network on tags, by "),
    ],
)
def test_the_verdict_is_that_of_the_paired_interval(tmp_path: Path, gap: float, words: str) -> None:
    found = verdict(facts_of(tmp_path, label_result(gap)))
    assert found[0].startswith(words)
    assert re.search(r" of mean average precision \(p [<=] [\d.]+\)\.$", found[0])
    assert found[1].startswith("The linear probe's mean average precision is ")


def test_many_encoders_are_answered_in_one_sentence(tmp_path: Path) -> None:
    results = (label_result(2.0), label_result(2.5, "colorize"), label_result(0.0, "mask"))
    found = [said.replace("\u00a0", " ") for said in verdict(facts_of(tmp_path, *results))]
    assert len(found) == 2
    assert found[0].startswith("In 2 of 3 comparisons: the trained encoder beats the untrained network by ")
    assert found[0].endswith("for mask on tags no difference is shown, in mean average precision.")
    assert "for denoise on tags" in found[1]


def test_without_a_baseline_nothing_is_claimed(tmp_path: Path) -> None:
    alone = label_result()
    encoder = alone.subjects["encoder"].model_copy(update={"compared": {}})
    result = alone.model_copy(update={"subjects": {"encoder": encoder}})
    assert verdict(facts_of(tmp_path, result))[0] == "Not compared: no baseline was probed on tags."
    against = {"pixels": LabelComparison(difference=0.1, ci95=(0.05, 0.15))}
    encoder = encoder.model_copy(update={"compared": against})
    result = alone.model_copy(update={"subjects": {"encoder": encoder}})
    assert "beats raw pixels on tags" in verdict(facts_of(tmp_path / "other", result))[0]


def test_the_page_has_every_number_and_every_label_safely(tmp_path: Path) -> None:
    result = label_result()
    facts = facts_of(tmp_path, result)
    assert question(facts) == "Does denoise beat the same network untrained?"
    assert about(facts).startswith("1 probe")
    page = html(facts)
    for one in result.subjects.values():
        for value in (one.test.mean_average_precision, one.test.macro_f1, *one.test.per_label):
            assert value is not None
            assert f"{100 * value:.1f}" in page
    assert "&lt;img src=x&gt;" in page
    assert "<img src=x>" not in page
    assert "frozen encoder; each label by itself" in page
    assert [part.title for part in page_parts(facts) if part.anchor == "multilabel"] == ["Several labels per image"]
    assert "multilabel" in [part.anchor for part in card_parts(facts)]


def test_gains_are_bold_only_where_they_are_shown(tmp_path: Path) -> None:
    for name, gap, bold in (("one", 2.0, True), ("other", 0.0, False)):
        means = several_blocks(facts_of(tmp_path / name, label_result(gap)).label_entries)[0]
        assert isinstance(means, Table)
        place = [column.text for column in means.columns].index("gain over")
        assert means.rows[0][place].strong is bold
        assert [row[0].text for row in means.rows] == ["denoise", "untrained (denoise)", "raw pixels"]


def test_differences_that_several_comparisons_explain_are_not_shown(tmp_path: Path) -> None:
    """Four intervals that exclude zero by themselves, with p = 0.03 each: one in eight pages has one by chance."""

    def result(pretext: str, p_value: float) -> LabelResult:
        found = label_result(pretext=pretext)
        against = {name: LabelComparison(difference=0.1, ci95=(0.01, 0.19), p_value=p_value) for name in OVER}
        encoder = found.subjects["encoder"].model_copy(update={"compared": against})
        return found.model_copy(update={"subjects": {**found.subjects, "encoder": encoder}})

    def strong(facts: Facts) -> list[bool]:
        means = several_blocks(facts.label_entries)[0]
        assert isinstance(means, Table)
        place = [column.text for column in means.columns].index("gain over")
        return [row[place].strong for row in means.rows if row[place].text]

    names = ("denoise", "colorize", "mask", "mixed")
    open_ = facts_of(tmp_path / "open", *(result(name, 0.03) for name in names))
    assert strong(open_) == [False] * 4
    assert verdict(open_)[0].startswith("No difference shown in any of 4 comparisons with the untrained network")
    alone = facts_of(tmp_path / "alone", result("denoise", 0.03))
    assert strong(alone) == [True]
    assert "Yes: denoise beats the untrained network" in verdict(alone)[0]
    some = facts_of(tmp_path / "some", result("denoise", 0.001), *(result(name, 0.03) for name in names[1:]))
    assert strong(some) == [True, False, False, False]
    assert verdict(some)[0].startswith("In 1 of 4 comparisons: denoise beats")


def test_two_encoders_share_a_table_and_data_of_one_name_are_told_apart(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, label_result(), label_result(1.0, "colorize"), label_result(0.0, "mask", "csv:b.csv"))
    assert facts.encoders == ("denoise", "colorize", "mask")
    assert {entry.task for entry in facts.label_entries} == {"tags (csv:a.csv)", "tags (csv:b.csv)"}
    means = several_blocks(facts.label_entries)[0]
    assert isinstance(means, Table)
    assert [row[0].text for row in means.rows][:4:3] == ["denoise", "colorize"]


def test_limits_name_the_rarest_label_and_those_that_no_image_has(tmp_path: Path) -> None:
    said = limits(facts_of(tmp_path / "one", label_result()))
    rare = label_result().subjects["encoder"].test.positives[2]
    assert (
        f"tags: the rarest label, <img src=x>, is in only {rare} test images, which limits how well its average "
        "precision is known." in said
    )
    said = limits(facts_of(tmp_path / "other", label_result(unseen=True)))
    assert "tags: no test image has <img src=x>, so the average precision is not known." in said
    html(facts_of(tmp_path / "third", label_result(unseen=True)))


def test_classes_and_labels_are_reported_together(tmp_path: Path) -> None:
    write_probe(tmp_path / "classes", probe_result(sha256="d" * 64))
    facts = facts_of(tmp_path, label_result())
    assert facts.encoders == ("denoise",)
    assert len(verdict(facts)) == 3
    page = html(facts)
    assert "animal" in page
    assert "Several labels per image" in page

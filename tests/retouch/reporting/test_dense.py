"""Masks on the page: tables, the verdict in words, and what is not shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from finetune.dense.cells import overlaps
from finetune.dense.scores import bootstrap, compare_masks, score_masks
from finetune.records import Checks, DataFacts, EncoderFacts, NearDuplicates, ProbeChoice, Repeat
from finetune.results import ProbeReport, write_results
from finetune.structured_results import DenseProbed, DenseResult
from retouch.reporting.blocks import Table
from retouch.reporting.choices import chosen, touched
from retouch.reporting.facts import Facts
from retouch.reporting.limits import limits
from retouch.reporting.page import html
from retouch.reporting.parts import card_parts, page_parts
from retouch.reporting.reading import read_facts
from retouch.reporting.run_tables import cost_table, labeled_table, repeats_table
from retouch.reporting.sentences import about, question, verdict
from retouch.reporting.several import several_blocks
from retouch.reporting.tables import choice_table
from tests.retouch.reporting.runs import probe_result, start, write_probe

CLASSES = ("ground", "sky", "<img src=x>")


def mask_result(
    right: float = 0.9, pretext: str = "denoise", train: str = "folder:a", unseen: bool = False
) -> DenseResult:
    """An encoder that is right on a share of the pixels; its baselines on half of them."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 2 if unseen else 3, (60, 8, 8), generator=generator)
    truth[:58][truth[:58] == 2] = 0  # the last class is rare
    chance = torch.rand(60, 8, 8, generator=generator)
    shares = {"encoder": right, "random_init": 0.5, "pixels": 0.5}
    answers = {name: torch.where(chance < share, truth, (truth + 1) % 3) for name, share in shares.items()}
    counts = {name: overlaps(one, truth, 3) for name, one in answers.items()}
    drawn = {name: bootstrap(one) for name, one in counts.items()}
    choice = ProbeChoice(
        val_accuracy=0.7, how="5-fold cross-validation", layer="2", pooling="8x8 cells", features=64,
        setting={"l2": 0.01, "prior": 0.5}, at_end_of_grid=False,
    )  # fmt: skip
    compared = {
        name: compare_masks(counts["encoder"], counts[name], drawn["encoder"], drawn[name])
        for name in ("random_init", "pixels")
    }
    return DenseResult(
        task="masks",
        classes=CLASSES,
        data=DataFacts(train=train, test=f"{train} (test)", image_size=8, duplicates=0),
        protocol="frozen encoder; each cell by itself",
        encoder=EncoderFacts(path=f"runs/{pretext}", name="cnn", view="rgb", pretext=pretext, sha256=pretext[0] * 64),
        subjects={
            name: DenseProbed(
                view="rgb", choice=choice, n_train=500, n_val=500, test=score_masks(counts[name], drawn[name]),
                seconds=1.0, compared=compared if name == "encoder" else {},
            )
            for name in counts
        },
        checks=Checks(frozen=True, null=None),
    )  # fmt: skip


def facts_of(tmp_path: Path, *results: DenseResult) -> Facts:
    for number, result in enumerate(results):
        start(tmp_path / f"probe-{number}", "probe", "seed: 3\ndata: {train: a, masks: b}\n")
        write_results(tmp_path / f"probe-{number}", ProbeReport(results=(), dense=(result,)))
    return read_facts([tmp_path])


@pytest.mark.parametrize(
    ("right", "words"),
    [
        (0.9, "Yes: denoise beats the untrained network on masks by "),
        (0.5, "No difference shown: on masks, denoise and the untrained network differ by "),
        (0.2, "No: denoise is worse than the untrained network on masks, by "),
    ],
)
def test_the_verdict_is_that_of_the_paired_interval(tmp_path: Path, right: float, words: str) -> None:
    found = verdict(facts_of(tmp_path, mask_result(right)))
    assert found[0].startswith(words)
    assert re.search(r" of mean IoU \(p [<=] [\d.]+\)\.$", found[0])
    assert found[1].startswith("The mean IoU of the probe of masks is ")


def test_the_page_has_every_number_and_every_class_safely(tmp_path: Path) -> None:
    result = mask_result()
    facts = facts_of(tmp_path, result)
    assert question(facts) == "Does denoise beat the same network untrained?"
    assert about(facts).startswith("1 probe")
    page = html(facts)
    for one in result.subjects.values():
        for value in (one.test.mean_iou, one.test.pixel_accuracy, *one.test.per_class):
            assert value is not None
            assert f"{100 * value:.1f}" in page
    assert "&lt;img src=x&gt;" in page
    assert "<img src=x>" not in page
    assert "frozen encoder; each cell by itself" in page
    assert [part.title for part in page_parts(facts) if part.anchor == "masks"] == ["Masks"]
    assert "masks" in [part.anchor for part in card_parts(facts)]


def test_data_choices_cost_and_looks_at_the_test_set_are_told(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, mask_result())
    data, choices, cost = labeled_table(facts), choice_table(facts), cost_table(facts)
    assert data is not None
    assert choices is not None
    assert {"folder:a", "500", "60"} <= {cell.text for row in data.rows for cell in row}
    assert {"linear, per cell", "8x8 cells", "l2 0.01, prior 0.5"} <= {
        cell.text for row in choices.rows for cell in row
    }
    assert "3.0" in [cell.text for row in cost.rows for cell in row]
    assert any("5-fold cross-validation" in line for line in chosen(facts))
    [line] = touched(facts)
    assert line.startswith("3 classifiers (2 of baselines) used the 60 test images of folder:a (test) once each")


def test_gains_are_bold_only_where_they_are_shown(tmp_path: Path) -> None:
    for name, right, bold in (("one", 0.9, True), ("other", 0.5, False)):
        means = several_blocks(facts_of(tmp_path / name, mask_result(right)).dense_entries)[0]
        assert isinstance(means, Table)
        place = [column.text for column in means.columns].index("gain over")
        assert means.rows[0][place].strong is bold
        assert [row[0].text for row in means.rows] == ["denoise", "untrained (denoise)", "raw pixels"]


def test_two_encoders_share_a_table_and_data_of_one_name_are_told_apart(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, mask_result(), mask_result(0.7, "colorize"), mask_result(0.5, "mask", "folder:b"))
    assert facts.encoders == ("denoise", "colorize", "mask")
    assert {entry.task for entry in facts.dense_entries} == {"masks (folder:a)", "masks (folder:b)"}
    means = several_blocks(facts.dense_entries)[0]
    assert isinstance(means, Table)
    assert [row[0].text for row in means.rows][:4:3] == ["denoise", "colorize"]


def test_limits_name_the_rarest_class_and_those_that_no_image_shows(tmp_path: Path) -> None:
    said = limits(facts_of(tmp_path / "one", mask_result()))
    assert (
        "masks: the rarest class of pixels, <img src=x>, is in only 2 test images, which limits how well its IoU is "
        "known." in said
    )
    facts = facts_of(tmp_path / "other", mask_result(unseen=True))
    assert "masks: no test image shows <img src=x>, so the IoU is not known." in limits(facts)
    html(facts)
    drawn = limits(facts_of(tmp_path / "third", mask_result(train="shapes:train:20")))
    assert any(line.startswith("The images of shapes are drawn by a program") for line in drawn)


def test_classes_and_masks_are_reported_together(tmp_path: Path) -> None:
    write_probe(tmp_path / "classes", probe_result(sha256="d" * 64))
    facts = facts_of(tmp_path, mask_result())
    assert facts.encoders == ("denoise",)
    assert len(verdict(facts)) == 3
    assert "animal" in html(facts)


def test_an_encoder_that_was_probed_twice_is_named_with_its_run(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, mask_result(0.9), mask_result(0.6))
    means, classes, *_ = several_blocks(facts.dense_entries)
    assert isinstance(means, Table)
    assert isinstance(classes, Table)
    names = [row[0].text for row in means.rows]
    assert names[:4:3] == ["denoise, probe-0", "denoise, probe-1"]
    assert [column.text for column in classes.columns][3:] == names
    first, second = (mask_result(right).linear.test.per_class for right in (0.9, 0.6))
    shown = {row[0].text: (row[3].text, row[6].text) for row in classes.rows}
    for name, *each in zip(CLASSES, first, second, strict=True):
        assert shown[name] == tuple(f"{100 * value:.1f}" for value in each if value is not None)


def test_pairs_of_every_result_are_named_once_with_their_encoder(tmp_path: Path) -> None:
    def near(*others: str) -> NearDuplicates:
        pairs = tuple(Repeat(test="t.png", other=other, alike=0.95) for other in others)
        return NearDuplicates(test_images=1, pairs=len(pairs), most_alike=pairs)

    def result(pretext: str, pool: str) -> DenseResult:
        found = mask_result(pretext=pretext)
        seen = {"near_duplicates": near("train.png"), "in_pretraining": near(pool)}
        return found.model_copy(update={"data": found.data.model_copy(update=seen)})

    found = [result("denoise", "a.png"), result("colorize", "a.png"), result("mask", "b.png")]
    table = repeats_table(facts_of(tmp_path, *found))
    assert table is not None
    assert [(row[0].text, row[0].below, row[2].text) for row in table.rows] == [
        ("training", "", "train.png"),
        ("pretraining", "denoise and colorize", "a.png"),
        ("pretraining", "mask", "b.png"),
    ]

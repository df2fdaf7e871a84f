"""Networks that were trained on labels next to probes and to each other: compared on the same images, or why not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from common.files import write_json
from retouch.reporting.answer import verdict
from retouch.reporting.limits import limits
from retouch.reporting.page import html
from retouch.reporting.question import question
from retouch.reporting.reading import read_facts
from tests.retouch.reporting.reading import Page
from tests.retouch.reporting.runs import probe_result, write_finetuning, write_probe


def said(*runs: Path) -> list[str]:
    return [one.replace("\u00a0", " ") for one in verdict(read_facts(runs)).all]


def scratch(folder: Path, right: float = 0.9) -> Path:
    """Supervised training from random weights, right on this share of the 300 test images of the probe."""
    return write_finetuning(folder, tuned=right, scratch=None, start_from="scratch")


def test_training_from_scratch_is_compared_with_the_probe_of_another_run(tmp_path: Path) -> None:
    """Right on 270 of 300 images and on 240 of them: 10 points, by an exact test of 30 against 0."""
    found = said(write_probe(tmp_path / "p", probe_result()), scratch(tmp_path / "scratch-1"))
    assert found[1].startswith("Training from scratch (scratch-1) beats the linear probe of denoise on animal by 10.0 ")
    assert found[1].endswith("(p < 0.001).")  # both learned from 600 labels, so nothing is said of them
    assert found[-1].startswith("The trained network's accuracy is 90.0% [")
    assert not [one for one in found if one.startswith("Not compared")]


def test_a_trained_network_that_is_worse_or_no_different_is_said_to_be(tmp_path: Path) -> None:
    probe = write_probe(tmp_path / "p", probe_result())
    assert said(probe, scratch(tmp_path / "a", 0.5))[1].startswith(
        "Training from scratch (a) is worse than the linear probe of denoise on animal by 30.0 points ["
    )
    assert said(probe, scratch(tmp_path / "b", 0.81))[1].startswith(
        "No difference is shown between training from scratch (b) and the linear probe of denoise on animal (+1.0 "
    )


def test_fine_tuning_is_compared_with_training_from_scratch_of_another_run(tmp_path: Path) -> None:
    tuned = write_finetuning(tmp_path / "full-1", tuned=0.9, scratch=None)
    facts = read_facts([tuned, scratch(tmp_path / "scratch-1", 0.6)])
    assert question(facts) == "Does fine-tuning beat training from scratch?"
    first, level, *_ = verdict(facts).all
    assert first.startswith("Fine-tuning (full-1) beats training from scratch (scratch-1) on animal by 30.0 points [")
    assert "90.0% [" in level
    assert "60.0% [" in level
    assert "full-1 was not compared with a linear probe of the frozen encoder." in limits(facts)


def test_of_several_probes_the_one_that_is_best_on_validation_is_compared(tmp_path: Path) -> None:
    """Never the one that is best on the test images."""
    low = probe_result({"encoder": 0.85}, pretext="mask", sha256="b" * 64)
    choice = low[0].linear.choice.model_copy(update={"val_accuracy": 0.1})
    linear = low[0].linear.model_copy(update={"choice": choice})
    subject = low[0].subjects["encoder"].model_copy(update={"probes": {"linear": linear}})
    low = (low[0].model_copy(update={"subjects": {"encoder": subject}}), low[1])
    found = said(write_probe(tmp_path / "p", probe_result(), low), scratch(tmp_path / "s"))
    [one] = [one for one in found if one.startswith("Training from scratch")]
    assert "beats the linear probe of denoise, the best of 2 on validation, on animal by 10.0 points" in one


def test_different_numbers_of_labels_are_said(tmp_path: Path) -> None:
    result, predictions = probe_result()
    linear = result.linear.model_copy(update={"n_train": 100})
    subject = result.subjects["encoder"].model_copy(update={"probes": {"linear": linear}})
    probe = result.model_copy(update={"subjects": {**result.subjects, "encoder": subject}}), predictions
    found = said(write_probe(tmp_path / "p", probe), scratch(tmp_path / "s"))
    assert found[1].endswith("; they learned from 600 and 100 labeled images.")


def test_what_is_not_compared_is_said_with_the_reason(tmp_path: Path) -> None:
    run = scratch(tmp_path / "s")
    fewer = write_probe(tmp_path / "fewer", probe_result(n=60, train="folder:plants"))
    assert (
        "s is not compared with the probes: it was tested on 300 test images of animals-test, and they on 60 test "
        "images of plants-test." in said(fewer, run)
    )
    other = write_probe(tmp_path / "other", probe_result(task="plant"))
    assert "s is not compared with the probes: its task is animal, theirs plant." in said(other, run)
    result, predictions = probe_result()
    elsewhere = replace(predictions, paths=tuple(f"b/{row}" for row in range(300)))
    moved = write_probe(tmp_path / "moved", (result, elsewhere))
    assert [one for one in said(moved, run) if "the 300 test images of animals-test are other ones, or" in one]
    gone = write_probe(tmp_path / "gone", probe_result())
    (gone / "predictions.parquet").unlink()
    assert [one for one in said(gone, run) if "their answers to the test images were not kept" in one]


def test_training_from_scratch_alone_is_not_said_to_be_missing(tmp_path: Path) -> None:
    found = said(scratch(tmp_path / "s"))
    assert found[0] == "Not compared: training from scratch was run alone."
    assert "neither" not in " ".join(found)


def test_a_run_that_compared_itself_is_not_compared_again(tmp_path: Path) -> None:
    run = write_finetuning(tmp_path / "full-1")
    tree = json.loads((run / "results.json").read_text())
    tree["tuned"]["compared"]["linear_probe"] = tree["tuned"]["compared"]["from_scratch"]
    write_json(run / "results.json", tree)
    both = [run, write_probe(tmp_path / "p", probe_result()), scratch(tmp_path / "s", 0.5)]
    crossed = [one for one in said(*both) if one.startswith("Fine-tuning")]
    assert crossed == []
    assert Page(html(read_facts(both))).said.count("Training from scratch (s) is worse than the linear probe") == 1


def test_a_trained_network_on_other_data_names_them(tmp_path: Path) -> None:
    probe = write_probe(tmp_path / "p", probe_result(train="folder:plants"))
    found = said(probe, write_finetuning(tmp_path / "full-1"))
    assert [one for one in found if "full-1 beats training from scratch on animal (animals) by 30.0 points" in one]

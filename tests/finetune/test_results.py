"""Results as files: they are read back exactly, and foreign files are refused with a plain message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from finetune.results import FinetuneResult, ProbeReport, read_results, write_results
from finetune.summary import finetune_notes
from tests.finetune.toys import finetune_result, probe_result


def finetuned() -> FinetuneResult:
    return finetune_result(0.6, 0.5)


def test_results_are_read_back_with_their_version(tmp_path: Path) -> None:
    report = ProbeReport(results=(probe_result("shape", 0.712), probe_result("color", 0.5)), notes=("one",))
    for folder, found in ((tmp_path / "probe", report), (tmp_path / "finetune", finetuned())):
        write_results(folder, found)
        written = json.loads((folder / "results.json").read_text())
        assert written == found.model_dump(mode="json")
        assert written["schema_version"] == 2
        assert read_results(folder) == read_results(folder / "results.json") == found


def test_numbers_keep_their_type(tmp_path: Path) -> None:
    write_results(tmp_path, ProbeReport(results=(probe_result("shape", 0.5),)))
    found = read_results(tmp_path)
    assert isinstance(found, ProbeReport)
    probes = found.results[0].subjects["encoder"].probes
    assert isinstance(probes["knn"].choice.setting["k"], int)
    assert isinstance(probes["linear"].choice.setting["l2"], float)


def test_results_of_version_1_are_read(tmp_path: Path) -> None:
    write_results(tmp_path, ProbeReport(results=(probe_result("shape", 0.5),)))
    path = tmp_path / "results.json"
    found = json.loads(path.read_text()) | {"schema_version": 1}
    for subject in found["results"][0]["subjects"].values():
        for one in subject["probes"].values():
            assert one.pop("converged") is True
            assert one["choice"].pop("unconverged") == 0
            one["choice"].pop("how")
            one.pop("compared")
    path.write_text(json.dumps(found))
    old = read_results(tmp_path)
    assert isinstance(old, ProbeReport)
    assert old.schema_version == 1
    assert old.results[0].linear.choice.how == ""
    assert old.results[0].linear.compared == {}
    assert old.results[0].linear.test == probe_result("shape", 0.5).linear.test


def test_results_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        probe_result("shape", 0.5).task = "color"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; give the results.json of a finished retouch probe or finetune run"),
        ("{", "cannot be read"),
        ("[]", "has no schema_version"),
        ('{"atoms": 64}', "has no schema_version: an older Retouch wrote it"),
        ('{"schema_version": 99}', "has schema_version 99, but this Retouch reads 1 and 2"),
        (
            '{"schema_version": 1, "stage": "probe"}',
            "is damaged; run the stage again:\n  probe.results: field required",
        ),
        ('{"schema_version": 1, "stage": "paint"}', "was written by retouch paint; give the"),
    ],
    ids=["missing", "cut", "list", "pretraining", "future", "field", "stage"],
)
def test_other_files_are_refused_with_a_plain_message(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_results(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_every_damaged_field_is_named(tmp_path: Path) -> None:
    values: dict[str, Any] = finetuned().model_dump(mode="json")
    values["tuned"]["test"]["accuracy"] = "much"
    values["misspelled"] = 1
    (tmp_path / "results.json").write_text(json.dumps(values))
    with pytest.raises(UserError) as caught:
        read_results(tmp_path)
    assert "finetune.tuned.test.accuracy: input should be a valid number" in str(caught.value)
    assert "finetune.misspelled: extra inputs are not permitted" in str(caught.value)


def test_choices_read_as_one_line() -> None:
    result = probe_result("shape", 0.5)
    assert result.linear.choice.text == "layer 0+1+2, avg, l2 0.001"
    assert finetuned().tuned.choice.text == "step 450 of 1,000"


def test_what_a_reader_of_a_fine_tuned_network_has_to_know_is_noted() -> None:
    sound = finetuned()
    assert sound.linear_probe is not None
    assert finetune_notes(sound) == ()
    ended = sound.tuned.model_copy(update={"choice": sound.tuned.choice.model_copy(update={"step": 1000})})
    choice = sound.linear_probe.choice.model_copy(update={"at_end_of_grid": True, "unconverged": 2})
    probe = sound.linear_probe.model_copy(update={"choice": choice, "converged": False})
    planted = {"tuned": ended, "from_scratch": ended, "linear_probe": probe, "start_converged": False}
    assert finetune_notes(sound.model_copy(update=planted)) == (
        "shape: the trained network was best on validation at its last step, 1,000: more steps may be better",
        "shape: the same network from scratch was best on validation at its last step, 1,000: more steps may be better",
        "shape: the linear probe at which the classifier started did not converge: head_start=random may be as good",
        "shape: the linear probe did not converge: its accuracy may be too low",
        "shape: the linear probe was chosen among fits of which 2 did not converge",
        "shape: the linear probe's L2 strength is at an end of its grid: retouch probe with a wider probe.l2 may be "
        "more accurate",
    )

"""What is read from run folders, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import UserError
from retouch.reporting.compare import rivals
from retouch.reporting.folders import distinct_names
from retouch.reporting.reading import read_facts
from tests.retouch.reporting.runs import probe_result, start, write_finetuning, write_pretraining, write_probe


def test_a_pretraining_run_is_read_from_all_its_files(tmp_path: Path) -> None:
    [run] = read_facts([write_pretraining(tmp_path / "denoise")]).pretraining
    assert (run.origin.name, run.origin.stage, run.origin.settings.seed) == ("denoise", "pretrain", 7)
    assert (run.results.method, run.results.steps) == ("denoise", 300)
    assert run.curves.loss.steps == (50, 100, 200, 300)  # half a line, left by a kill, is not read
    assert run.curves.loss.values[0] == 1 / 50
    assert (run.curves.speed, run.curves.memory_gb) == (250, 1.5)
    assert run.origin.log.started == "2026-01-31 12:00:00"
    assert run.origin.log.versions == "Python 3.12.1, torch 2.11.0"
    assert run.origin.log.unlabeled == 1200
    assert run.origin.log.warnings == ("2 of 1,202 images cannot be read and are left out: a.png (cut off)",)
    assert (run.card, run.panel, run.atoms) == (None, None, ())


def test_lines_of_metrics_that_are_damaged_are_not_read(tmp_path: Path) -> None:
    folder = write_pretraining(tmp_path / "denoise")
    odd = [
        '{"step": null, "loss": 1}',
        '{"step": 2, "loss": "x"}',
        "[1]",
        '{"step": 3, "loss": NaN}',
        '{"step": 1e999}',
    ]
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write("\n".join(["", *odd, ""]).encode() + b"\xff\xfe\0\n")
    [run] = read_facts([folder]).pretraining
    assert run.curves.loss.steps == (50, 100, 200, 300)


def test_a_folder_of_runs_stands_for_the_finished_ones_in_the_order_in_which_they_started(tmp_path: Path) -> None:
    for name, day in (("a", 2), ("b", 1)):
        write_pretraining(tmp_path / "all" / name, log=f"2026-01-0{day} 12:00:00 INFO    begins\n", sha256=name * 64)
    start(tmp_path / "all" / "c", "probe", "seed: 0\n")
    start(tmp_path / "all" / "d", "embed", "seed: 0\n")
    (tmp_path / "all" / "pictures").mkdir()
    facts = read_facts([tmp_path / "all"])
    assert [run.origin.name for run in facts.pretraining] == ["b", "a"]
    assert [left.removeprefix(f"{tmp_path}/all/") for left in facts.left_out] == [
        "c has not finished",
        "d is a run of retouch embed, which writes no results to report",
    ]


def test_all_three_stages_are_read_in_both_schema_versions(tmp_path: Path) -> None:
    old = write_probe(tmp_path / "old", probe_result(compared=False), version=1)
    facts = read_facts([write_finetuning(tmp_path / "tuned"), old, write_pretraining(tmp_path / "denoise")])
    assert [origin.stage for origin in facts.origins] == ["pretrain", "probe", "finetune"]
    assert facts.probes[0].report.schema_version == 1
    assert facts.finetuning[0].curves.loss.steps == ()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.write_text("x"), "this is a file"),
        (lambda folder: folder.mkdir(), "neither a run nor a folder of finished runs"),
        (lambda folder: start(folder, "probe", "seed: 0\n"), "this run of retouch probe has not finished"),
        (lambda folder: start(folder, "embed", "seed: 0\n"), "retouch embed writes features"),
        (lambda folder: start(folder, "predict", "seed: 0\n"), "retouch predict writes predictions"),
    ],
)
def test_what_is_no_finished_run_is_refused(make: object, said: str, tmp_path: Path) -> None:
    folder = tmp_path / "it"
    make(folder)  # type: ignore[operator]
    with pytest.raises(UserError, match=said) as refused:
        read_facts([folder])
    assert str(folder) in str(refused.value)


def test_every_folder_that_cannot_be_reported_is_named_at_once(tmp_path: Path) -> None:
    start(tmp_path / "half", "probe", "seed: 0\n")
    with pytest.raises(UserError) as refused:
        read_facts([tmp_path / "none", write_pretraining(tmp_path / "good"), tmp_path / "half"])
    assert len(refused.value.problems) == 2


def test_a_run_given_twice_is_refused_however_it_is_written(tmp_path: Path) -> None:
    run = write_pretraining(tmp_path / "all" / "denoise")
    for again in (run, tmp_path / "all", tmp_path / "all" / "." / "denoise" / "results.json"):
        with pytest.raises(UserError, match="given twice"):
            read_facts([run, again])


def test_a_part_of_a_run_is_refused_and_the_run_is_named(tmp_path: Path) -> None:
    run = write_pretraining(tmp_path / "denoise")
    (run / "encoder").mkdir()
    with pytest.raises(UserError, match=f"give the run: {run}"):
        read_facts([run / "encoder"])


def test_damaged_results_are_refused_in_one_line(tmp_path: Path) -> None:
    run = write_pretraining(tmp_path / "denoise")
    (run / "results.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        read_facts([run])


def test_names_are_as_long_as_needed(tmp_path: Path) -> None:
    assert distinct_names([tmp_path / "a" / "x", tmp_path / "b" / "y"]) == ["x", "y"]
    assert distinct_names([tmp_path / "a" / "x", tmp_path / "b" / "x"]) == ["a/x", "b/x"]
    three = [tmp_path / "a" / "x", tmp_path / "b" / "x", tmp_path / "study"]
    assert distinct_names(three) == ["a/x", "b/x", "study"]  # only those that need it are longer
    inside = distinct_names([tmp_path / "x", tmp_path / "a" / tmp_path.name / "x"])
    assert inside == [f"{tmp_path.parent.name}/{tmp_path.name}/x", f"a/{tmp_path.name}/x"]
    assert distinct_names([]) == []


def test_encoders_of_the_same_pretext_are_told_apart_by_their_runs(tmp_path: Path) -> None:
    runs = [write_pretraining(tmp_path / name, sha256=name[0] * 64) for name in ("a-run", "b-run")]
    probes = [write_probe(tmp_path / f"p{sha}", probe_result(sha256=sha * 64)) for sha in "ab"]
    assert [entry.encoder for entry in read_facts([*runs, *probes]).entries] == ["denoise (a-run)", "denoise (b-run)"]
    unknown = read_facts(probes)  # both paths say runs/denoise/encoder
    assert [entry.encoder for entry in unknown.entries] == ["denoise (aaaaaaaa)", "denoise (bbbbbbbb)"]


def test_an_encoder_probed_twice_is_told_apart_by_the_probes(tmp_path: Path) -> None:
    probes = [write_probe(tmp_path / name, probe_result()) for name in ("one", "two")]
    facts = read_facts(probes)
    assert [entry.encoder for entry in facts.entries] == ["denoise, one", "denoise, two"]
    assert facts.encoders == ("denoise",)
    assert rivals(facts) == []  # an encoder is not better than itself


def test_a_run_that_is_called_after_its_pretext_names_the_encoder_alone(tmp_path: Path) -> None:
    runs = [write_pretraining(tmp_path / f"denoise-{sha}", sha256=sha * 64) for sha in "ab"]
    probes = [write_probe(tmp_path / f"p{sha}", probe_result(sha256=sha * 64)) for sha in "ab"]
    assert read_facts([*runs, *probes]).encoders == ("denoise-a", "denoise-b")

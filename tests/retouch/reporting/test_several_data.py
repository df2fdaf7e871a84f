"""Answers of runs on several data sets: each names its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.files import write_json
from retouch.reporting.answer import verdict
from retouch.reporting.names import names_apart
from retouch.reporting.question import question_on
from retouch.reporting.reading import read_facts
from tests.retouch.reporting.runs import probe_result, write_probe
from tests.retouch.studies.finished import write_study


def study_of(folder: Path, train: str) -> Path:
    """A finished study of these labeled images."""
    study = write_study(folder)
    [run] = read_facts([study]).studies
    data = {task: one.model_copy(update={"train": train}) for task, one in run.report.data.items()}
    write_json(study / "results.json", run.report.model_copy(update={"data": data}).model_dump(mode="json"))
    return study


def test_each_answer_names_its_data_if_a_study_and_a_probe_have_different_ones(tmp_path: Path) -> None:
    study = study_of(tmp_path / "study", "folder:/data/animals/train")
    facts = read_facts([study, write_probe(tmp_path / "p", probe_result(train="folder:/data/plants"))])
    assert question_on(facts) == "Does pretraining help on animals and plants?"
    answer, more = verdict(facts)
    assert answer == (
        "On animals: Yes: colorize beats the untrained network.",
        "On animals: colorize is not shown to beat mask.",
    )
    assert more[0].startswith("Other runs, on plants: Yes: denoise beats the untrained network on animal by 30.0 ")
    assert all(one.startswith("Other runs, on plants: ") for one in more)


def test_data_are_not_named_again_if_all_answers_are_about_the_same(tmp_path: Path) -> None:
    study = study_of(tmp_path / "study", "folder:animals (80% for training, seed 0)")
    answer, more = verdict(read_facts([study, write_probe(tmp_path / "p", probe_result())]))
    assert answer[0] == "Yes: colorize beats the untrained network."
    assert more[0].startswith("Other runs: Yes: denoise beats ")


def test_studies_of_different_data_name_theirs(tmp_path: Path) -> None:
    one, other = (study_of(tmp_path / name, f"folder:{name}s") for name in ("animal", "plant"))
    assert verdict(read_facts([one, other])).answer == (
        "animal, on animals: Yes: colorize beats the untrained network.",
        "plant, on plants: Yes: colorize beats the untrained network.",
    )


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["folder:a/photos", "folder:b/photos"], ["folder:a/photos", "folder:b/photos"]),
        (["folder:a/photos (80% for training, seed 0)", "folder:a/photos"], ["photos", "photos"]),
        (["shapes:train:10", "shapes:train:20"], ["shapes", "shapes"]),
        (["hf:a/leaves:train", "hf:b/leaves:train"], ["hf:a/leaves", "hf:b/leaves"]),
        (["hf:a/leaves:train", "hf:a/leaves:test"], ["leaves", "leaves"]),
    ],
)
def test_data_of_one_name_are_told_apart(sources: list[str], names: list[str]) -> None:
    found = names_apart(sources)
    assert [found[one] for one in sources] == names

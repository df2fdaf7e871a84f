"""What a study tells to type next: the commands run, and classify pictures with what is best."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Any

import pytest

import retouch
from common.config import validate
from common.encoders import EncoderConfig, build_encoder
from common.encoders.load import read_encoder_card
from common.errors import UserError
from common.files import write_json
from finetune.data import LabeledData
from retouch.cli import main
from retouch.studies.journal import read_plan
from retouch.studies.next_steps import next_steps
from retouch.studies.results import StudyReport, Versus, read_results
from tests.common.data.samples import picture
from tests.retouch.studies.finished import write_study
from tests.retouch.studies.studies import settings


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("studies") / "my study")
    (folder / "contestants" / "colorize" / "encoder").mkdir()
    return folder


def steps(out: Path, report: StudyReport, **labels: Any) -> list[list[str]]:
    data = validate(LabeledData, {"train": "my/labeled", **labels})
    found = next_steps(out, data, report)
    return [] if found is None else [shlex.split(command) for command in found.commands]


def test_the_winner_gets_a_probe_on_the_labels_of_the_study_and_that_predicts(out: Path) -> None:
    given = {"test": "my/test", "task": ["color", "shape"], "test_fraction": 0.3, "workers": 0, "leaks": "keep"}
    encoder, probe = out / "contestants" / "colorize", out.parent / "my study-probe"
    assert steps(out, read_results(out), **given) == [
        [
            *("retouch", "probe", "linear", f"encoder={encoder}", "data=my/labeled", "data.test=my/test"),
            *('data.task=["color", "shape"]', "data.test_fraction=0.3", f"out={probe}"),
        ],
        ["retouch", "predict", str(probe), "data=my/new"],
    ]


def test_a_study_in_the_working_folder_names_its_probe_too(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(out)
    assert steps(Path(), read_results(out))[1] == ["retouch", "predict", f"{out}-probe", "data=my/new"]


def test_a_winner_without_an_encoder_to_load_has_no_next_step(out: Path) -> None:
    assert steps(out, read_results(out).model_copy(update={"winner": "untrained"})) == []


def test_the_network_from_scratch_is_used_where_it_is_shown_to_be_better(out: Path) -> None:
    found = read_results(out)

    def with_scratch(difference: float, p: float) -> StudyReport:
        [one] = [one for one in found.comparisons if one.other == "scratch"]
        changed = one.found.model_copy(update={"difference": difference})
        versus = Versus(**{**dict(one), "role": "scratch", "found": changed, "adjusted_p": p})
        return found.model_copy(update={"comparisons": (versus,)})

    [command] = steps(out, with_scratch(-0.1, 0.001))
    assert command == ["retouch", "predict", f"{out / 'contestants' / 'scratch_1'}", "data=my/new"]
    for one in (with_scratch(-0.1, 0.2), with_scratch(0.1, 0.001)):
        assert len(steps(out, one)) == 2


def test_the_commands_classify_new_pictures_with_a_pretrained_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its weights are kept in the study, so nothing is downloaded again."""
    network = build_encoder(EncoderConfig(name="timm/test_resnet"), image_size=16)
    monkeypatch.setattr("retouch.studies.field.build_encoder", lambda *_, **__: network)
    monkeypatch.setattr("retouch.studies.final.better", lambda *_: ["test_resnet"])
    values = settings(tmp_path, "study", plan=None, budget="1s", contestants=["scratch"], pretrained="timm/test_resnet")
    with caplog.at_level(logging.INFO, "retouch"):
        report = retouch.study(values)
    assert report is not None
    assert report.winner == "test_resnet"
    kept = read_encoder_card(tmp_path / "study" / "contestants" / "test_resnet" / "encoder")
    assert kept.provenance.text == "pretrained test_resnet"
    picture(1, 20, 24).save(tmp_path / "new.png")
    commands = caplog.text.partition("to classify new pictures with test_resnet (it is best on validation):\n")[
        2
    ].splitlines()[:2]
    assert len(commands) == 2
    for command in commands:
        _, *words = shlex.split(command)
        assert main([word.replace("data=my/new", f"data={tmp_path / 'new.png'}") for word in words]) == 0
    assert "1 image" in caplog.text


def test_a_study_that_goes_on_after_its_tests_does_not_say_that_it_tests(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = settings(tmp_path, "study", plan=None, budget="1s", contestants=["scratch"])
    with caplog.at_level(logging.INFO, "retouch"):
        assert retouch.study(values) is not None
        assert "is best on validation; testing 1 contestant\n" in caplog.text
        caplog.clear()
        assert retouch.study({**values, "resume": True}) is not None
    assert "is best on validation; all contestants are tested\n" in caplog.text
    assert "testing" not in caplog.text
    before = (tmp_path / "study" / "results.json").read_bytes()
    # networks that have ended their training learn no more, so it would only say that it had more time
    with pytest.raises(UserError, match=r"has finished, with a budget of 1 s; .* start a new study with budget=10h"):
        retouch.study({**values, "resume": True, "budget": "10h"})
    assert (tmp_path / "study" / "results.json").read_bytes() == before


def test_a_repeated_plan_names_who_of_this_study_it_leaves_out(tmp_path: Path) -> None:
    values = settings(tmp_path, "study")
    given = read_plan(Path(values["plan"]))
    lines = ("pca: needs about 90 s", "ica: needs about 80 s", "scratch: there is no time")
    write_json(
        Path(values["plan"]),
        given.model_copy(
            update={
                "simple": (),
                "steps": {},
                "rungs": (),
                "scratch": 0,
                "left_out": lines,
                "enough": 600,
                "untried": ("mask",),  # of the other study
            }
        ).model_dump(mode="json"),
    )
    report = retouch.study({**values, "contestants": ["pca", "random_patches", "scratch"]})
    assert report is not None
    assert report.left_out == (
        "pca: not in the plan that is repeated (then: needs about 90 s)",
        "random_patches: not in the plan that is repeated",
        "scratch: not in the plan that is repeated (then: there is no time)",
    )
    assert "budget=" not in " ".join(report.verdict)

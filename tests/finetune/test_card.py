"""The model cards of fine-tuning: what its networks are, what was measured, and how they are loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import retouch
from common.encoders.load import read_encoder_card
from common.encoders.provenance import Provenance
from common.encoders.readme import MARK, About, readme
from common.runs.results import RESULTS
from finetune import full
from finetune.card import write_cards
from finetune.config import FinetuneConfig
from finetune.results import FinetuneResult, read_results, write_results
from retouch.reporting.card import model_card
from tests.finetune.predict.runs import export, tuned
from tests.finetune.toys import gain_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cards")
    return tuned(folder / "tuned", export(folder / "encoder"))


def result_of(run: Path) -> FinetuneResult:
    found = read_results(run)
    assert isinstance(found, FinetuneResult)
    return found


def test_both_networks_of_a_run_have_a_card_with_its_results(run: Path) -> None:
    test = result_of(run).tuned.test
    for folder, what, loading in (
        ("classifier", "a classifier", 'retouch.load_classifier("FOLDER")'),
        ("encoder", "the encoder of a classifier", 'retouch.load_encoder("FOLDER")'),
    ):
        said = (run / folder / "README.md").read_text(encoding="utf-8")
        assert said.startswith(f"{MARK}, fine-tuning]\n---\n\n# color: {what}, fine-tuned on labeled images\n")
        assert [line for line in said.splitlines() if line.startswith("## ")] == [
            "## What it is", "## Results", "## Data", "## Training", "## Limits", "## How to load it",
        ]  # fmt: skip
        low, high = test.ci95
        assert f"Accuracy on 60 test images: {test.accuracy:.1%} [{low:.1%}, {high:.1%}], of color." in said
        assert loading in said
        assert f"sha256: {read_encoder_card(run / folder).sha256}." in said
        assert (f"It tells 8 classes apart: {', '.join(result_of(run).classes)}." in said) == (folder == "classifier")


def test_a_run_is_finished_when_its_cards_are_there(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(config: FinetuneConfig, result: FinetuneResult) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(full, "write_cards", stopped)
    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path / "tuned", run.parent / "encoder")
    assert (tmp_path / "tuned" / "classifier").is_dir()
    assert not (tmp_path / "tuned" / RESULTS).exists()


def test_a_card_has_the_comparisons_that_were_made_later(run: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(run, tmp_path / "tuned"))
    result = result_of(again)
    found = result.tuned.model_copy(update={"compared": {"from_scratch": gain_of(0.12)}})
    config = FinetuneConfig.model_validate({"out": again, "encoder": run.parent / "encoder", "steps": 4})
    write_cards(config, result.model_copy(update={"tuned": found, "notes": ("color: something is odd",)}))
    said = (again / "classifier" / "README.md").read_text(encoding="utf-8")
    assert "- +12.0 points [" in said
    assert "against the same network from scratch on the same images" in said
    assert "- color: something is odd." in said


def test_a_network_that_was_pretrained_keeps_its_method_among_the_tags(run: Path) -> None:
    card = read_encoder_card(run / "encoder")  # what it started from says nothing of its training
    earlier = card.provenance.starting("zero", "0" * 64, Provenance(pretext={"kind": "denoise"}))
    said = readme(card.model_copy(update={"provenance": earlier}), About("fine-tuning", ()))
    assert "tags: [retouch, fine-tuning, self-supervised-learning, denoise]" in said


def test_the_card_of_the_report_says_how_to_load_the_classifier(run: Path) -> None:
    said = model_card([run])
    assert "tags: [retouch, fine-tuning]" in said
    assert "## How to load a classifier" in said
    assert 'retouch.load_classifier("FOLDER")' in said
    assert "load_encoder" not in said


@pytest.mark.parametrize(("output", "loading"), [("classifier", "load_classifier"), ("features", "load_encoder")])
def test_the_hub_gets_the_results_and_the_way_to_load_what_is_there(
    run: Path, tmp_path: Path, output: str, loading: str
) -> None:
    retouch.export(run, f"to={tmp_path / 'out'}", "format=hub", "check=4", f"output={output}")
    said = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    test = result_of(run).tuned.test
    assert f"{100 * test.accuracy:.1f}" in said
    assert said.count("## How to load") == 1
    assert f'retouch.{loading}("FOLDER")' in said
    assert "tags: [retouch, fine-tuning]" in said
    assert str(run.parent) not in said


def test_the_hub_gets_the_classes_of_reported_runs_as_they_are(run: Path, tmp_path: Path) -> None:
    (tmp_path / "reported").mkdir()
    shutil.copy(run / "config.yaml", tmp_path / "reported")
    result = result_of(run)
    names = tuple(f"/m/{name}" for name in result.classes)
    write_results(tmp_path / "reported", result.model_copy(update={"classes": names}))
    encoder = run.parent / "encoder"
    retouch.export(encoder, f"to={tmp_path / 'out'}", "format=hub", "check=4", f"report=[{tmp_path / 'reported'}]")
    said = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert any(f"of {name}, the smallest class" in said for name in names)

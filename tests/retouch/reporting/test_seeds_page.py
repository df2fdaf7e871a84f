"""Groups of runs with several seeds on the page: their runs, their spread, and which differences are shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from common.errors import UserError
from common.files import write_json
from finetune.config import ProbeConfig
from finetune.results import ProbeReport, read_results, write_results
from finetune.seeds import Plan, summarized
from finetune.spreads import Over
from pretrain.results import PretrainSeeds
from pretrain.results import read_results as read_pretraining
from retouch.reporting.answer import rival_sentence, verdict
from retouch.reporting.compare import UNTRAINED, gains, group_gains, group_rivals, rivals
from retouch.reporting.page import html
from retouch.reporting.parts import repeat_command
from retouch.reporting.reading import read_facts
from tests.retouch.reporting.reading import Page
from tests.retouch.reporting.runs import probe_result, start, write_pretraining, write_probe


def write_probes(folder: Path, accuracies: Sequence[float], sha: str, over: Over = "pretraining") -> Path:
    """A finished group of probes of encoders with these accuracies."""
    start(folder, "probe_seeds", "seeds: 3\n")
    reports = []
    for seed, accuracy in enumerate(accuracies):
        right = {"encoder": accuracy, "random_init": 0.5, "pixels": 0.4}
        run = write_probe(folder / f"seed-{seed}", probe_result(right, sha256=f"{sha}{seed}" * 32))
        found = read_results(run)
        assert isinstance(found, ProbeReport)
        reports.append(found)
    seeds = tuple(range(len(accuracies)))
    configs = [ProbeConfig(out=folder / f"seed-{seed}", encoder=Path("e")) for seed in seeds]
    write_results(folder, summarized(Plan(over, seeds, configs), reports))
    return folder


def write_pretrainings(folder: Path) -> Path:
    start(folder, "pretrain_seeds", "seeds: 2\n")
    runs = [write_pretraining(folder / f"seed-{seed}", sha256=f"{seed}" * 64) for seed in (0, 1)]
    results = PretrainSeeds.of((0, 1), [read_pretraining(run) for run in runs])
    write_json(folder / "results.json", results.model_dump(mode="json"))
    return folder


@pytest.fixture
def groups(tmp_path: Path) -> list[Path]:
    mine = write_probes(tmp_path / "mine", (0.80, 0.81, 0.82), "a")
    return [mine, write_probes(tmp_path / "other", (0.60, 0.61, 0.62), "b"), write_pretrainings(tmp_path / "train")]


def test_a_group_is_reported_with_all_of_its_runs(groups: list[Path], tmp_path: Path) -> None:
    facts = read_facts(groups)
    assert [group.name for group in facts.groups] == ["mine", "other", "train"]
    assert [run.origin.name for run in facts.probes[:3]] == ["mine/seed-0", "mine/seed-1", "mine/seed-2"]
    assert len(facts.pretraining) == 2
    assert len(read_facts([tmp_path]).groups) == 3  # in a folder of runs too
    some = read_facts([groups[0] / "seed-0", groups[0] / "seed-1"])
    assert (len(some.probes), some.groups) == (2, ())  # a part of a group has no spread of its own


def test_the_page_has_cells_of_mean_and_deviation(groups: list[Path]) -> None:
    page = Page(html(read_facts(groups)))
    assert "seeds" in page.sections
    assert "81.0 ± 1.0 (3 seeds)" in page.said
    assert "one encoder per seed, with the same probe" in page.said
    assert "27.1 ± 0" in page.said  # PSNR of pretraining


def test_groups_are_compared_over_seeds_and_not_seed_by_seed(groups: list[Path]) -> None:
    facts = read_facts(groups[:2])
    assert rivals(facts) == []
    [found] = group_rivals(facts)
    assert (found.one, found.other, found.shown) == ("mine", "other", True)
    assert found.found.difference == pytest.approx(0.2)
    sentence = rival_sentence(found)
    assert sentence.startswith("Over several seeds, mine beats other on animal by +20.0 points")
    assert sentence in verdict(facts).all


def test_no_difference_shown_is_said(tmp_path: Path) -> None:
    one = write_probes(tmp_path / "one", (0.60, 0.70, 0.80), "a")
    other = write_probes(tmp_path / "other", (0.61, 0.69, 0.79), "b")
    [found] = group_rivals(read_facts([one, other]))
    assert not found.shown
    assert rival_sentence(found).startswith("No difference shown over several seeds: on animal, one and other differ")


def test_a_group_is_repeated_as_one(groups: list[Path]) -> None:
    facts = read_facts(groups[:1])
    lines = {repeat_command(origin, facts.group_of(origin)) for origin in facts.origins}
    assert lines == {f"retouch repeat {groups[0]}"}


def test_an_unfinished_group_is_refused_alone_and_left_out_of_a_folder(groups: list[Path], tmp_path: Path) -> None:
    (groups[0] / "results.json").unlink()
    with pytest.raises(UserError, match="have not all finished"):
        read_facts(groups[:1])
    assert any("mine has not finished" in line for line in read_facts([tmp_path]).left_out)


def test_seeds_of_the_probe_say_nothing_of_pretraining(groups: list[Path], tmp_path: Path) -> None:
    one = write_probes(tmp_path / "fixed", (0.70, 0.71, 0.72), "c", "probing")
    assert [found.one for found in group_rivals(read_facts([groups[0], one]))] == []
    other = write_probes(tmp_path / "worse", (0.50, 0.51, 0.52), "d", "probing")
    [found] = group_rivals(read_facts([one, other]))
    assert rival_sentence(found).startswith("Over several probe seeds, with one encoder each, fixed beats worse")


def test_encoders_of_several_seeds_are_compared_with_their_untrained_networks_together(groups: list[Path]) -> None:
    facts = read_facts(groups[:1])
    [found] = group_gains(facts)
    assert (found.task, found.one, found.shown) == ("animal", "mine", "better")
    assert found.found.difference == pytest.approx(0.31)
    [first, *_] = verdict(facts).all
    assert first.startswith("Yes: mine beats the untrained network on animal by 31.0 points [")
    assert "(p < 0.001)" in first
    assert "seed-0" not in first
    assert "mine beats the untrained network on animal by 31.0 points" in Page(html(facts)).said


def test_a_gain_that_changes_its_sign_with_the_seed_is_not_shown(tmp_path: Path) -> None:
    """Each seed alone would be shown, one way or the other."""
    facts = read_facts([write_probes(tmp_path / "mine", (0.2, 0.5, 0.9), "a")])
    assert {one.shown for one in gains(facts, UNTRAINED)} == {"better", "worse", "open"}
    assert (
        verdict(facts).all[0].startswith("No difference shown: on animal, mine and the untrained network differ by 3.3")
    )


def test_a_single_run_and_a_group_are_answered_together(groups: list[Path], tmp_path: Path) -> None:
    alone = write_probe(tmp_path / "alone", probe_result({"encoder": 0.9, "random_init": 0.5}, sha256="f" * 64))
    said = verdict(read_facts([groups[0], alone])).all[0]
    assert said.startswith("Yes, in both comparisons: the trained encoder beats the untrained network by 31.0 points [")
    assert "(mine on animal)" in said


def test_an_interval_of_a_share_ends_at_one_hundred_percent(tmp_path: Path) -> None:
    said = Page(html(read_facts([write_probes(tmp_path / "mine", (0.80, 0.98), "a")]))).said
    assert ", 100.0]" in said
    assert "50.0 ± 0.0 (2 seeds)the same with every seed" in said

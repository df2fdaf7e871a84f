"""The dictionary that leads is learned again, as wide as fits; a study that is killed meanwhile goes on with it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import retouch
from common.config import validate
from common.data import build_source, load_images
from common.encoders.load import load_encoder
from common.errors import UserError
from common.machine.distributed import World
from finetune.predictions import read_predictions
from pretrain.config import PretrainConfig
from retouch.studies import wider
from retouch.studies.budget import planned_probe
from retouch.studies.contestants import RawPixels, Simple, Speed, Wide, dictionary_of, widened, wider_ones
from retouch.studies.estimates import probe_seconds
from retouch.studies.field import Field
from retouch.studies.fits import PROBES, JudgeCost
from retouch.studies.journal import Clock, Journal, Judgment, read_plan
from retouch.studies.judge import Judge
from retouch.studies.plan import Purse, Wider
from tests.retouch.studies.studies import settings

HERE = World(0, 1, torch.device("cpu"))
RECIPE = "steps: 2\nbatch_size: 16\nfit: {kind: patch_dictionary, patches: 4, network: {atoms: 8, patch: 4, grid: 3}}\n"


# ---- which one


def dictionary(folder: Path, *, steps: int | None = 100, **fit: Any) -> Simple:
    """A contestant like ``kmeans``: 400 atoms, 3x3 cells."""
    values = {"kind": "patch_dictionary", "network": {"grid": 3}, **fit}
    config = validate(PretrainConfig, {"out": folder / "kmeans", "steps": steps, "fit": values})
    return Simple("kmeans", config, load_images(build_source("shapes"), 32, limit=2), HERE)


def parts(folder: Path, *, left: float, leads: str = "kmeans") -> Any:
    """A study of CIFAR-10's size, after its dictionary was judged: 1.2 ms for an image, 2 s for the fits."""
    journal = Journal(folder, 1200.0, 0.0)
    cost = JudgeCost(width=3600, extraction=2.88, fitting=2.0)
    for name in ("pixels", "kmeans"):
        right = 0.6 if name == leads else 0.4
        journal.memory = journal.memory.model_copy(
            update={
                "judgments": (
                    *journal.memory.judgments,
                    Judgment(name=name, rung=None, steps=0, seconds=0.0, accuracy={"label": right}, cost=cost),
                )
            }
        )
    journal.clock = SimpleNamespace(left=left)  # type: ignore[assignment]
    return SimpleNamespace(
        config=SimpleNamespace(seconds=1200.0),
        here=HERE,
        images=SimpleNamespace(judged=2400, fitted=9600, tested=10_000, labeled=50_000),
        field=Field((RawPixels("pixels", 32),), (dictionary(folder),), (), ()),
        journal=journal,
    )


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Speeds in proportion to the atoms, and who was measured."""
    names: list[str] = []

    def speed(one: Wide) -> Speed:
        names.append(one.name)
        learned = dictionary_of(one)
        assert learned is not None
        return Speed(4.0, 0.05, 3e-6 * learned.network.atoms)

    monkeypatch.setattr(Wide, "speed", speed)
    monkeypatch.setattr("retouch.studies.estimates.available_memory", lambda: 20 << 30)
    return names


def test_wider_dictionaries_are_tried_by_atoms_and_cells(tmp_path: Path) -> None:
    found = [(one.atoms, one.grid) for one in wider_ones(dictionary(tmp_path))]
    assert [found.index(one) for one in ((1600, 3), (1200, 3), (1600, 2), (800, 3))] == [4, 5, 6, 8]
    assert found[0] == (3200, 3)
    assert found[-1] == (800, 2)
    assert wider_ones(RawPixels("pixels", 32)) == []
    pca = dictionary(tmp_path, steps=None, learn="pca", network={"atoms": 108, "mirror": False})
    assert wider_ones(pca) == []  # a patch has no more directions
    one = widened(dictionary(tmp_path), Wider(of="kmeans", atoms=1600, grid=2))
    assert (one.name, one.features, one.config.out.name) == ("kmeans_1600", 6400, "kmeans_1600")
    one = widened(dictionary(tmp_path, network={"mirror": False}), Wider(of="kmeans", atoms=1600, grid=2))
    assert one.features == 12_800


@pytest.mark.parametrize(("left", "expected"), [(2000.0, (3200, 2)), (1100.0, (1200, 3)), (800.0, (1200, 2))])
def test_the_best_that_fits_is_taken(
    left: float, expected: tuple[int, int], tmp_path: Path, measured: list[str]
) -> None:
    chosen, left_out = wider.choose(parts(tmp_path, left=left), 0.1 * left)
    assert chosen is not None
    assert (chosen.atoms, chosen.grid) == expected
    assert chosen.left_out == left_out
    [line] = left_out  # the next better one, and only that
    assert line.startswith("kmeans_")
    assert measured[-1] == chosen.name


def test_what_does_not_fit_is_left_out_unmeasured_and_said(tmp_path: Path, measured: list[str]) -> None:
    chosen, [line] = wider.choose(parts(tmp_path, left=150.0), 10.0)
    assert (chosen, measured) == (None, [])
    assert line.startswith("kmeans_800 with 800 atoms over 3x3 cells (7,200 features): needs about ")
    assert line.endswith(" s")
    assert wider.choose(parts(tmp_path, left=-5.0), 10.0)[0] is None


def test_whoever_turns_out_slower_than_the_pace_of_fewer_atoms_is_left_out(
    tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Wide, "speed", lambda one: Speed(4.0, 10.0, 1e-3))  # 1,000 s to learn
    chosen, [line] = wider.choose(parts(tmp_path, left=1100.0), 100.0)
    assert chosen is None
    seconds = float(line.partition("needs about ")[2].partition(" s")[0])
    assert seconds > 1000


def test_the_memory_that_is_free_bounds_the_width(
    tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for free, width in ((12 << 30, 9600), (8 << 30, 6400), (1 << 30, 0)):
        monkeypatch.setattr("retouch.studies.estimates.available_memory", lambda free=free: free)
        study = parts(tmp_path, left=20_000.0)
        chosen, [line] = wider.choose(study, 10.0)
        assert (widened(study.field.named("kmeans"), chosen).features if chosen else 0) == width
    assert " of memory, but may take only 717 MiB" in line


def test_the_winner_gets_the_usual_probe_or_a_faster_one_or_none(
    tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = parts(tmp_path, left=1000.0)
    costs = study.journal.costs
    found = []
    for kind, cost in PROBES.items():
        enough = probe_seconds(study, kind) / cost.share
        found += [planned_probe(study, costs, Purse(enough * share, 0.0)) for share in (1.01, 0.99)]
    assert found == ["logistic", "ridge", "ridge", None]
    monkeypatch.setattr("retouch.studies.estimates.available_memory", lambda: 1 << 30)
    assert planned_probe(study, costs, Purse(1e6, 0.0)) is None


def test_a_wider_dictionary_takes_nothing_of_what_the_networks_keep(tmp_path: Path, measured: list[str]) -> None:
    def width(left: float, kept: float) -> int:
        chosen, _ = wider.choose(parts(tmp_path, left=left), kept)
        return 0 if chosen is None else chosen.atoms * chosen.grid

    assert width(1100.0, 275.0) > width(1100.0, 700.0) > width(1100.0, 1050.0) == 0
    assert width(500.0, 0.0) > width(500.0, 1.0)  # where no network competes, it may take most of the time


def test_a_planned_dictionary_that_cannot_be_learned_here_is_said(tmp_path: Path) -> None:
    study = parts(tmp_path, left=1000.0)
    study.field = Field((), (), (), ("kmeans: patches of 40 px do not fit",))
    plan = SimpleNamespace(wider=Wider(of="kmeans", atoms=800, grid=2))
    with pytest.raises(UserError, match="kmeans with more atoms, but kmeans cannot compete here") as refused:
        wider.widen(study, plan, 0.0)  # type: ignore[arg-type]
    assert "patches of 40 px" in str(refused.value)


def test_only_a_dictionary_that_leads_is_learned_again(tmp_path: Path, measured: list[str]) -> None:
    assert wider.choose(parts(tmp_path, left=1100.0, leads="pixels"), 0.0) == (None, ())
    assert measured == []


def test_a_plan_whose_dictionary_is_none_here_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pixels with more atoms, but pixels is no dictionary of patches here"):
        widened(RawPixels("pixels", 32), Wider(of="pixels", atoms=16, grid=2))


# ---- in a study


def study_of(folder: Path, out: str, **changes: Any) -> dict[str, Any]:
    """A study of one dictionary, which plans its time itself."""
    (folder / "patches.yaml").write_text(RECIPE)
    changed = {"contestants": [str(folder / "patches.yaml")], "plan": None, "budget": "400s"}
    return settings(folder, out, **changed) | changes


@pytest.mark.usefixtures("few_strengths")
def test_a_study_that_is_killed_before_its_wider_dictionary_is_judged_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate_ = Judge.validate

    def killed(judge: Judge, one: Any) -> Any:
        if isinstance(one, Wide):
            raise KeyboardInterrupt
        judged = validate_(judge, one)
        leads = {task: float(one.name == "patches") for task in judged.accuracy}
        return judged._replace(accuracy=leads)

    with monkeypatch.context() as patch:
        patch.setattr(Judge, "validate", killed)
        with pytest.raises(KeyboardInterrupt):
            retouch.study(study_of(tmp_path, "run"))
    out = tmp_path / "run"
    kept = Wider.model_validate(json.loads((out / "judged.json").read_text())["wider"])
    assert (kept.name, kept.grid) == ("patches_64", 3)  # all fits into 400 s
    assert not (out / "plan.json").exists()

    # the clock is not asked again
    monkeypatch.setattr(Clock, "left", property(lambda clock: 30.0))
    report = retouch.study(study_of(tmp_path, "run", resume=True))
    assert report is not None
    plan = read_plan(out)
    assert (plan.simple, plan.wider) == (("patches",), kept)
    one = report.named("patches_64")
    assert (one.kind, one.features, report.named("patches").features) == ("simple", 64 * 9, 8 * 9)
    assert load_encoder(out / "contestants" / "patches_64").layer_shapes == [(64, 3, 3)]
    assert "patches_64" in read_predictions(out)[0].answers
    assert "576" in (out / "report.html").read_text()

    monkeypatch.setattr(wider, "choose", None)  # a plan says it
    again = retouch.study(study_of(tmp_path, "again", plan=str(out)))
    assert again is not None
    assert {one.name: one.test for one in again.contenders} == {one.name: one.test for one in report.contenders}

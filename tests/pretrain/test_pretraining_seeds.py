"""Pretraining with several seeds: ordinary runs below one folder, and a summary."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import retouch
from common.encoders.load import load_encoder
from common.engine.progress import StepProgress
from common.errors import UserError
from common.files import run_stage
from common.runs.seeds import finished_runs
from pretrain.results import PretrainSeeds, read_results, read_seeds
from tests.recipe import STEPS, Killed, kill_at, pretraining

WEIGHTS = "encoder/model.safetensors"
SEEDS = 2


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mine"
    found = retouch.pretrain(pretraining(out, seeds=SEEDS))
    assert found.encoder == out
    assert found.seeds == read_seeds(out)
    return out


def test_each_run_is_the_one_that_its_seed_gives_alone(group: Path, tmp_path: Path) -> None:
    retouch.pretrain(pretraining(tmp_path / "alone", seed=4))
    assert sorted(path.name for path in group.iterdir()) == ["config.yaml", "results.json", "seed-3", "seed-4"]
    assert (group / "seed-4" / WEIGHTS).read_bytes() == (tmp_path / "alone" / WEIGHTS).read_bytes()
    assert (group / "seed-3" / WEIGHTS).read_bytes() != (group / "seed-4" / WEIGHTS).read_bytes()
    assert run_stage(group / "seed-4") == "pretrain"


def test_summary_holds_every_run_and_the_spread_of_each_number(group: Path) -> None:
    found = read_seeds(group)
    runs = [read_results(group / f"seed-{seed}") for seed in (3, 4)]
    assert (found.seeds, found.runs) == ((3, 4), tuple(runs))
    assert {"held_out/loss", "psnr/network", "health/effective_rank", "seconds", "nonzeros"} <= set(found.spreads)
    psnr = found.spreads["psnr/network"]
    values = torch.tensor([run.ruler.psnr for run in runs if run.ruler is not None], dtype=torch.float64)
    assert psnr.values == tuple(values.tolist())
    assert psnr.mean == pytest.approx(values.mean().item())
    assert psnr.deviation == pytest.approx(values.std().item())
    half = 12.706204736 * values.std().item() / 2**0.5  # Student's t, one degree of freedom
    assert psnr.ci95 == pytest.approx((psnr.mean - half, psnr.mean + half))
    assert json.loads((group / "results.json").read_text())["schema_version"] == 2
    assert PretrainSeeds.model_validate_json((group / "results.json").read_text()) == found


def test_runs_of_a_group_share_a_wandb_group_and_have_names_and_artifacts_of_their_own(
    group: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = [json.loads((group / f"seed-{seed}/encoder/config.json").read_text())["retouch"] for seed in (3, 4)]
    assert [card["provenance"]["group"] for card in cards] == ["mine", "mine"]
    assert [card["provenance"]["artifact"] for card in cards] == ["encoder-mine-seed-3", "encoder-mine-seed-4"]
    assert "name: mine-seed-4" in (group / "seed-4" / "config.yaml").read_text()
    monkeypatch.setenv("WANDB_RUN_GROUP", "sweep")
    retouch.pretrain(pretraining(tmp_path / "other", seeds=SEEDS, steps=1))
    card = json.loads((tmp_path / "other/seed-3/encoder/config.json").read_text())["retouch"]
    assert card["provenance"]["group"] == "sweep"


def test_interrupted_group_goes_on_and_ends_like_one_never_interrupted(
    group: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out, steps = tmp_path / "cut", 0
    update = StepProgress.update

    def stop(self: StepProgress, *given: Any) -> None:
        nonlocal steps
        update(self, *given)
        steps += 1
        if steps == STEPS + 3:  # in the second run
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, caplog.at_level("INFO", "retouch"):
        patch.setattr(StepProgress, "waiting", True)
        patch.setattr(StepProgress, "update", stop)
        stopped = retouch.pretrain(pretraining(out, seeds=SEEDS))
    assert (stopped.encoder, stopped.seeds, stopped.training.finished) == (None, None, False)
    assert not (out / "results.json").exists()
    told = [line for line in caplog.messages if "to continue" in line]
    assert told == [f"to continue, run the same command with out={out} resume=true"]
    before = (out / "seed-3" / WEIGHTS).stat().st_mtime_ns
    caplog.clear()
    with caplog.at_level("INFO", "retouch"):
        retouch.pretrain(pretraining(out, seeds=SEEDS, resume=True))
    assert (out / "seed-3" / WEIGHTS).stat().st_mtime_ns == before  # not made again
    assert any("resumed from step" in line for line in caplog.messages)
    for seed in (3, 4):
        assert (out / f"seed-{seed}" / WEIGHTS).read_bytes() == (group / f"seed-{seed}" / WEIGHTS).read_bytes()
    assert read_seeds(out).seeds == (3, 4)


def test_seeds_can_be_added_to_a_group_but_nothing_else_may_change(group: Path, tmp_path: Path) -> None:
    group = shutil.copytree(group, tmp_path / "mine")
    with pytest.raises(UserError, match="base_lr: was"):
        retouch.pretrain(pretraining(group, seeds=SEEDS, resume=True, base_lr=0.01))
    kept = (group / "seed-4" / WEIGHTS).stat().st_mtime_ns
    found = retouch.pretrain(pretraining(group, seeds=3, resume=True))
    assert found.seeds is not None
    assert found.seeds.seeds == (3, 4, 5)
    assert (group / "seed-4" / WEIGHTS).stat().st_mtime_ns == kept


def test_nothing_is_lost_where_a_group_and_a_run_would_meet(group: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not empty"):
        retouch.pretrain(pretraining(group, seeds=SEEDS))
    with pytest.raises(UserError, match="a run of retouch pretrain with seeds"):
        retouch.pretrain(pretraining(group, overwrite=True))
    retouch.pretrain(pretraining(tmp_path / "one", steps=1))
    with pytest.raises(UserError, match="a run of retouch pretrain, and overwrite=true of retouch pretrain with seeds"):
        retouch.pretrain(pretraining(tmp_path / "one", seeds=SEEDS, overwrite=True))


def test_overwriting_a_group_removes_its_runs_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    retouch.pretrain(pretraining(out, seeds=SEEDS, steps=1))
    (out / "notes.txt").write_text("mine")
    retouch.pretrain(pretraining(out, seeds=SEEDS, seed=7, steps=1, overwrite=True))
    names = sorted(path.name for path in out.iterdir())
    assert names == ["config.yaml", "notes.txt", "results.json", "seed-7", "seed-8"]


def test_every_problem_of_all_runs_is_said_before_the_first_starts(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    (out / "seed-4").mkdir(parents=True)
    (out / "seed-4" / "mine.txt").write_text("not a run")
    wrong = {"source": str(tmp_path / "nowhere"), "image_size": 16}
    with pytest.raises(UserError) as found:
        retouch.pretrain(pretraining(out, seeds=SEEDS, data=wrong))
    said = str(found.value)
    assert "nowhere" in said
    assert "seed-4 is not empty" in said
    assert [path.name for path in out.iterdir()] == ["seed-4"]


def test_a_group_that_could_not_start_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")  # found when it is decoded
    with pytest.raises(UserError):
        retouch.pretrain(pretraining(tmp_path / "out", seeds=SEEDS, data=str(tmp_path / "pictures")))
    assert not (tmp_path / "out").exists()


def test_a_group_is_no_encoder_but_names_one(group: Path) -> None:
    with pytest.raises(UserError, match=r"give one of them, such as .*/seed-3"):
        load_encoder(group)


def test_seeds_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lower seed"):
        retouch.pretrain(pretraining(tmp_path / "out", seeds=2, seed=(1 << 32) - 1))
    with pytest.raises(UserError, match="seeds"):
        retouch.pretrain(pretraining(tmp_path / "out", seeds=0))
    with pytest.raises(UserError, match="seeds: fine-tuning runs with one seed"):
        retouch.finetune("seeds=3", "encoder=runs/mine")


def test_a_group_that_goes_on_has_no_summary_of_fewer_and_none_may_be_left_out(
    group: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = shutil.copytree(group, tmp_path / "mine")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 1)
        retouch.pretrain(pretraining(group, seeds=3, resume=True))
    with pytest.raises(UserError, match="have not all finished") as found:
        finished_runs(group)
    assert "resume=true seeds=3" in str(found.value)
    with pytest.raises(UserError, match="such as seed-5: to continue it, set seeds=3"):
        retouch.pretrain(pretraining(group, seeds=SEEDS, resume=True))


def test_runs_of_a_group_are_those_that_its_results_summarize(group: Path, tmp_path: Path) -> None:
    group = shutil.copytree(group, tmp_path / "mine")
    shutil.copytree(group / "seed-4", group / "seed-9")
    assert [run.name for run in finished_runs(group)] == ["seed-3", "seed-4"]
    shutil.rmtree(group / "seed-4")
    with pytest.raises(UserError, match=r"seed-4 is gone; put it back, or make it again: retouch pretrain .*config"):
        finished_runs(group)


def test_half_removed_runs_of_a_killed_overwriting_are_removed(group: Path, tmp_path: Path) -> None:
    group = shutil.copytree(group, tmp_path / "mine")
    (group / "seed-3").rename(group / ".seed-3.12345.old")
    retouch.pretrain(pretraining(group, seeds=SEEDS, steps=1, overwrite=True))
    assert sorted(path.name for path in group.iterdir()) == ["config.yaml", "results.json", "seed-3", "seed-4"]

"""Stages of one experiment share a W&B group by default, as its offline files show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.encoders.load import read_encoder_card
from retouch.cli import main
from tests.offline_wandb import history, offline_records

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {
    "pretrain": "pretrain/denoise.yaml",
    "probe": "probe/linear.yaml",
    "finetune": "finetune/full.yaml",
    "embed": "embed/embed.yaml",
}
SMALL = {
    "pretrain": ["steps=1", "batch_size=8", "data.limit=16", "encoder.model_args={width: 4, depth: 1}"],
    "probe": [
        *("data.limit=60", "data.test_limit=30", "data.task=color", "knn=null", "damage=[]", "properties=false"),
        *("baselines.random_init=false", "baselines.pixels=false", "probe.layers=[-1]", "probe.poolings=[avg]"),
        *("probe.l2=[0.01]", "null_check=false"),
    ],
    "finetune": [
        *("steps=1", "batch_size=8", "data.limit=60", "data.test_limit=30", "data.task=color"),
        *("compare.linear_probe=false", "compare.from_scratch=false"),
    ],
    "embed": ["data.limit=8"],
}


def run(stage: str, out: Path, *overrides: str) -> Any:
    """Run one stage with its shipped config, made small; returns its W&B run."""
    config = str(ROOT / "configs" / CONFIGS[stage])
    common = [f"out={out}", "wandb.mode=offline", "data.workers=0", "data.image_size=16", "precision=float32"]
    assert main([stage, config, *common, *SMALL[stage], *overrides]) == 0
    history(out)  # waits until the W&B process has written everything
    return offline_records(out, "run")[0]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "birds"
    assert run("pretrain", out).run_group == "birds"
    return out / "encoder"


@pytest.mark.parametrize("stage", ["probe", "finetune", "embed"])
def test_stage_joins_the_group_of_the_pretraining_of_its_encoder(pretrained: Path, tmp_path: Path, stage: str) -> None:
    told = run(stage, tmp_path / "out", f"encoder={pretrained}")
    assert (told.run_group, told.job_type) == ("birds", stage)
    # and records which encoder that was
    settings: dict[str, Any] = {}
    for record in [told, *offline_records(tmp_path / "out", "config")]:
        update = record.config.update if record is told else record.update
        settings |= {item.key: json.loads(item.value_json) for item in update}
    assert settings["encoder_sha256"] == read_encoder_card(pretrained).sha256
    assert settings["encoder_path"] == str(pretrained)


def test_a_fine_tuned_encoder_passes_the_group_on(pretrained: Path, tmp_path: Path) -> None:
    run("finetune", tmp_path / "tuned", f"encoder={pretrained}")
    card = read_encoder_card(tmp_path / "tuned" / "encoder")
    assert (card.provenance.group, card.provenance.artifact) == ("birds", "encoder-tuned")


@pytest.mark.usefixtures("few_strengths")
def test_the_baselines_of_fine_tuning_join_its_group(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"  # an encoder from outside of any experiment
    export_encoder(build_encoder(EncoderConfig(model_args={"width": 4, "depth": 1}), image_size=16), foreign)
    compared = ["compare.linear_probe=true", "compare.from_scratch=true"]
    assert run("finetune", tmp_path / "tuned", f"encoder={foreign}", *compared).run_group == "tuned"
    for name in ("linear_probe", "from_scratch"):
        history(tmp_path / "tuned" / name)
        assert offline_records(tmp_path / "tuned" / name, "run")[0].run_group == "tuned"


def test_a_given_group_is_used(pretrained: Path, tmp_path: Path) -> None:
    assert run("embed", tmp_path / "out", f"encoder={pretrained}", "wandb.group=other").run_group == "other"

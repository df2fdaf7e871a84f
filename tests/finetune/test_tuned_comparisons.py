"""Fine-tuning next to what it is compared with: its linear probe, and training from scratch."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from common.data import build_source, load_images
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.encoders.load import load_encoder
from common.recipes import stage_config
from finetune.baselines import untrained
from finetune.config import ProbeConfig
from finetune.lines import finetune_lines
from finetune.probe import probe
from finetune.records import NullCheck
from finetune.results import FinetuneResult, ProbeReport, read_results
from finetune.table import results_table
from tests.finetune.tuning import config, exported, finetune


@pytest.mark.usefixtures("few_strengths")
def test_it_learns_and_is_reported_with_its_linear_probe_and_from_scratch(tmp_path: Path) -> None:
    comparison = {"linear_probe": True, "from_scratch": True}
    start = exported(tmp_path / "encoder", EncoderConfig(model_args={"width": 16, "depth": 1}))
    run = config(tmp_path / "run", encoder=start, steps=60, evaluate_every=20, base_lr=0.05, compare=comparison)
    result = finetune(run)
    assert result.tuned.choice.val_accuracy > 0.3  # of 8 colors
    assert result.linear_probe is not None
    assert result.from_scratch is not None
    for baseline in (result.linear_probe, result.from_scratch):
        low, high = baseline.test.ci95
        assert low <= baseline.test.accuracy <= high
        assert baseline.test.n == 80
    scratch = read_results(run.out / "from_scratch")
    assert isinstance(scratch, FinetuneResult)
    assert result.from_scratch == scratch.tuned
    probed = read_results(run.out / "linear_probe")
    assert isinstance(probed, ProbeReport)
    assert probed.results[0].code is None  # only the accuracy is compared: code properties are not measured here
    assert result.linear_probe.model_copy(update={"compared": {}}) == probed.results[0].linear
    console = Console(file=io.StringIO(), width=100)
    console.print(results_table(finetune_lines(result)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    linear = result.linear_probe
    for expected in (
        "[95% interval]",
        linear.choice.how,
        "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * x for x in (linear.test.accuracy, *linear.test.ci95))),
    ):
        assert expected in text


@pytest.mark.usefixtures("few_strengths")
def test_its_linear_probe_is_that_of_the_probe_stage(tmp_path: Path) -> None:
    start = exported(tmp_path / "encoder", EncoderConfig(model_args={"width": 8, "depth": 1}))
    folder = tmp_path / "pictures"
    for number, name in enumerate("abcd"):  # with fewer classes, labels at random are tried more than once
        for row in range(30):
            noise = np.random.default_rng([number, row]).integers(0, 200, (20, 20, 3)) + 12 * number
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.astype(np.uint8)).save(folder / name / f"{row}.png")
    data = {"train": f"folder:{folder}", "limit": 80, "test_limit": 20, "image_size": 24, "workers": 0}
    comparison = {"linear_probe": True, "from_scratch": False}
    run = config(tmp_path / "run", encoder=start, seed=5, data=data, validation=0.3, steps=1, compare=comparison)
    found = finetune(run)
    quick = ["knn=null", "damage=[]", "properties=false", "baselines.random_init=false", "baselines.pixels=false"]
    typed = [f"out={tmp_path}/probe", f"encoder={start}", "seed=5", "precision=float32", "wandb.mode=disabled", *quick]
    chosen = [f"data.{key}={value}" for key, value in {**data, "task": "null"}.items()]
    [alone] = probe(stage_config(ProbeConfig, "linear", [*typed, *chosen])).results
    assert found.linear_probe is not None
    assert found.linear_probe.model_copy(update={"seconds": alone.linear.seconds}) == alone.linear
    assert (found.data, found.classes) == (alone.data, alone.classes)
    assert found.linear_probe_protocol == alone.protocol
    assert found.checks is not None
    assert alone.checks is not None
    assert found.checks.null == alone.checks.null
    assert found.checks.null is not None
    assert (found.checks.frozen, found.checks.missing) == (None, {"frozen": "the network is trained"})
    assert "5-fold cross-validation of the training images (stratified, seed 5" in alone.protocol


@pytest.mark.usefixtures("few_strengths")
def test_a_linear_probe_that_knows_random_labels_or_changes_its_encoder_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alarm = NullCheck(accuracy=0.9, chance=0.125, ci95=(0.8, 1.0), p_value=1e-9, images=200, repetitions=1)
    monkeypatch.setattr("finetune.kinds.classes.check_null", lambda *given: alarm)
    changing = iter("ab")
    monkeypatch.setattr("finetune.probe.state_digests", lambda encoders: next(changing))
    start = exported(tmp_path / "encoder", EncoderConfig(model_args={"width": 4, "depth": 1}))
    comparison = {"linear_probe": True, "from_scratch": False}
    data = {"train": "shapes", "task": "color", "limit": 60, "test_limit": 20, "workers": 0}
    found = finetune(config(tmp_path / "run", encoder=start, steps=1, data=data, compare=comparison))
    assert found.checks is not None
    assert (found.checks.frozen, found.checks.null) == (False, alarm)
    assert any("changed while it was measured" in note for note in found.notes)
    assert any("the accuracy of the linear probe is 90.0%" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "args", "statistic"),
    [("mlp", {"hidden": [8], "code": 4}, "centre"), ("small_cnn", {"width": 8}, "blocks.0.1.running_mean")],
)
def test_training_from_scratch_starts_with_the_statistics_of_the_probes_untrained_twin(
    name: str, args: dict[str, Any], statistic: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(name=name, model_args=args), image_size=16)
    encoder.get_buffer(statistic).copy_(torch.rand_like(encoder.get_buffer(statistic)))
    export_encoder(encoder, tmp_path / "encoder")
    start = {"path": tmp_path / "encoder", "from_scratch": True}
    finetune(config(tmp_path / "run", encoder=start, steps=1, base_lr=1e-12, ema=0))
    images = load_images(build_source("shapes"), 16, limit=200)
    twin = untrained(tmp_path / "encoder", 0, images, torch.device("cpu"))
    found = load_encoder(tmp_path / "run" / "encoder").get_buffer(statistic)
    # a step moves the running mean by a tenth towards one batch; a fresh one would be a tenth of it
    torch.testing.assert_close(found, twin.get_buffer(statistic), rtol=0.2, atol=0.05)
    assert found.abs().max() > 0.2

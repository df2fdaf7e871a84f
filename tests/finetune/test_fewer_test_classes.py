"""A test set without images of a class: what there is, is measured, with every label where training has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from finetune.config import FinetuneConfig, ProbeConfig
from finetune.full import finetune
from finetune.lines import probe_lines
from finetune.probe import probe
from finetune.results import Score
from finetune.table import results_markdown

COLORS = {"blue": (20, 20, 200), "green": (20, 200, 20), "red": (200, 20, 20)}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, training pictures of three colors, and test pictures of the last two."""
    root = tmp_path_factory.mktemp("colors")
    torch.manual_seed(0)
    export_encoder(build_encoder(EncoderConfig(model_args={"width": 8, "depth": 1}), image_size=16), root / "encoder")
    for split, names, count in (("train", COLORS, 12), ("test", ["green", "red"], 4)):
        for name in names:
            for number in range(count):
                noise = np.random.default_rng([number, len(split)]).integers(0, 40, (16, 16, 3))
                path = root / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((np.array(COLORS[name]) + noise).astype(np.uint8)).save(path)
    return root


def settings(here: Path, out: Path, **more: Any) -> dict[str, Any]:
    data = {"train": f"folder:{here}/train", "test": f"folder:{here}/test", "workers": 0}
    return {"out": out, "encoder": here / "encoder", "data": data, "wandb": {"mode": "disabled"}, **more}


def check(found: Score) -> None:
    """Every picture of green and red is in its own row and column, and blue has none."""
    assert found.confusion == ((0, 0, 0), (0, 4, 0), (0, 0, 4))
    assert found.per_class == (None, 1.0, 1.0)
    assert (found.accuracy, found.n) == (1.0, 8)


def test_a_probe_measures_the_classes_there_are(here: Path, tmp_path: Path) -> None:
    short = {"probe": {"l2": [1e-2], "layers": ["all"], "poolings": ["avg"]}, "knn": {"k": [3]}, "properties": False}
    short |= {"damage": [{"kind": "gaussian", "sigma": 0.01}], "null_check": False}
    report = probe(ProbeConfig.model_validate(settings(here, tmp_path / "run", **short)))
    [result] = report.results
    assert result.classes == ("blue", "green", "red")
    for one in result.subjects["encoder"].probes.values():
        check(one.test)
    check(result.linear.damaged["gaussian sigma=0.01"])
    assert "100.0" in results_markdown(probe_lines(report.results))


@pytest.mark.usefixtures("few_strengths")
def test_fine_tuning_measures_the_classes_there_are(here: Path, tmp_path: Path) -> None:
    training = {"steps": 40, "batch_size": 16, "base_lr": 0.02, "ema": 0.0, "evaluate_every": 40}
    compare = {"linear_probe": True, "from_scratch": False}
    result = finetune(FinetuneConfig.model_validate(settings(here, tmp_path / "run", compare=compare, **training)))
    assert result is not None
    assert result.classes == ("blue", "green", "red")
    check(result.tuned.test)
    assert result.linear_probe is not None
    check(result.linear_probe.test)

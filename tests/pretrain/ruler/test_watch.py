"""The accuracy that is watched while an encoder learns: what it is, on which images, and that it changes no weight."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.linear_model import RidgeClassifier
from torch import Tensor

import retouch
from common.errors import UserError
from finetune.data import LabeledData, open_sources
from pretrain.ruler.watch import STRENGTHS, Watch, WatchConfig, open_watched, ridge_accuracies
from tests.recipe import pretraining


def test_accuracy_is_that_of_leaving_out_one_image_at_a_time() -> None:
    generator = torch.Generator().manual_seed(0)
    labels, others = torch.arange(30) % 3, (torch.arange(30) > 20).long()
    matrix = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    matrix[:, :3] += torch.nn.functional.one_hot(labels, 3)
    standard = ((matrix - matrix.mean(0)) / matrix.std(0, correction=0)).numpy()

    def right(strength: float, labels: Tensor) -> float:
        kept = [np.arange(30) != row for row in range(30)]
        fits = [RidgeClassifier(strength).fit(standard[rows], labels.numpy()[rows]) for rows in kept]
        found = [fit.predict(standard[[row]])[0] == labels[row].item() for row, fit in enumerate(fits)]
        return float(np.mean(found))

    found = ridge_accuracies(matrix, {"first": labels, "second": others})
    for task, values in (("first", labels), ("second", others)):
        expected = max(right(strength, values) for strength in STRENGTHS)
        assert 1 / 3 < expected < 1
        # standardized once, on all images, so one image more or less may fall on the other side
        assert found[task] == pytest.approx(expected, abs=1.01 / 30)


def test_constant_features_do_no_harm() -> None:
    labels = torch.arange(20) % 2
    matrix = torch.stack([labels.double(), torch.full((20,), 7.0, dtype=torch.float64)], 1)
    assert ridge_accuracies(matrix, {"one": labels}) == {"one": 1.0}


def pictures(folder: Path, classes: int = 2, each: int = 10) -> str:
    for number in range(classes * each):
        file = folder / f"class{number % classes}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (12 * number % 256, 100, 40)).save(file)
    return str(folder)


@pytest.mark.parametrize("seed", [0, 1])
def test_images_that_a_probe_would_test_on_are_not_watched(tmp_path: Path, seed: int) -> None:
    spec = pictures(tmp_path / "labeled")
    watched = open_watched(WatchConfig(data=spec), root=None, seed=seed).source
    probed = open_sources(LabeledData(train=spec), seed)
    assert {watched.where(row) for row in range(len(watched))} == {
        probed.train.where(row) for row in range(len(probed.train))
    }
    assert len(probed.test)


def test_it_is_logged_and_changes_no_weight(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labeled = pictures(tmp_path / "labeled")
    settings = {"panels_every": 4, "steps": 8}
    retouch.pretrain(pretraining(tmp_path / "plain", **settings))
    assert "watch" not in caplog.text
    retouch.pretrain(pretraining(tmp_path / "watched", **settings, watch=labeled))
    lines = [json.loads(line) for line in (tmp_path / "watched" / "metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: line["watch/label"] for line in lines if "watch/label" in line}
    assert list(found) == [4, 8]
    assert all(0 <= value <= 1 for value in found.values())
    assert f"step 8: watch on 16 labeled training images: label {found[8]:.1%} (untrained " in caplog.text
    plain, other = (load_file(tmp_path / name / "encoder/model.safetensors") for name in ("plain", "watched"))
    assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_watched_images_have_the_levels_of_training_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        deep = np.random.default_rng(number).integers(0, 4096, (16, 16)).astype(np.uint16)
        for folder, values in (("training", deep << 2), (f"labeled/class{number % 2}", deep)):
            (tmp_path / folder).mkdir(exist_ok=True, parents=True)
            Image.fromarray(values).save(tmp_path / folder / f"{number:02}.png")
    seen: list[Tensor] = []
    shown = Watch.show
    monkeypatch.setattr(Watch, "show", lambda self, step: seen.append(self.images) or shown(self, step))
    data = {"source": f"folder:{tmp_path / 'training'}", "image_size": 16, "workers": 0}
    retouch.pretrain(pretraining(tmp_path / "run", data=data, watch=str(tmp_path / "labeled"), panels_every=2, steps=2))
    assert 56 <= seen[0].max() < 64  # of 14 bits, as training images: 4095 >> 6


def test_all_tasks_are_watched_unless_one_is_named(tmp_path: Path) -> None:
    assert open_watched(WatchConfig(data="shapes"), root=None, seed=0).tasks == ("shape", "color", "texture")
    assert open_watched(WatchConfig(data="shapes", task="color"), root=None, seed=0).tasks == ("color",)


def test_mistakes_are_found_before_anything_is_written(tmp_path: Path) -> None:
    alone = pictures(tmp_path / "alone", classes=1)
    for watch, message in (
        ({"data": alone}, "all images have the same class; at least two classes are needed"),
        ({"data": str(tmp_path / "nowhere")}, "nowhere"),
        ({"data": "shapes", "task": "size"}, "size"),
    ):
        with pytest.raises(UserError, match=message):
            retouch.pretrain(pretraining(tmp_path / "run", watch=watch))
    with pytest.raises(UserError, match="remove watch"):
        retouch.pretrain({"fit": {"kind": "tca"}, "data": {"source": "shapes", "other": "shapes"}, "watch": "shapes"})
    assert not (tmp_path / "run").exists()

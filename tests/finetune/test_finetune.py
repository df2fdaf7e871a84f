"""Fine-tuning: the same loop, chosen on validation, tested once, opened by plain timm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from common.artifact import export_encoder, load_classifier, load_encoder
from common.data import build_source, load_images
from common.encoders import Classifier, EncoderConfig, build_encoder
from common.errors import UserError
from common.images import to_float
from finetune.config import FinetuneConfig
from finetune.finetune import Supervised, decayed_groups, finetune


def exported(folder: Path, config: EncoderConfig | None = None, image_size: int = 16) -> Path:
    torch.manual_seed(0)
    config = config or EncoderConfig(model_args={"width": 8})
    export_encoder(build_encoder(config, image_size=image_size), folder, {})
    return folder


def config(out: Path, **changes: Any) -> FinetuneConfig:
    values: dict[str, Any] = {
        "out": out,
        "steps": 6,
        "batch_size": 16,
        "base_lr": 0.01,
        "precision": "float32",
        "data": {"train": "shapes", "task": "color", "limit": 200, "test_limit": 80, "workers": 0},
        "evaluate_every": 2,
        "compare": {"linear_probe": False, "from_scratch": False},
        "wandb": {"mode": "disabled"},
    }
    return FinetuneConfig.model_validate(values | changes)


def test_result_is_that_of_the_exported_classifier_on_the_test_set(tmp_path: Path) -> None:
    run = config(tmp_path / "run", encoder=exported(tmp_path / "encoder"))
    result = finetune(run)
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == result
    classifier = load_classifier(tmp_path / "run" / "classifier")
    images = load_images(build_source("shapes", split="test"), 16, limit=80)
    labels = images.labels("color").values
    with torch.inference_mode():
        answers = classifier(to_float(images.rows(torch.arange(80)))).argmax(1)
    assert result["test_accuracy"] == pytest.approx(float((answers == labels).double().mean()))
    assert (result["n_train"], result["n_val"], result["n_test"]) == (180, 20, 80)
    assert result["best_step"] in (2, 4, 6)
    assert sum(map(sum, result["confusion"])) == 80


def test_it_learns_and_stands_beside_its_linear_probe_and_from_scratch(tmp_path: Path) -> None:
    comparison = {"linear_probe": True, "from_scratch": True}
    start = exported(tmp_path / "encoder", EncoderConfig(model_args={"width": 16}))
    run = config(tmp_path / "run", encoder=start, steps=60, evaluate_every=20, base_lr=0.05, compare=comparison)
    result = finetune(run)
    assert result["val_accuracy"] > 0.3  # of 8 colours
    assert result["baselines"].keys() == {"linear_probe", "from_scratch"}
    for baseline in result["baselines"].values():
        low, high = baseline["ci95"]
        assert low <= baseline["test_accuracy"] <= high
        assert baseline["n_test"] == 80
    # one number is compared: what else a code is good for is not measured here
    probed = json.loads((run.out / "linear_probe" / "results.json").read_text())
    assert "purposes" not in probed["results"][0]


def test_fine_tuned_timm_model_opens_in_plain_timm_with_the_same_logits(tmp_path: Path) -> None:
    start = exported(tmp_path / "encoder", EncoderConfig(name="timm/test_convnext"), image_size=32)
    finetune(config(tmp_path / "run", encoder=start, steps=2))
    ours = load_classifier(tmp_path / "run" / "classifier")
    plain = timm.create_model(f"local-dir:{tmp_path / 'run' / 'classifier'}", pretrained=True).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(plain(ours.encoder.prepare(images)), ours(images), atol=1e-5)


def test_encoder_trained_by_labels_can_be_probed_like_any_other(tmp_path: Path) -> None:
    scratch = {"name": "small_cnn", "model_args": {"width": 8}, "from_scratch": True, "image_size": 16}
    finetune(config(tmp_path / "run", encoder=scratch, steps=2))
    encoder = load_encoder(tmp_path / "run" / "encoder")
    assert encoder(torch.rand(1, 3, 16, 16)).shape == (1, *encoder.map_shape)


def test_each_layer_learns_slower_than_the_one_after_it(tmp_path: Path) -> None:
    encoder = build_encoder(EncoderConfig(model_args={"width": 8, "depth": 1}), image_size=16)
    model = Supervised(Classifier(encoder, ["a", "b"]), 0.0)
    groups = decayed_groups(model, config(tmp_path, encoder=tmp_path / "none", layer_decay=0.5))
    names = {parameter: name for name, parameter in model.classifier.named_parameters()}
    scales: dict[str, float] = {}
    for group in groups:
        for parameter in group["params"]:
            scales[names[parameter]] = group["lr_scale"]
            assert (group["weight_decay"] > 0) == (parameter.ndim >= 2)
    assert scales.keys() == {name for name, p in model.classifier.named_parameters() if p.requires_grad}
    first, deepest = scales["encoder.blocks.0.0.weight"], max(scales.values())
    assert deepest == 1.0
    assert first == min(scales.values()) == 0.5 ** (len(set(scales.values())) - 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": {}}, "give encoder=PATH of an exported encoder, or encoder.from_scratch=true"),
        ({"encoder": "e", "data": {"task": ["shape", "color"]}}, "fine-tuning learns one task at a time"),
    ],
    ids=["no-start", "two-tasks"],
)
def test_config_that_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_problems_of_encoder_and_data_come_together_and_nothing_is_written(tmp_path: Path) -> None:
    run = config(tmp_path / "run", encoder=tmp_path / "none", data={"train": "folder:nowhere"})
    with pytest.raises(UserError) as caught:
        finetune(run)
    assert len(caught.value.problems) == 2
    assert not (tmp_path / "run").exists()

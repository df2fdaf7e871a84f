"""The fine-tuning stage follows its recipe: several steps of it, against the recipe written out by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import retouch
from common.augment import AugmentConfig
from common.data import build_source, load_images, stratified_split
from common.encoders import Classifier, EncoderConfig, build_encoder
from common.encoders.load import load_classifier
from common.engine.schedule import seed_step
from common.pixels import to_float
from tests.recipe import (
    AUGMENT,
    BATCH,
    CHANGES,
    CLIP,
    EMA,
    NETWORK,
    RECIPE,
    SIDE,
    STEPS,
    ByHand,
    assert_close,
    assert_felt,
    last_checkpoint,
    logged,
    rows_of_batch,
)

IMAGES, SMOOTHING, DECAY, EVERY = 160, 0.3, 0.5, 1


def finetuning(out: Path, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "out": str(out),
        "encoder": {**NETWORK, "from_scratch": True, "image_size": SIDE},
        "data": {"train": "shapes", "task": "color", "limit": IMAGES, "test_limit": 40, "workers": 0},
        "layer_decay": DECAY,
        "label_smoothing": SMOOTHING,
        "validation": 0.3,
        "evaluate_every": EVERY,
    }
    return RECIPE | values | changes


def scale(name: str) -> float:
    """The factor of a parameter's rate, by its depth: three convolutions, then the classifier."""
    depth = next((k for k in range(3) if name.startswith(f"encoder.blocks.{k}.")), 3)
    return float(DECAY ** (3 - depth))


def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy against ``1 - ε`` on the label and ``ε / K`` on every class."""
    shares = logits - logits.exp().sum(1, keepdim=True).log()
    target = torch.full_like(shares, SMOOTHING / shares.shape[1])
    target[torch.arange(len(labels)), labels] += 1 - SMOOTHING
    return -(target * shares).sum(1).mean()


def test_steps_are_those_of_plain_adamw_with_layer_decay_and_label_smoothing(tmp_path: Path) -> None:
    retouch.finetune(finetuning(tmp_path / "run"))

    # the same by hand
    images = load_images(build_source("shapes"), SIDE, limit=IMAGES)
    pixels, labels = images.rows(torch.arange(IMAGES)), images.labels("color")
    fit, held = stratified_split(labels.values, 0.3, 3)
    seed_step(3, 0)
    encoder = build_encoder(EncoderConfig.model_validate(NETWORK), image_size=SIDE)
    seed_step(3, 1)
    reference = ByHand(Classifier(encoder, labels.names).train(), EMA, scale)
    augment = AugmentConfig.model_validate(AUGMENT)
    losses, looks, weights = [], [], []
    for step in range(STEPS):
        rows = fit[rows_of_batch(3, len(fit), BATCH, step)]
        seed_step(3, step, 0, 0)
        loss = smoothed(reference.model(augment(pixels[rows])), labels.values[rows])
        reference.step(step, [loss])
        losses.append(loss.item())
        # the averaged weights are evaluated, in eval mode
        averaged = copy.deepcopy(reference.model).eval()
        averaged.load_state_dict(averaged.state_dict() | reference.averages)
        with torch.no_grad():
            answers = averaged(to_float(pixels[held])).argmax(1)
        looks.append(float((answers == labels.values[held]).double().mean()))
        weights.append(averaged.state_dict())

    lines = logged(tmp_path / "run")
    steps = [row for row in lines if "loss" in row]
    assert [row["loss"] for row in steps] == pytest.approx(losses, rel=1e-4)
    assert [row["grad_norm"] for row in steps] == pytest.approx(reference.norms, rel=1e-3)
    assert max(reference.norms) > CLIP
    live = load_file(last_checkpoint(tmp_path / "run") / "model.safetensors")
    assert_close(
        {name.removeprefix("classifier."): value for name, value in live.items()}, reference.model.state_dict()
    )

    # the step that validation likes best is kept; the first of equals
    assert [row["val/accuracy"] for row in lines if "val/accuracy" in row] == pytest.approx(looks)
    best = looks.index(max(looks))
    assert 0 < best < STEPS - 1
    assert_close(load_classifier(tmp_path / "run" / "classifier").state_dict(), weights[best])


def test_from_scratch_is_the_same_recipe_at_one_rate_for_all_layers(tmp_path: Path) -> None:
    """Nothing in a random network deserves a lower rate; everything else of the recipe stays."""
    retouch.finetune(finetuning(tmp_path / "first", steps=2))
    start = {"path": str(tmp_path / "first" / "encoder")}
    settings = {"steps": 4, "layer_decay": 0.5}
    compare = {"linear_probe": False, "from_scratch": True}
    retouch.finetune(finetuning(tmp_path / "run", encoder=start, compare=compare, **settings))
    by_hand = {**settings, "layer_decay": 1.0, "encoder": {**start, "from_scratch": True}}
    retouch.finetune(finetuning(tmp_path / "alone", **by_hand))
    beside, alone = (
        load_file(folder / "classifier" / "model.safetensors")
        for folder in (tmp_path / "run" / "from_scratch", tmp_path / "alone")
    )
    assert beside.keys() == alone.keys()
    for name, tensor in alone.items():
        assert torch.equal(beside[name], tensor), name
    assert logged(tmp_path / "run" / "from_scratch") == logged(tmp_path / "alone")


OWN: dict[str, dict[str, Any]] = {
    "layer_decay": {"layer_decay": 0.9},
    "label_smoothing": {"label_smoothing": 0.0},
    "accumulate": {"accumulate": 2},
}


def test_every_setting_of_the_recipe_is_felt_in_the_weights() -> None:
    few = {"steps": 3, "evaluate_every": 3}
    assert_felt(lambda out, change: retouch.finetune(finetuning(out, **{**few, **change})), CHANGES | OWN)

"""The pretraining stage follows its recipe: several steps of it, against the recipe written out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import retouch
from common.augment import AugmentConfig
from common.data import build_source, load_images
from common.encoders import EncoderConfig, build_encoder
from common.engine.schedule import seed_step
from pretrain.gradient.decoders import DecoderConfig
from pretrain.gradient.objective import Objective
from pretrain.gradient.pretexts import Denoise
from tests.recipe import (
    AUGMENT,
    BASE_LR,
    BATCH,
    CHANGES,
    CLIP,
    EMA,
    IMAGES,
    NETWORK,
    OPTIM,
    SIDE,
    STEPS,
    ByHand,
    assert_close,
    assert_felt,
    last_checkpoint,
    logged,
    pretraining,
    rate_by_hand,
    rows_of_batch,
)


def by_hand(parts: int) -> tuple[ByHand, list[float]]:
    """The same training with the objective's losses and seeds, and nothing else of the engine; and its losses."""
    images = load_images(build_source("shapes"), SIDE, limit=IMAGES).rows(torch.arange(IMAGES))
    seed_step(3, 0)
    encoder = build_encoder(EncoderConfig.model_validate(NETWORK), image_size=SIDE)
    augment = AugmentConfig.model_validate(AUGMENT)
    reference = ByHand(Objective(encoder, DecoderConfig(kind="upsampler"), Denoise(), augment=augment).train(), EMA)
    means: list[float] = []
    for step in range(STEPS):
        batch = images[rows_of_batch(3, IMAGES, BATCH, step)]
        values: list[float] = []

        def losses(batch: Tensor = batch, values: list[float] = values, step: int = step) -> Iterator[Tensor]:
            for number, part in enumerate(batch.chunk(parts)):
                seed_step(3, step, 0, number)
                loss = reference.model(part)["restore"]
                values.append(loss.item())
                yield loss

        reference.step(step, losses(), parts)
        means.append(sum(values) / parts)
    return reference, means


@pytest.mark.parametrize("parts", [1, 2], ids=["whole", "accumulated"])
def test_steps_are_those_of_plain_adamw_with_warmup_cosine_clipping_and_averages(tmp_path: Path, parts: int) -> None:
    retouch.pretrain(pretraining(tmp_path / "run", accumulate=parts))
    reference, losses = by_hand(parts)
    saved = {group: load_file(last_checkpoint(tmp_path / "run") / f"{group}.safetensors") for group in ("model", "ema")}
    assert_close(saved["model"], reference.model.state_dict())
    assert_close(saved["ema"], reference.averages)

    # the averaged weights are exported
    exported = retouch.load_encoder(tmp_path / "run" / "encoder").state_dict()
    averages = {name: reference.averages.get(f"encoder.{name}", tensor) for name, tensor in exported.items()}
    assert_close(exported, averages)
    live = reference.model.state_dict()["encoder.blocks.0.0.weight"]
    assert (exported["blocks.0.0.weight"] - live).abs().max() > 1e-4

    # the log matches the training
    rows = logged(tmp_path / "run")
    peak, warm = BASE_LR * BATCH / 256, 2
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["lr"] for row in rows] == pytest.approx([rate_by_hand(t, STEPS, warm, peak) for t in range(STEPS)])
    assert [row["loss"] for row in rows] == pytest.approx(losses, rel=1e-4)
    assert [row["grad_norm"] for row in rows] == pytest.approx(reference.norms, rel=1e-3)
    assert min(reference.norms) < CLIP < max(reference.norms)  # some steps are clipped


SPARSE: dict[str, Any] = {
    "encoder": {"model_args": {"width": 8, "depth": 1, "code_channels": 8, "rectify": True}},
    "decoder": {"kind": "linear"},
    "optim": {**OPTIM, "weight_decay": 0.0},
}
OWN: dict[str, dict[str, Any]] = {
    "crop": {"augment": {"crop": [0.5, 0.5], "flip": False}},
    "jitter": {"augment": {"crop": None, "flip": False, "jitter": 0.5}},
    "corruption": {"pretext": {"kind": "denoise", "corruption": {"kind": "blur"}}},
    "distance": {"pretext": {"kind": "denoise", "distance": "l1"}},
    "code": SPARSE,
    "l1": {**SPARSE, "penalty": {"l1": 0.1}},
    "decoder": {"decoder": {"kind": "unet"}},
}


def test_every_setting_of_the_recipe_is_felt_in_the_weights() -> None:
    assert_felt(lambda out, change: retouch.pretrain(pretraining(out, **{"steps": 3, **change})), CHANGES | OWN)


@pytest.mark.parametrize(("kind", "view"), [("denoise", "rgb"), ("colorize", "gray")])
def test_export_sees_at_transfer_what_it_saw_when_it_learned(tmp_path: Path, kind: str, view: str) -> None:
    pretext = {"kind": kind, "bins": 8} if kind == "colorize" else {"kind": kind}
    retouch.pretrain(pretraining(tmp_path / "run", steps=2, pretext=pretext))
    encoder = retouch.load_encoder(tmp_path / "run" / "encoder")
    assert encoder.view == view
    images = torch.rand(2, 3, SIDE, SIDE)
    gray = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True).expand_as(images)
    with torch.inference_mode():
        assert torch.allclose(encoder(images), encoder(gray), atol=1e-5) == (view == "gray")

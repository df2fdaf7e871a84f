"""``retouch.fit`` with a recipe: what the stage learns from the same images, without a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import retouch
from common.data.memory import images_in_memory
from common.recipes import stage_config
from pretrain.config import PretrainConfig
from pretrain.run import pretrain
from tests.toys import noise_images

IMAGES = noise_images(120, 16).rows(torch.arange(120)).float() / 255
SMALL = {"steps": 3, "batch_size": 16, "encoder": {"model_args": {"width": 8, "depth": 1}}, "precision": "float32"}


@pytest.mark.parametrize("pretext", ["denoise", "colorize", "mask"])
def test_it_gives_the_encoder_of_the_stage(pretext: str, tmp_path: Path) -> None:
    side = {"image_size": IMAGES.shape[3], "workers": 0}
    settings: dict[str, Any] = {**SMALL, "pretext": {"kind": pretext}, "seed": 4, "data": side}
    stage = {**settings, "out": str(tmp_path / "run"), "wandb": {"mode": "disabled"}}
    pretrain(stage_config(PretrainConfig, stage), images_in_memory(IMAGES))
    ours = retouch.load_encoder(tmp_path / "run").state_dict()

    torch.manual_seed(5)
    state = torch.get_rng_state()
    encoder = retouch.fit(settings, IMAGES)
    assert torch.equal(torch.get_rng_state(), state)
    assert not encoder.training
    found = encoder.state_dict()
    assert found.keys() == ours.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in ours.items())


def test_a_recipe_is_known_by_name_and_its_length_can_be_changed() -> None:
    def fitted(steps: int, seed: int) -> torch.Tensor:
        return retouch.fit("denoise_demo", IMAGES, batch_size=16, steps=steps, seed=seed).encode(IMAGES[:4])

    codes = fitted(2, 0)
    assert codes.shape == (4, 128)
    assert torch.equal(codes, fitted(2, 0))
    assert not torch.equal(codes, fitted(3, 0))
    assert not torch.equal(codes, fitted(2, 1))


def test_mistakes_are_named_together() -> None:
    with pytest.raises(retouch.UserError, match=r"images must be floating-point RGB in \[0, 1\]"):
        retouch.fit("denoise", IMAGES * 255)
    with pytest.raises(retouch.UserError, match=r"pretext\.kind=denoise does not use other: remove it"):
        retouch.fit("denoise", IMAGES, IMAGES)
    with pytest.raises(retouch.UserError, match="did you mean 'steps'"):
        retouch.fit({"stepz": 3}, IMAGES)

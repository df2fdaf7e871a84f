"""``data.levels`` reaches the images that are trained on, and the encoder's provenance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import retouch
from common.encoders.load import read_encoder_card
from tests.recipe import pretraining


def test_levels_of_deep_images_can_be_set(tmp_path: Path) -> None:
    for number in range(20):
        deep = np.random.default_rng(number).integers(0, 4096, (16, 16)).astype(np.uint16)
        for folder, values in (("deep", deep), ("shifted", (deep >> 6).astype(np.uint8))):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / folder / f"{number:02}.png")
    found = {}
    for name, levels in (("deep", [0, 16383]), ("shifted", None)):
        data = {"source": f"folder:{tmp_path}/{name}", "image_size": 16, "workers": 0, "levels": levels}
        run = retouch.pretrain(pretraining(tmp_path / "runs" / name, data=data, steps=2))
        assert run.encoder is not None
        assert read_encoder_card(run.encoder).provenance.levels == (None if levels is None else tuple(levels))
        found[name] = (run.encoder / "model.safetensors").read_bytes()
    assert found["deep"] == found["shifted"]


def test_the_second_domain_has_the_levels_of_the_first(tmp_path: Path) -> None:
    """As images of transfer will have them; by its own, 10 bits, it would be four times as bright."""
    for number in range(20):
        for domain, most in (("first", 4096), ("second", 1000)):
            deep = np.random.default_rng(number).integers(0, most, (16, 16)).astype(np.uint16)
            for kind, values in (("deep", deep), ("bytes", (deep >> 4).astype(np.uint8))):
                (tmp_path / kind / domain).mkdir(exist_ok=True, parents=True)
                Image.fromarray(values).save(tmp_path / kind / domain / f"{number:02}.png")
    weights = []
    for kind in ("deep", "bytes"):
        data = {"source": f"folder:{tmp_path}/{kind}/first", "other": f"folder:{tmp_path}/{kind}/second"}
        run = retouch.pretrain(
            {
                "out": str(tmp_path / "runs" / kind),
                "data": data | {"image_size": 16, "workers": 0},
                "fit": {"kind": "tca", "components": 4, "landmarks": 10},
                "wandb": {"mode": "disabled"},
            }
        )
        assert run.encoder is not None
        weights.append((run.encoder / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]

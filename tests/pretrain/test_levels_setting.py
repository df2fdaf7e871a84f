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

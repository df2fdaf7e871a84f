"""Small images with masks, and the settings of a probe of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.encoders.provenance import Provenance
from finetune.config import ProbeConfig
from finetune.dense.data import MaskedImages, load_masked, open_masked
from finetune.features import Extraction

SIZE = 16
HOW = Extraction(torch.device("cpu"), torch.float32, 8, 0)


def pictures(folder: Path, n: int, seed: int, names: Sequence[str] = ("0", "1", "2")) -> None:
    """Gray noise with a red and a blue rectangle, and masks that say which is which; a frame of 255 is ignored."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    random = np.random.default_rng(seed)
    for number in range(n):
        pixels = random.integers(90, 160, (SIZE, SIZE + 4, 3))
        mask = np.zeros((SIZE, SIZE + 4), np.uint8)
        for value, channel in ((1, 0), (2, 2)):
            top, left = random.integers(0, 9, 2)
            pixels[top : top + 7, left : left + 7] = 30
            pixels[top : top + 7, left : left + 7, channel] = random.integers(180, 256)
            mask[top : top + 7, left : left + 7] = value
        mask[:, :3] = 255
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")


def exported(folder: Path) -> None:
    """An untrained encoder."""
    torch.manual_seed(0)
    small = EncoderConfig(name="small_cnn", model_args={"width": 8, "depth": 1})
    export_encoder(build_encoder(small, image_size=SIZE), folder, Provenance(pretext={"kind": "denoise"}))


def config_of(here: Path, out: Path, **changes: Any) -> ProbeConfig:
    data = {
        "train": str(here / "train/images"),
        "masks": str(here / "train/masks"),
        "test": str(here / "test/images"),
        "test_masks": str(here / "test/masks"),
        "mask_names": ["ground", "red", "blue"],
        "workers": 0,
    }
    values: dict[str, Any] = {
        "out": out,
        "encoder": here / "encoder",
        "data": data | changes.pop("data", {}),
        "precision": "float32",
        "batch_size": 16,
        "probe": {"l2": [1e-3, 1e-1]},
        "properties": False,
        "null_check": False,
        "wandb": {"mode": "disabled"},
    }
    return ProbeConfig.model_validate(values | changes)


def loaded(here: Path) -> MaskedImages:
    data = config_of(here, here / "none").data
    return load_masked(open_masked(data, SIZE, 0), data, SIZE, 0)

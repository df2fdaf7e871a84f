"""Shared by the tests of images that repeat: small pictures in folders of classes, and a quick probe of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import retouch
from finetune.results import ProbeReport


def write(folder: Path, seeds: range, change: int = 0) -> None:
    """One smooth picture for each seed, named after it, in the folder of its class, brighter by ``change``."""
    for seed in seeds:
        coarse = np.random.default_rng(seed).integers(20, 230, (6, 6, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((16, 16), Image.Resampling.BILINEAR)) + np.uint8(change)
        (folder / f"c{seed % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth).save(folder / f"c{seed % 2}" / f"{seed}.png")


def probed(out: Path, encoder: Path, data: Path, seed: int = 0, **changes: Any) -> ProbeReport:
    return retouch.probe(
        {
            "out": str(out),
            "seed": seed,
            "encoder": str(encoder),
            "data": {"train": str(data / "train"), "test": str(data / "test"), "workers": 0, **changes},
            "probe": {"l2": [1e-2], "layers": [-1], "poolings": ["avg"]},
            "knn": None,
            "properties": False,
            "damage": [],
            "null_check": False,
            "baselines": {"pixels": False, "random_init": False},
            "feature_cache": False,
            "precision": "float32",
            "wandb": {"mode": "disabled"},
        }
    )

"""Small images with labels, tables of them, and the settings of a probe of several labels per image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finetune.config import ProbeConfig


def pictures(folder: Path, n: int, seed: int) -> Path:
    """Images that are light or not, red or not, and a table of both as lists, words and numbers."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    light, red = random.random(n) < 0.5, random.random(n) < 0.3
    pixels = random.integers(0, 120, (n, 16, 16, 3)) + 60 * light[:, None, None, None]
    pixels[..., 0] += 60 * red[:, None, None]
    lines = ["path,tags,light,red,kind"]
    for number in range(n):
        Image.fromarray(pixels[number].astype(np.uint8)).save(folder / f"{number}.png")
        tags = ";".join(name for name, has in (("light", light[number]), ("red", red[number])) if has)
        lines.append(f"{number}.png,{tags},{int(light[number])},{int(red[number])},{'xy'[number % 2]}")
    (folder / "a.csv").write_text("\n".join(lines) + "\n")
    return folder / "a.csv"


def config_of(here: Path, out: Path, **changes: Any) -> ProbeConfig:
    data = {"train": str(here / "train/a.csv"), "test": str(here / "test/a.csv"), "labels": ["tags"], "workers": 0}
    values: dict[str, Any] = {
        "out": out,
        "encoder": here / "encoder",
        "data": data | changes.pop("data", {}),
        "probe": {"l2": [1e-2, 1e-1, 1.0], "layers": ["each"], "poolings": ["avg"]},
        "properties": False,
        "null_check": False,
        "feature_cache": False,
        "precision": "float32",
        "wandb": {"mode": "disabled"},
    }
    return ProbeConfig.model_validate(values | changes)

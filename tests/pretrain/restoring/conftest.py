"""Small trained runs, and folders of pictures of many sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import retouch
from tests.pretrain.restoring.toys import PRETEXTS, SIDE, SIZES, RunOf
from tests.recipe import NETWORK


@pytest.fixture(scope="session")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> RunOf:
    """``run_of("mask")``: a run of that pretext, of few steps."""
    made: dict[str, Path] = {}

    def run(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("runs") / kind
            retouch.pretrain(
                {
                    "out": str(made[kind]),
                    "data": {"source": "shapes", "image_size": SIDE, "limit": 64, "workers": 0},
                    "encoder": NETWORK,
                    "decoder": {"kind": "upsampler", "width": 32},
                    "pretext": PRETEXTS[kind],
                    "steps": 12,
                    "batch_size": 16,
                    "base_lr": 0.1,
                    "precision": "float32",
                    "wandb": {"mode": "disabled"},
                }
            )
        return made[kind]

    return run


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Smooth pictures ``SIZES`` (height, width), and a file that is none."""
    random = np.random.default_rng(1)
    for name, (height, width) in SIZES.items():
        smooth = ndimage.gaussian_filter(random.normal(size=(height, width, 3)), (3, 3, 0.5), mode="nearest")
        smooth = (smooth - smooth.min()) / np.ptp(smooth)
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((smooth * 255).astype(np.uint8)).save(path, quality=95)
    (tmp_path / "pictures" / "broken.png").write_bytes(b"nothing")
    return tmp_path / "pictures"

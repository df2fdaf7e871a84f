"""Small versions of every method of the linear family, for the tests of fitting."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import pretrain.export as stage
from common.config import validate
from common.data import build_source, load_images
from common.encoders import Encoder
from common.encoders import export as exports
from common.pixels import to_float
from pretrain.config import PretrainConfig
from pretrain.results import Pretrained
from pretrain.run import pretrain

SIDE, IMAGES, BATCH, STEPS = 8, 96, 32, 12  # four epochs
NETWORK = {"atoms": 16, "patch": 4}
SPARSE = {"kind": "sparse_coding", "atoms": 24, "strength": 1.0}  # a large λ: codes take few steps
EVERY: dict[str, dict[str, Any]] = {
    "pca": {"kind": "pca", "components": 8},
    "pca-whitened": {"kind": "pca", "components": 8, "whiten": True},
    "ica": {"kind": "ica", "components": 6, "max_steps": 60, "tolerance": 1e-3},
    "cca-damage": {"kind": "cca", "components": 8},
    "cca-neighbors": {"kind": "cca", "components": 8, "views": "neighbors"},
    "cca-other": {"kind": "cca", "components": 8, "views": "other"},
    "tca-damage": {"kind": "tca", "components": 8, "landmarks": 20, "damage": {"kind": "gray"}},
    "tca-other": {"kind": "tca", "components": 8, "landmarks": 20},
    "sparse_coding-l1": SPARSE,
    "sparse_coding-gamma": {**SPARSE, "gamma": 0.01},
    "sparse_coding-data": {**SPARSE, "centring": "data"},
    "sparse_coding-l0": {**SPARSE, "penalty": "l0", "strength": 0.02},
    "sparse_coding-atoms": {**SPARSE, "penalty": "atoms", "top_k": 4},
    **{
        f"patch_dictionary-{learn}": {"kind": "patch_dictionary", "learn": learn, "network": NETWORK}
        for learn in ("random", "kmeans", "sparse_coding")
    },
    **{
        f"patch_dictionary-{learn}": {
            "kind": "patch_dictionary",
            "learn": learn,
            "network": {**NETWORK, "mirror": False},
        }
        for learn in ("pca", "ica")
    },
}
STREAMING = [name for name in EVERY if "sparse_coding" in name or "kmeans" in name]
RESUMED = [*STREAMING, "pca", "cca-damage", "cca-neighbors", "cca-other"]
OTHERS = {"cca-other": "photos:test", "tca-other": "shapes"}


def settings(out: Path, name: str, **changes: Any) -> PretrainConfig:
    values: dict[str, Any] = {
        "out": out,
        "batch_size": BATCH,
        "data": {"source": "photos", "image_size": SIDE, "limit": IMAGES, "workers": 0, "other": OTHERS.get(name)},
        "fit": EVERY[name],
        "checkpoint": {"every": 2},
        "log_every": 1,
        "wandb": {"mode": "disabled"},
    }
    if name in STREAMING:
        values["steps"] = STEPS
    return validate(PretrainConfig, values | changes)


def images_of(name: str, source: str = "photos", limit: int = IMAGES) -> Tensor:
    """The images of the stage ``[N 3 S S]`` in [0, 1], at the size it loads."""
    loaded = load_images(build_source(source), SIDE * (2 if name.endswith("neighbors") else 1), limit=limit)
    return to_float(loaded.rows(torch.arange(len(loaded))))


def same(left: Encoder, right: Encoder) -> bool:
    pairs = zip(left.state_dict().items(), right.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


class Finished(NamedTuple):
    out: Path
    result: Pretrained
    fitted: Encoder  # what the stage had in memory when it exported


def run(config: PretrainConfig) -> Finished:
    fitted: list[Encoder] = []
    with pytest.MonkeyPatch.context() as patch:
        export = exports.export_encoder
        patch.setattr(
            stage, "export_encoder", lambda encoder, *rest: (fitted.append(encoder), export(encoder, *rest))[1]
        )
        result = pretrain(config)
    return Finished(config.out, result, fitted[0])

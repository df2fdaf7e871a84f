"""The linear sparse autoencoder starts at the best separate code of each principal component, and ends below it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from common.config import validate
from common.data import build_source, load_images
from common.encoders import EncoderConfig, build_encoder
from common.pixels import to_float
from pretrain.config import PretrainConfig
from pretrain.gradient.decoders import DecoderConfig
from pretrain.gradient.objective import Objective, PenaltyConfig
from pretrain.gradient.pretexts import Identity
from pretrain.linear.diagonal import diagonal_autoencoder
from pretrain.run import pretrain

SIDE, IMAGES = 8, 2000


@pytest.fixture(scope="module")
def patches() -> Tensor:
    images = load_images(build_source("photos"), SIDE, limit=IMAGES)
    return to_float(images.rows(torch.arange(len(images))))


def centered(images: Tensor) -> Tensor:
    rows = images.flatten(1).double()
    return rows - rows.mean(0)


def cheapest(rows: Tensor, l1: float, gamma: float) -> float:
    """The objective with every principal component coded separately, or not at all, found by numerical search."""
    values, directions = np.linalg.eigh(np.cov(rows.numpy().T, bias=True))
    means = np.abs(rows.numpy() @ directions).mean(0)
    total = 0.0
    for v, m in zip(values, means, strict=True):

        def cost(logarithm: float, v: float = v, m: float = m) -> float:
            a = np.exp(logarithm)
            b = a * v / (a**2 * v + gamma) if gamma else 1.0
            return float(v * (1 - a * b) ** 2 + l1 * a * m + gamma * b**2)

        grid = np.linspace(-12, 6, 200)
        best = grid[np.argmin([cost(point) for point in grid])]
        found = minimize_scalar(cost, bounds=(best - 0.1, best + 0.1), method="bounded", options={"xatol": 1e-10})
        total += min(found.fun, v)
    return total


def objective(rows: Tensor, weight: Tensor, atoms: Tensor, l1: float, gamma: float) -> float:
    codes = rows @ weight.T
    restore = (rows - codes @ atoms.T).square().sum(1).mean()
    return (restore + l1 * codes.abs().sum(1).mean() + gamma * atoms.square().sum()).item()


@pytest.mark.parametrize(("l1", "gamma"), [(0.02, 1e-3), (0.5, 0.1), (0.1, 0.0), (5.0, 0.0), (50.0, 1.0)])
def test_each_component_is_coded_as_numerical_search_finds(l1: float, gamma: float, patches: Tensor) -> None:
    rows = centered(patches)
    weight, atoms = diagonal_autoencoder(rows, l1, gamma or None)
    assert objective(rows, weight, atoms, l1, gamma) == pytest.approx(cheapest(rows, l1, gamma), rel=1e-6)
    if not gamma:
        torch.testing.assert_close(atoms.norm(dim=0), torch.ones(len(weight), dtype=torch.float64))


@pytest.mark.parametrize("distance", ["squared", "l2"])
@pytest.mark.parametrize(("l1", "gamma"), [(0.02, 1e-3), (0.1, 0.0), (0.0, 0.0)])
def test_the_autoencoder_starts_there(distance: str, l1: float, gamma: float, patches: Tensor) -> None:
    encoder = build_encoder(EncoderConfig(name="linear", model_args={"code": 3 * SIDE**2}), image_size=SIDE)
    pretext = Identity.model_validate({"distance": distance})
    scale = 1 if distance == "squared" else 3 * SIDE**2
    penalty = PenaltyConfig(l1=l1 / scale, dictionary=gamma / scale)
    model = Objective(encoder, DecoderConfig(kind="linear"), pretext, penalty=penalty)
    model.fit(patches)
    loss = sum(part.item() for part in model(patches).values()) * scale
    # the remaining entries start with atoms of norm 0.1
    assert loss <= cheapest(centered(patches), l1, gamma) * (1 + 1e-4) + gamma * 0.01 * 3 * SIDE**2 + 1e-6


def test_training_ends_at_or_below_it(tmp_path: Path, patches: Tensor) -> None:
    l1, gamma = 0.02, 1e-3
    values = {
        "out": tmp_path / "run",
        "steps": 200,
        "batch_size": 256,
        "data": {"source": "photos", "image_size": SIDE, "limit": IMAGES, "workers": 0},
        "augment": {"crop": None, "flip": False},
        "encoder": {"name": "linear", "model_args": {"code": 128}},
        "decoder": {"kind": "linear"},
        "pretext": {"kind": "identity", "distance": "squared"},
        "penalty": {"l1": l1, "dictionary": gamma},
        "optim": {"weight_decay": 0},
        "wandb": {"mode": "disabled"},
    }
    pretrain(validate(PretrainConfig, values))
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["loss"] <= cheapest(centered(patches), l1, gamma)

"""The untrained twin of a probe: the network that training began with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import retouch
from common.encoders.export import export_encoder
from common.encoders.load import load_encoder
from finetune.config import ProbeConfig
from finetune.features import Extraction
from finetune.subjects import Spaces, Subject, twin_of
from tests.finetune.toys import bright_images
from tests.recipe import pretraining


def twin(encoder: Path, seed: int) -> dict[str, Tensor]:
    """The weights of the twin of ``encoder`` in a probe with ``seed``."""
    settings = {"out": "unused", "encoder": str(encoder), "data": {"train": "shapes"}, "seed": seed}
    config = ProbeConfig.model_validate(settings)
    itself = Subject("encoder", load_encoder(encoder), "id", *Spaces([], {}))
    how = Extraction(torch.device("cpu"), torch.float32, 8, 0)
    return dict(twin_of(config, itself, bright_images(8), how).encoder.named_parameters())


@pytest.fixture(scope="module", params=["denoise", "colorize"])
def barely_trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of one step so small that it still has its first weights."""
    changes = {"pretext": {"kind": request.param}, "steps": 1, "base_lr": 1e-9, "seed": 4}
    encoder = retouch.pretrain(pretraining(tmp_path_factory.mktemp("runs") / "run", **changes)).encoder
    assert encoder is not None
    return encoder


def test_it_has_the_weights_before_training_whatever_the_seed_of_the_probe(barely_trained: Path) -> None:
    trained = dict(load_encoder(barely_trained).named_parameters())
    for seed in (0, 7):
        before = twin(barely_trained, seed)
        assert before.keys() == trained.keys()
        for name, weights in before.items():
            torch.testing.assert_close(weights, trained[name], atol=1e-6, rtol=0)


def test_without_a_recorded_seed_it_is_drawn_with_that_of_the_probe(barely_trained: Path, tmp_path: Path) -> None:
    export_encoder(load_encoder(barely_trained), tmp_path / "bare")
    first, again, other = (twin(tmp_path / "bare", seed) for seed in (0, 0, 7))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)

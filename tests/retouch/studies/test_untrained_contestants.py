"""The untrained network of a study lacks learned weights, and nothing else."""

from __future__ import annotations

import torch

from common.machine.distributed import World
from common.recipes import stage_config
from pretrain.config import PretrainConfig
from retouch.studies.field import before_training
from tests.toys import noise_images


def test_it_knows_the_mean_image_and_has_its_first_weights() -> None:
    changes = ["data=shapes", "data.image_size=8", "encoder.model_args.code=8", "out=none"]
    config = stage_config(PretrainConfig, "linear_sparse_autoencoder", changes)
    here, pool = World(rank=0, size=1, device=torch.device("cpu")), noise_images(64, 8)
    learner = config.method.build(8, config.augment, here, 0)
    learner.attach(pool)
    first = learner.encoder.get_parameter("code.weight").clone()
    twin = before_training(learner, pool, here)
    mean = twin.get_buffer("centre")
    assert mean.abs().min() > 0
    torch.testing.assert_close(mean, pool.rows(torch.arange(64)).double().mean(0).flatten().float() / 255)
    assert torch.equal(twin.get_parameter("code.weight"), first)  # not those at which training starts
    assert not any(parameter.requires_grad for parameter in twin.parameters())

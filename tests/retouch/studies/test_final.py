"""The end of a study: whom the winner is compared with, and how many comparisons the correction counts."""

from __future__ import annotations

from pathlib import Path

import torch

from common.config import validate
from common.data import build_source, load_images
from common.encoders import EncoderConfig, build_encoder
from common.machine.distributed import World
from pretrain.config import PretrainConfig
from retouch.reporting.compare import holm
from retouch.studies.contestants import Field, Pretrained, RawPixels, Restoring, Simple, Untrained
from retouch.studies.final import compared, rivals_of
from retouch.studies.results import Role
from tests.retouch.reporting.runs import answers_of

HERE = World(0, 1, torch.device("cpu"))


def field() -> Field:
    network = build_encoder(EncoderConfig(model_args={"width": 8}), image_size=16).freeze()
    config = validate(PretrainConfig, {"out": Path("unused"), "steps": 1})
    pool = load_images(build_source("shapes"), 16, limit=2)
    ready = (
        RawPixels("pixels", 16),
        Untrained("rgb", network),
        Untrained("gray", network),
        Pretrained("resnet", network),
    )
    simple = (Simple("pca", config, pool, HERE), Simple("kmeans", config, pool, HERE))
    twins = {"denoise": "rgb", "colorize": "gray", "mask": "rgb"}
    return Field(ready, simple, tuple(Restoring(name, config, pool, HERE, twin) for name, twin in twins.items()), ())


RANKED = ("colorize", "kmeans", "mask", "resnet", "pca", "denoise", "gray", "rgb", "pixels")


def test_the_winner_meets_its_own_untrained_network_and_the_best_of_each_kind() -> None:
    assert rivals_of("colorize", field(), RANKED) == {
        "untrained": "gray",
        "pixels": "pixels",
        "simple": "kmeans",
        "restoring": "mask",
        "pretrained": "resnet",
    }


def test_a_winner_that_is_not_trained_meets_the_best_that_is() -> None:
    found = rivals_of("kmeans", field(), RANKED)
    assert (found["restoring"], found["simple"], found["untrained"]) == ("colorize", "pca", "gray")
    assert "untrained" not in rivals_of("rgb", field(), RANKED)
    assert "pretrained" not in rivals_of("resnet", field(), RANKED)


def test_all_comparisons_of_a_study_are_corrected_together() -> None:
    labels = {task: torch.arange(300) % 3 for task in ("animal", "color")}

    def said(right: float) -> dict[str, torch.Tensor]:
        return {task: answers_of(true, right, 3) for task, true in labels.items()}

    rivals: dict[Role, str] = {"untrained": "rgb", "pixels": "pixels"}
    found = compared("mask", rivals, {"mask": said(0.6), "rgb": said(0.57), "pixels": said(0.4)}, labels)
    assert [(one.role, one.task) for one in found] == [
        ("untrained", "animal"), ("untrained", "color"), ("pixels", "animal"), ("pixels", "color"),
    ]  # fmt: skip
    assert [one.adjusted_p for one in found] == holm([one.found.p_value for one in found])
    assert found[0].adjusted_p == 2 * found[0].found.p_value  # the two of pixels are smaller
    assert found[0].found.difference == (9 / 300)
    assert {one.images for one in found} == {300}

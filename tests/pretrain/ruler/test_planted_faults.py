"""Faults planted in real trainings: each is found by the run itself, warned of and kept in its results."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import retouch
from pretrain.results import read_results
from tests.recipe import OPTIM, pretraining

WHOLE = {"crop": None, "flip": False, "jitter": 0.0}
NARROW = {"width": 8, "depth": 1, "code_channels": 8}
PLANTED: dict[str, dict[str, Any]] = {
    # 40 images, always whole and never damaged, seen until they are known by heart
    "memorizing": {
        "pretext": {"kind": "identity"},
        "encoder": {"name": "small_cnn", "model_args": NARROW},
        "augment": WHOLE,
        "steps": 120,
    },
    # a rate that rises until every step does harm
    "diverging": {
        "base_lr": 30.0,
        "optim": {**OPTIM, "weight_decay": 0.0, "warmup": 0.9, "clip": 0.0},
        "steps": 24,
        "panels_every": 2,
    },
    # a penalty that is cheapest where the code is 0
    "dead": {
        "encoder": {"model_args": {**NARROW, "rectify": True}},
        "decoder": {"kind": "linear"},
        "optim": {**OPTIM, "weight_decay": 0.0},
        "penalty": {"l1": 100.0},
        "base_lr": 1.0,
        "steps": 20,
    },
    # steps so large that all images end up alike
    "collapsed": {"base_lr": 20.0, "steps": 12},
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_fault_is_found_warned_of_and_kept(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "retouch"):
        retouch.pretrain(pretraining(tmp_path / "run", **PLANTED[kind]))
    ruler = read_results(tmp_path / "run").ruler
    assert ruler is not None
    found = {one.kind: one.text for one in ruler.verdicts}
    assert kind in found, ruler
    assert found[kind] in caplog.messages


def test_a_sound_training_has_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "retouch"):
        retouch.pretrain(pretraining(tmp_path / "run"))
    ruler = read_results(tmp_path / "run").ruler
    assert ruler is not None
    assert ruler.verdicts == ()
    assert caplog.messages == []

"""Faults planted in real trainings: each is found by the run itself, warned of and kept in its results."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import retouch
from pretrain.results import read_results
from tests.recipe import AUGMENT, SIDE, pretraining

WHOLE = {**AUGMENT, "crop": None, "flip": False, "jitter": 0.0}
PLANTED: dict[str, dict[str, Any]] = {
    # eight images, seen until they are known by heart
    "memorizing": {
        "data": {"source": "shapes", "image_size": SIDE, "limit": 8, "workers": 0},
        "augment": WHOLE,
        "steps": 120,
        "panels_every": 60,
    },
    # a rate at which every step does harm
    "diverging": {"base_lr": 20.0, "steps": 12, "panels_every": 2},
    # a penalty that is cheapest where the code is 0
    "dead": {"penalty": {"l1": 100.0}, "steps": 40, "base_lr": 0.5},
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

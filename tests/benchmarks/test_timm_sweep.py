"""The sweep over timm's families: what it takes for a result, on tiny models."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import timm_sweep
from timm_sweep import Model, Outcome, attempt, families, isolated

from common.encoders.timm_encoder import TimmEncoder
from common.errors import UserError
from tests.toys import new_timm

TINY = Model("tiny", "test_convnext", 0.2)


@pytest.mark.parametrize("name", ["test_byobnet", "test_resnet", "test_vit"])
def test_a_tiny_model_of_each_kind_learns_and_comes_back(name: str, tmp_path: Path) -> None:
    outcome = attempt(Model("tiny", name, 0.3), tmp_path)
    assert (outcome.outcome, outcome.message, outcome.size, outcome.refused) == ("trained", "", 32, {})
    assert len(outcome.layers) > 2
    assert outcome.plain_timm == (name != "test_resnet")  # its small stem is 32 wide


def test_the_size_that_a_refusal_names_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def trained(model: Model, size: int, out: Path) -> Outcome:
        asked.append(size)
        if size < 64:
            raise UserError(f"too small; set data.image_size={2 * size}")
        return Outcome("trained", size=size)

    monkeypatch.setattr(timm_sweep, "trained", trained)
    outcome = attempt(TINY, tmp_path)
    assert asked == [32, 64]
    assert (outcome.outcome, outcome.refused) == ("trained", {32: "too small; set data.image_size=64"})


@new_timm
def test_a_refusal_without_a_size_that_works_is_an_outcome(tmp_path: Path) -> None:
    outcome = attempt(Model("coat", "coat_tiny", 5.3), tmp_path)
    assert outcome.outcome == "refused"
    assert outcome.message.endswith("use another encoder")
    assert outcome.refused == {32: outcome.message}


def test_features_that_differ_after_reopening_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = TimmEncoder.layers
    monkeypatch.setattr(  # as if the statistics of training were lost
        TimmEncoder, "layers", lambda self, images: [m * (1.1 if self.frozen else 1) for m in layers(self, images)]
    )
    outcome = attempt(TINY, tmp_path)
    assert outcome.outcome == "wrong"
    assert "the reopened folder gives other features" in outcome.message


def dies(model: Model, folder: Path) -> Outcome:
    faulthandler.disable()
    os.write(2, b"first line\nlast words\n")
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def hangs(model: Model, folder: Path) -> Outcome:
    time.sleep(100)
    raise AssertionError


def fails(model: Model, folder: Path) -> Outcome:
    raise TypeError("no such thing")


@pytest.mark.parametrize(
    ("work", "outcome", "message"),
    [
        (dies, "crashed", "SIGSEGV: last words"),
        (hangs, "too slow", "no answer after 0.5 s"),
        (fails, "traceback", "TypeError in fails: no such thing"),
    ],
)
def test_however_a_process_ends_is_a_result(work: Any, outcome: str, message: str) -> None:
    found = isolated(work, TINY, patience=0.5, method="fork")
    assert (found.outcome, found.message) == (outcome, message)


def test_models_too_large_to_train_here_are_named_as_such() -> None:
    assert isolated(dies, Model("large", "large", 400.0)).outcome == "too large"


def test_the_smallest_model_of_each_class_stands_for_its_module() -> None:
    found = list(families(("test_convnext", "convnext_atto", "efficientvit_b0", "efficientvit_b1", "efficientvit_l1")))
    assert [(model.family, model.name) for model in found] == [
        ("convnext.ConvNeXt", "test_convnext"),
        ("efficientvit_mit.EfficientVit", "efficientvit_b0"),
        ("efficientvit_mit.EfficientVitLarge", "efficientvit_l1"),
    ]
    assert 0.1 < found[0].parameters < 0.3

"""Faults planted in real trainings: each is found by the run itself, warned of and kept in its results."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import retouch
from common.data import build_source, load_images
from common.pixels import save_png, to_pil
from pretrain.results import read_results
from pretrain.ruler.measured import Measured
from tests.recipe import OPTIM, SIDE, pretraining

WHOLE = {"crop": None, "flip": False, "jitter": 0.0}
NARROW = {"width": 8, "depth": 1, "code_channels": 8}
# 40 images, always whole and never damaged, seen until they are known by heart
KNOWN_BY_HEART: dict[str, Any] = {
    "pretext": {"kind": "identity"},
    "encoder": {"name": "small_cnn", "model_args": NARROW},
    "augment": WHOLE,
    "steps": 120,
    "panels_every": 30,
}
PLANTED: dict[str, dict[str, Any]] = {
    # damage that is hardly there, and a code with room for all of it
    "copying": {
        "data": {"source": "shapes", "image_size": 8, "limit": 400, "workers": 0},
        "encoder": {"name": "linear", "model_args": {"code": 192}},
        "decoder": {"kind": "linear"},
        "pretext": {"kind": "denoise", "corruption": {"kind": "gaussian", "sigma": 0.01}},
        "augment": WHOLE,
        "base_lr": 1e-4,
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
    ruler = measured(tmp_path / "run")
    found = {one.kind: one.text for one in ruler.verdicts}
    assert kind in found, ruler
    assert found[kind] in caplog.messages


def test_images_known_by_heart_are_noted_once_and_are_no_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "retouch"):
        retouch.pretrain(pretraining(tmp_path / "run", **KNOWN_BY_HEART))
    [found] = measured(tmp_path / "run").verdicts
    assert (found.kind, found.is_fault) == ("memorizing", False)
    [note] = [record for record in caplog.records if "the features may still be good" in record.getMessage()]
    assert note.levelno == logging.INFO
    assert (tmp_path / "run" / "encoder" / "README.md").read_text().count("the features may still be good") == 1


def test_a_sound_training_has_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "retouch"):
        retouch.pretrain(pretraining(tmp_path / "run"))
    assert measured(tmp_path / "run").verdicts == ()
    assert caplog.messages == []


def test_a_handful_of_images_gets_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = {"source": "shapes", "image_size": SIDE, "limit": 3, "workers": 0}
    with caplog.at_level(logging.WARNING, "retouch"):
        retouch.pretrain(pretraining(tmp_path / "run", data=data))
    assert "3 images to learn from: very few, expect little" in caplog.messages


# ---- a small folder, of which few images are held out


def small_folder(folder: Path, images: int) -> dict[str, Any]:
    """Colorization of a folder of so many pictures, always whole."""
    folder.mkdir()
    for number, image in enumerate(load_images(build_source("shapes"), SIDE, limit=images).rows(torch.arange(images))):
        save_png(to_pil(image), folder / f"{number}.png")
    return {
        "data": {"source": str(folder), "image_size": SIDE, "workers": 0},
        "encoder": {"name": "small_cnn", "model_args": {"width": 16, "depth": 1}},
        "pretext": {"kind": "colorize", "bins": 16},
        "augment": WHOLE,
    }


def test_a_small_folder_learned_by_heart_is_noted_for_its_restored_pictures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = small_folder(tmp_path / "pictures", 150) | {"steps": 150, "panels_every": 30}
    with caplog.at_level(logging.INFO, "retouch"):
        retouch.pretrain(pretraining(tmp_path / "run", **settings))
    assert "135 unlabeled images and 15 held out" in caplog.text
    (found,) = measured(tmp_path / "run").verdicts
    assert found.kind == "memorizing"
    assert "This is about the restored pictures" in found.text
    assert caplog.text.count("This is about the restored pictures") == 1


def test_a_small_folder_that_is_not_learned_by_heart_is_no_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = small_folder(tmp_path / "pictures", 300) | {"steps": 40, "panels_every": 10}
    settings |= {"pretext": {"kind": "denoise"}}
    with caplog.at_level(logging.INFO, "retouch"):
        retouch.pretrain(pretraining(tmp_path / "run", **settings))
    assert "270 unlabeled images and 30 held out" in caplog.text
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []


def measured(run: Path) -> Measured:
    found = read_results(run).ruler
    assert found is not None
    return found

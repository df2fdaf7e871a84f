"""Faults planted in real runs, from the images to the page: the page reports each fault, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import retouch
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.encoders.provenance import Provenance
from retouch.reporting.answer import verdict
from retouch.reporting.choices import chosen
from retouch.reporting.limits import limits
from retouch.reporting.page import html
from retouch.reporting.reading import read_facts
from tests.retouch.reporting.reading import Page

QUIET: dict[str, Any] = {"precision": "float32", "wandb": {"mode": "disabled"}}


def write(folder: Path, seeds: range, *, classes: int = 2, bright: int = 0, every: int = 1) -> None:
    """One smooth picture for each seed; its class has nothing to do with what it shows, unless ``bright`` says it.

    Args:
        bright: how much brighter each class is than the one before.
        every: the first class has ``every`` times as many images as each other one.
    """
    for seed in seeds:
        label = max(0, seed % (classes - 1 + every) - every + 1)
        coarse = np.random.default_rng(seed).integers(40, 130, (6, 6, 3), dtype=np.uint8)
        pixels = np.asarray(Image.fromarray(coarse).resize((16, 16), Image.Resampling.BILINEAR)) + np.uint8(
            bright * label
        )
        (folder / f"c{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"c{label}" / f"{seed}.png")


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """An encoder with a gray view, trained (according to its card) on the pictures in ``pool``."""
    torch.manual_seed(0)
    built = build_encoder(EncoderConfig(model_args={"width": 4, "depth": 1}), image_size=16, view="gray")
    export_encoder(built, tmp_path / "encoder", Provenance(source=str(tmp_path / "pool")))
    return tmp_path / "encoder"


def probed(folder: Path, encoder: Path, **changes: Any) -> Path:
    config: dict[str, Any] = {
        "out": str(folder / "probe"),
        "encoder": str(encoder),
        "data": {"train": str(folder / "train"), "test": str(folder / "test"), "workers": 0},
        "probe": {"l2": [1e-2, 1.0], "layers": [-1], "poolings": ["avg"]},
        "knn": None,
        "properties": False,
        "damage": [],
        "baselines": {"pixels": False},
        "feature_cache": False,
        **QUIET,
    }
    retouch.probe(config | changes)
    return folder / "probe"


def tuned(folder: Path, encoder: Path, **changes: Any) -> Path:
    config: dict[str, Any] = {
        "out": str(folder / "full"),
        "encoder": {"path": str(encoder)},
        "steps": 2,
        "batch_size": 8,
        "evaluate_every": 2,
        "data": {"train": str(folder / "train"), "test": str(folder / "test"), "workers": 0},
        "compare": {"linear_probe": False, "from_scratch": False},
        **QUIET,
    }
    retouch.finetune(config | changes)
    return folder / "full"


def said(found: list[str], *parts: str) -> bool:
    """Whether one sentence has all these parts."""
    return any(all(part in sentence for part in parts) for sentence in found)


def test_leaks_random_labels_few_images_and_an_uneven_test_set_are_said_of_a_probe(
    tmp_path: Path, encoder: Path
) -> None:
    """40 training images, of which 10 are test images; labels at random, four in five of one class."""
    write(tmp_path / "train", range(40), every=4)
    write(tmp_path / "test", range(30, 70), every=4)
    write(tmp_path / "pool", range(60, 100), every=4)
    facts = read_facts([probed(tmp_path, encoder)])
    found = limits(facts)
    assert said(found, "10 of 40 test images are also training images")
    assert said(found, "10 of 40 test images repeat images of pretraining")
    assert said(found, "40 test images: the interval of an accuracy extends up to 14.8 points to either side.")
    assert said(found, "8 test images of c1, the smallest class: ")
    assert said(found, "Always answering the most frequent class would be right for 80.0% of the images")
    assert said(found, "is not shown to be better than always answering the most frequent class.")
    assert said(found, "Choices were made on 40 training images")
    assert said(found, "saw gray only")
    assert said(found, "at an end of the grid")
    assert said(found, "No comparison with raw pixels")
    assert verdict(facts).all[0].startswith("No difference shown")

    page = Page(html(facts)).said
    data = page[page.index("Labeled") :]
    assert "Test images that repeat other images" in data
    assert f"{tmp_path}/pool" in data
    assert "The 10 most similar of 20 pairs; duplicates.csv has all." in data


def test_the_same_is_said_of_a_fine_tuned_network(tmp_path: Path, encoder: Path) -> None:
    write(tmp_path / "train", range(40), every=4)
    write(tmp_path / "test", range(30, 70), every=4)
    facts = read_facts([tuned(tmp_path, encoder)])
    found = limits(facts)
    assert said(found, "10 of 40 test images are also training images")
    assert said(found, "Always answering the most frequent class would be right for 80.0% of the images")
    assert said(found, "full is not shown to be better than always answering the most frequent class.")
    assert said(found, "Choices were made on 4 training images")
    assert said(found, "was best on validation at its last step, 2")
    assert said(found, "full was not compared with training from scratch or a linear probe of the frozen encoder.")
    assert said(found, "Each network was trained once.")
    assert said(chosen(facts), "The best step of each trained network was chosen on training images alone")
    assert said(chosen(facts), "The 40 test images of", "were used once by 1 classifier; no choice")
    assert "Test images that repeat other images" in Page(html(facts)).said


def test_none_of_it_is_said_where_nothing_is_wrong(tmp_path: Path) -> None:
    """300 images of three classes that are as many and differ in brightness; a color encoder, and a middle strength."""
    torch.manual_seed(0)
    built = build_encoder(EncoderConfig(model_args={"width": 4, "depth": 1}), image_size=16)
    export_encoder(built, tmp_path / "encoder", Provenance(source=str(tmp_path / "pool")))
    write(tmp_path / "train", range(300), classes=3, bright=50)
    write(tmp_path / "test", range(300, 420), classes=3, bright=50)
    write(tmp_path / "pool", range(500, 600))
    strengths = {"l2": [1e-9, 1e-2, 1e6], "layers": [-1], "poolings": ["avg"]}
    facts = read_facts([probed(tmp_path, tmp_path / "encoder", probe=strengths, baselines={})])
    found = limits(facts)
    for words in ("training images", "repeat", "most frequent", "smallest class", "gray", "No comparison"):
        assert not said(found, words), found
    assert "Test images that repeat other images" not in Page(html(facts)).said

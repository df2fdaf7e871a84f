"""The code in a model card runs as it is, and what it makes has the shapes and the names that it says."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import retouch
from common.encoders import Classifier
from common.encoders.export import export_classifier, export_encoder
from common.encoders.readme import About
from finetune.probe import probe
from tests.common.encoders.toys import TINY_VIT, build
from tests.finetune.dense import pictures as masks
from tests.finetune.multilabel import pictures as labels
from tests.finetune.predict.runs import export, probed

QUICK: dict[str, Any] = {
    "null_check": False, "properties": False, "baselines": {"random_init": False, "pixels": False},
}  # fmt: skip


def of_classes(folder: Path) -> Path:
    return probed(folder / "probe", export(folder / "encoder"))


def of_labels(folder: Path) -> Path:
    export(folder / "encoder")
    for part, images in (("train", 60), ("test", 20)):
        labels.pictures(folder / part, images, images)
    quick = QUICK | {"probe": {"l2": [1e-2, 1e-1], "layers": ["all"], "poolings": ["avg"]}}
    probe(labels.config_of(folder, folder / "probe", **quick), show=False)
    return folder / "probe"


def of_masks(folder: Path) -> Path:
    masks.exported(folder / "encoder")
    for part, images in (("train", 30), ("test", 10)):
        masks.pictures(folder / part, images, images)
    probe(masks.config_of(folder, folder / "probe", **QUICK), show=False)
    return folder / "probe"


def code_of(folder: Path, heading: str) -> str:
    """The sample below a heading of the card in a folder, for that folder."""
    _, found, below = (folder / "README.md").read_text(encoding="utf-8").partition(f"## {heading}")
    assert found
    lines = below.partition("\n## ")[0].splitlines()
    return "\n".join(line[4:] for line in lines if line.startswith("    ") or not line).replace("FOLDER", str(folder))


def run_code(code: str, images: Tensor, **given: Any) -> dict[str, Any]:
    """What the code makes of images; each shape that a comment names is that of the result."""
    made: dict[str, Any] = {"images": images, **given}
    exec(code, made)
    known = {"B": len(images), "3": 3, "H": images.shape[2], "W": images.shape[3], "S": images.shape[3]}
    if "classifier" in made:
        known |= dict.fromkeys(("classes", "labels"), len(made["classifier"].class_names))
    said = re.findall(r"^(\w+) = .*# .*?\[([^\]]+)\](?:, RGB in \[0, 1\] -> \[([^\]]+)\])?", code, re.MULTILINE)
    for name, one, other in said:
        found = list(made[name].shape)
        wanted = [known.get(part, size) for part, size in zip((other or one).split(), found, strict=True)]
        assert found == wanted, (name, other or one)
    assert said
    return made


@pytest.mark.parametrize(
    ("probed_by", "task", "shape"),
    [(of_classes, "color", "[B classes]"), (of_labels, None, "[B labels]"), (of_masks, None, "[B classes S S]")],
)
@torch.no_grad()
def test_the_code_for_a_probe_gives_probabilities_of_the_shape_it_says(
    probed_by: Callable[[Path], Path], task: str | None, shape: str, tmp_path: Path
) -> None:
    """In the card of its report, and in the short one of a classifier without its run."""
    found = probed_by(tmp_path / "of")
    alone = shutil.copytree(found / "classifiers", tmp_path / "alone")
    images = torch.rand(2, 3, 16, 16)
    for place, more in ((found, []), (alone, [f"encoder={tmp_path / 'of' / 'encoder'}"])):
        more += [] if task is None else [f"task={task}"]
        done = retouch.export(place, f"to={tmp_path / 'out'}", "format=hub", "check=4", "overwrite=true", *more)
        code = code_of(done.folder, "How to load it")
        assert f"-> {shape}" in code
        made = run_code(code, images)
        expected = retouch.load_classifier(found, task=task)
        torch.testing.assert_close(made["probabilities"], expected.probabilities(expected(images)))
        if task is not None or "mask" in shape:
            torch.testing.assert_close(made["probabilities"].sum(1), torch.ones(2))


@pytest.mark.parametrize(
    ("network", "args"), [("small_cnn", {"width": 8, "depth": 1}), ("timm/vit_tiny_patch16_224", TINY_VIT)]
)
@torch.no_grad()
def test_the_code_for_an_encoder_and_a_classifier_runs(network: str, args: dict[str, Any], tmp_path: Path) -> None:
    export_encoder(build(network, args), tmp_path / "encoder", about=About("denoise", ()))
    export_classifier(Classifier(build(network, args), ("cat", "dog")), tmp_path / "classifier")
    retouch.export(tmp_path / "classifier", f"to={tmp_path / 'exported'}", "format=hub", "check=4")
    images = torch.rand(2, 3, 32, 32)
    encoder = run_code(code_of(tmp_path / "encoder", "How to load it"), images)
    torch.testing.assert_close(encoder["vectors"], retouch.load_encoder(tmp_path / "encoder").encode(images))
    classifier = run_code(code_of(tmp_path / "exported", "How to load it"), images)
    torch.testing.assert_close(classifier["probabilities"].sum(1), torch.ones(2))
    for made in (encoder, classifier):
        assert isinstance(made.get("network"), nn.Module) == network.startswith("timm")

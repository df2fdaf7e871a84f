"""Exports that are opened without Retouch compute what the network computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import retouch
from common.data import build_source, in_order, load_images
from common.encoders import Classifier
from common.encoders.export import export_classifier, export_encoder
from common.encoders.load import load_classifier, load_encoder, read_encoder_card
from finetune.classifier import ClassifierCard, Kept, open_classifier, write_classifiers
from finetune.pooling import POOLINGS, Part, pool
from tests.retouch.exporting.networks import KINDS, NAMES, Kind, settings

pytest.importorskip("onnxruntime", reason="pip install '.[export]' installs it")


def real(folder: Path, count: int) -> Tensor:
    """Photographs, float RGB in [0, 1], ``[N 3 32 32]``."""
    images = load_images(build_source(str(folder / "cifar10" / "test*.parquet")), 32, limit=count)
    return torch.cat([batch.images for batch in in_order(images, 256)]).float() / 255


class Case(NamedTuple):
    """An export that is opened without Retouch."""

    kind: str
    format: str
    of: Literal["encoder", "fine-tuned", "probe"] = "encoder"


CASES = (
    Case("patches", "onnx"),
    Case("vit", "onnx", "fine-tuned"),
    Case("vit", "timm"),
    *(Case("gray resnet", form, "fine-tuned") for form in ("torch", "timm")),
    *(Case("gray", form, "probe") for form in ("onnx", "torch")),
    Case("gray resnet", "timm"),
)


@pytest.mark.slow
@torch.no_grad()
def test_exports_give_the_features_and_answers_of_the_network_without_retouch(
    shared_data: Path, tmp_path: Path
) -> None:
    images = real(shared_data, 64)
    home = tmp_path / "exports"
    home.mkdir()
    np.save(home / "images-32.npy", images.numpy())
    expected = [in_torch(case, tmp_path / f"{number} encoder", images) for number, case in enumerate(CASES)]
    for number, case in enumerate(CASES):
        retouch.export(tmp_path / f"{number} encoder", *settings(home / f"{number}", case.format))
    script = Path(__file__).with_name("alone.py")
    subprocess.run([sys.executable, "-I", str(script), str(home)], cwd=tmp_path, check=True)
    for number, case in enumerate(CASES):
        found = np.load(home / f"{number}.npz")
        assert set(found) == expected[number].keys() - ({"probabilities"} if case.format == "timm" else set())
        for output in found:
            values = expected[number][output].numpy()
            assert np.abs(found[output] - values).max() <= 1e-4 * np.sqrt(np.square(values).mean()), (case, output)
        if case.of != "encoder":
            answers = found["logits"].argmax(1)
            assert (answers == expected[number]["logits"].numpy().argmax(1)).all(), case
            assert set(answers) == {0, 1, 2}


def in_torch(case: Case, folder: Path, images: Tensor) -> dict[str, Tensor]:
    """Write the encoder or classifier, and what it gives as Retouch opens it."""
    [kind] = [one for one in KINDS if one.name == case.kind]
    if case.of == "encoder":
        export_encoder(kind.build(), folder)
        return {"features": load_encoder(folder).encode(images)}
    if case.of == "probe":
        write_probe(kind, folder, torch.zeros(len(NAMES)))
        write_probe(kind, folder, -open_classifier(folder)(images).mean(0))  # or it would always give one answer
        applied = open_classifier(folder)
        logits = applied(images)
        return {"logits": logits, "probabilities": applied.probabilities(logits)}
    classifier = Classifier(kind.build(), NAMES).eval()
    [*_, head] = [module for module in classifier.modules() if isinstance(module, nn.Linear)]
    head.bias.sub_(classifier(images).mean(0))  # or a random network would always give one answer
    export_classifier(classifier, folder)
    logits = load_classifier(folder)(images)
    return {"logits": logits, "probabilities": logits.softmax(1)}


def write_probe(kind: Kind, run: Path, bias: Tensor) -> None:
    """A run of a probe with a classifier on every pooling of two maps, with weights drawn at random."""
    encoder = kind.build()
    export_encoder(encoder, run / "encoder")
    known = read_encoder_card(run / "encoder")
    parts = tuple(Part(layer, pooling) for layer in (0, 1) for pooling in POOLINGS)
    maps = load_encoder(run / "encoder").layers(torch.rand(1, 3, 32, 32))
    features = sum(pool(maps[part.layer], part.pooling).shape[1] for part in parts)
    card = ClassifierCard(
        task="pet",
        class_names=NAMES,
        kind="logistic",
        parts=parts,
        features=features,
        temperature=2.0,
        calibrated_on=9,
        image_size=32,
        view=known.view,
        levels=None,
        encoder="",
        encoder_beside="encoder",
        encoder_sha256=known.sha256,
        sha256="",
    )
    weight = torch.randn(features, len(NAMES), generator=torch.Generator().manual_seed(0)) / features**0.5
    write_classifiers(run, [Kept(card, weight, bias)])

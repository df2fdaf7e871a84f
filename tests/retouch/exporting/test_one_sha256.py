"""One rule for the sha256 of an export: that of what was exported, in every place that names one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import retouch
from common.encoders import Classifier, EncoderConfig, build_encoder
from common.encoders.export import export_classifier, export_encoder
from common.encoders.load import load_encoder
from common.encoders.provenance import Provenance
from common.encoders.readme import About
from pretrain.gradient.decoders import DecoderConfig
from pretrain.gradient.kept import keep_decoder
from pretrain.gradient.objective import Objective
from pretrain.gradient.pretexts import Denoise
from tests.common.encoders.toys import build
from tests.finetune.predict.runs import export, probed
from tests.retouch.exporting.test_sample_code import of_labels, of_masks


def an_encoder(folder: Path) -> Path:
    export_encoder(build(), folder / "encoder", Provenance(source=f"folder:{folder}/pictures"), About("denoise", ()))
    return folder / "encoder"


def a_fine_tuned_network(folder: Path) -> Path:
    export_classifier(Classifier(build(), ("cat", "dog")), folder / "classifier")
    return folder / "classifier"


def a_restorer(folder: Path) -> Path:
    """Its images are in a folder of this machine, which an export does not name."""
    torch.manual_seed(0)
    settings = DecoderConfig(kind="upsampler", width=32)
    small = EncoderConfig(model_args={"width": 8, "depth": 1})
    objective = Objective(build_encoder(small, image_size=16), settings, Denoise())
    training = Provenance(source=f"folder:{folder}/pictures", levels=None)
    sha256 = export_encoder(objective.encoder, folder / "encoder", training, About("denoise", ()))
    keep_decoder(objective, settings, folder / "decoder", source=str(training.source), encoder_sha256=sha256)
    return folder


def of_classes(folder: Path) -> Path:
    return probed(folder / "probe", export(folder / "encoder"))


KINDS: list[tuple[Callable[[Path], Path], str, list[str]]] = [
    (an_encoder, "config.json", []),
    (a_fine_tuned_network, "config.json", []),
    (of_classes, "classifiers/color/classifier.json", ["task=color"]),
    (of_labels, "classifiers/tags/classifier.json", []),
    (of_masks, "classifiers/masks/classifier.json", []),
    (a_restorer, "decoder/decoder.json", ["output=restorer"]),
]


def sha256_in(card: Path) -> Any:
    said = json.loads(card.read_text(encoding="utf-8"))
    return said.get("retouch", said)["sha256"]


@pytest.mark.parametrize(("made_by", "card", "more"), KINDS, ids=[kind.__name__ for kind, *_ in KINDS])
def test_record_card_and_files_name_the_sha256_of_what_was_exported(
    made_by: Callable[[Path], Path], card: str, more: list[str], tmp_path: Path
) -> None:
    run = made_by(tmp_path / "of")
    sha256 = sha256_in(run / card)
    done = retouch.export(run, f"to={tmp_path / 'hub'}", "format=hub", "check=4", *more)
    assert done.record.sha256 == done.record.facts["sha256"] == done.record.made.inputs["run"] == sha256
    assert sha256_in(tmp_path / "hub" / "export.json") == sha256
    said = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    assert said.count(f"with the sha256 {sha256}") == 1
    assert sha256_in(tmp_path / "hub" / card) == sha256  # the folder, opened, is known by it
    if (tmp_path / "hub" / "encoder").is_dir():
        alone = sha256_in(tmp_path / "hub" / "encoder" / "config.json")
        assert f"(of the encoder alone: {alone})" in said
        assert alone == sha256_in(tmp_path / "of" / "encoder" / "config.json")
    again = retouch.export(tmp_path / "hub", f"to={tmp_path / 'again'}", "format=hub", "check=4", *more)
    assert again.record.sha256 == sha256
    assert (tmp_path / "again" / "README.md").read_text(encoding="utf-8").count("## What was exported") == 1


@pytest.mark.parametrize(
    ("made_by", "card", "more"), [KINDS[0], KINDS[2], KINDS[5]], ids=["features", "probe", "restorer"]
)
def test_a_program_names_the_same(made_by: Callable[[Path], Path], card: str, more: list[str], tmp_path: Path) -> None:
    run = made_by(tmp_path / "of")
    done = retouch.export(run, f"to={tmp_path / 'out'}", "format=torch", "check=4", *more)
    said = {"retouch.json": ""}
    torch.export.load(tmp_path / "out" / "model.pt2", extra_files=said)
    assert json.loads(said["retouch.json"])["sha256"] == done.record.sha256 == sha256_in(run / card)


def test_the_encoder_of_a_classifiers_folder_is_known_by_the_classifier_it_came_from(tmp_path: Path) -> None:
    """The file without the classifier has a sha256 of its own; the same weights in ``encoder/`` have that one too."""
    folder = a_fine_tuned_network(tmp_path)
    done = retouch.export(folder, f"to={tmp_path / 'out'}", "format=hub", "check=4", "output=features")
    assert done.record.sha256 == sha256_in(folder / "config.json")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"The encoder of the classifier with the sha256 {done.record.sha256}" in text
    export_encoder(load_encoder(folder), tmp_path / "encoder")
    assert sha256_in(tmp_path / "out" / "config.json") == sha256_in(tmp_path / "encoder" / "config.json")
    assert text.count(done.record.sha256) == 1

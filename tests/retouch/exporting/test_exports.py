"""Exports: what their files hold, which part of a run they are of, and what they were checked on."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

import retouch
from common.encoders import Classifier
from common.encoders.export import export_classifier, export_encoder
from common.encoders.load import load_classifier, load_encoder, read_encoder_card
from common.encoders.provenance import Provenance
from common.encoders.readme import About, Section
from common.errors import UserError
from retouch.cli import main
from retouch.exporting.export import Exported
from retouch.exporting.settings import ExportConfig
from tests.common.encoders.toys import build
from tests.retouch.exporting.networks import KINDS, NAMES, SHORT, settings

ROOT = Path(__file__).resolve().parents[3]
ORT = pytest.importorskip("onnxruntime", reason="pip install '.[export]' installs it")


@pytest.mark.parametrize("name", ["code", "convnext", "vit", "mlp", "pca", "tca", "patches", "triangle", "top_k"])
def test_other_kinds_of_encoders_have_a_graph(name: str, tmp_path: Path) -> None:
    [kind] = [one for one in KINDS if one.name == name]
    export_encoder(kind.build(), tmp_path / "encoder")
    assert retouch.export(tmp_path / "encoder", *settings(tmp_path / "out", "torch")).max_difference < 1e-4


# ---- the content of the files


@pytest.fixture(scope="module")
def in_onnx(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    """An encoder and its export: writing one takes a second."""
    home = tmp_path_factory.mktemp("onnx")
    export_encoder(build(), home / "encoder")
    return home / "encoder", retouch.export(home / "encoder", *settings(home / "out", "onnx"))


def test_an_onnx_file_takes_batches_of_any_size_and_says_what_it_is(in_onnx: tuple[Path, Exported]) -> None:
    encoder, done = in_onnx
    session = ORT.InferenceSession(str(done.folder / "model.onnx"))
    [shown], [given] = session.get_inputs(), session.get_outputs()
    assert (shown.name, shown.type, shown.shape) == ("images", "tensor(float)", ["batch", 3, 32, 32])
    assert (given.name, given.shape) == ("features", ["batch", 32])
    loaded = load_encoder(encoder)
    for count in (1, 2, 5):
        images = torch.rand(count, 3, 32, 32)
        [found] = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(found, loaded.encode(images).numpy(), rtol=1e-4, atol=1e-5)
    properties = session.get_modelmeta().custom_metadata_map
    assert properties["sha256"] == read_encoder_card(encoder).sha256 == done.record.sha256
    assert (properties["image_size"], properties["class_names"]) == ("32", "[]")
    assert "RGB in [0, 1]" in properties["input"]


@torch.no_grad()
def test_a_program_of_torch_takes_batches_of_any_size_and_says_what_it_is(classifier: Path, tmp_path: Path) -> None:
    retouch.export(classifier, *settings(tmp_path / "out", "torch"))
    said = {"retouch.json": ""}
    program = torch.export.load(tmp_path / "out" / "model.pt2", extra_files=said).module()
    loaded = load_classifier(classifier)
    for count in (1, 2, 5):
        images = torch.rand(count, 3, 32, 32)
        found = program(images)
        torch.testing.assert_close(found["logits"], loaded(images), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["probabilities"].sum(1), torch.ones(count))
    assert json.loads(said["retouch.json"])["class_names"] == list(NAMES)


@pytest.mark.parametrize("form", ["onnx", "torch", "timm", "hub"])
def test_no_file_holds_a_path_of_this_machine(tmp_path: Path, form: str) -> None:
    home = tmp_path / "my home & #1"
    earlier = Provenance(source=f"folder:{home}/first pictures", started_from=f"{home}/runs/zero")
    training = Provenance(pretext={"kind": "denoise"}, source=f"folder:{home}/new pictures")
    training = training.starting(f"{home}/runs/first", "0" * 64, earlier)
    about = About("denoise", (Section("Data", (f"7 images of folder:{home}/new pictures.",)),))
    export_encoder(build("timm/test_convnext", SHORT), home / "runs" / "mine" / "encoder", training, about)
    done = retouch.export(home / "runs" / "mine" / "encoder", *settings(tmp_path / "out", form))
    for path in done.files:
        for local in ("site-packages", str(ROOT), str(tmp_path), "my home"):
            assert local.encode() not in path.read_bytes(), path.name
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (record["run"], record["provenance"]["source"]) == ("…/encoder", "folder:…/new pictures")
    assert record["provenance"]["started_from"] == "…/first"
    assert record["provenance"]["before"][0]["source"] == "folder:…/first pictures"
    assert record["provenance"]["started_sha256"] == "0" * 64
    if form == "hub":
        assert "7 images of folder:…/new pictures." in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_the_record_says_what_was_exported_and_how_it_was_checked(in_onnx: tuple[Path, Exported]) -> None:
    encoder, done = in_onnx
    record = json.loads((done.folder / "export.json").read_text())
    assert (record["format"], record["output"], record["files"]) == ("onnx", "features", ["model.onnx"])
    assert record["sha256"] == read_encoder_card(encoder).sha256
    assert set(record["tools"]) == {"onnx", "onnxscript", "onnxruntime"}
    assert all(record["tools"].values())
    assert record["made"]["versions"]["torch"] == version("torch")
    check = record["check"]
    assert (check["images"], check["real"], done.images_checked) == (8, False, 8)
    assert done.max_difference == max(one["largest"] for one in check["differences"])
    assert 0 < done.max_difference < 1e-4
    assert [path.name for path in done.files] == ["export.json", "model.onnx"]


# ---- which part of a run is exported


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """The folder of a run of fine-tuning."""
    run = tmp_path / "tuned"
    run.mkdir()
    (run / "config.yaml").write_text("# retouch finetune\n")
    export_classifier(Classifier(build(), NAMES), run / "classifier")
    export_encoder(build(view="gray"), run / "encoder")
    return run


@pytest.mark.parametrize(
    ("named", "more", "output", "sha256_of"),
    [
        ("tuned", (), "classifier", "classifier"),
        ("tuned", ("output=features",), "features", "encoder"),
        ("tuned/encoder", (), "features", "encoder"),
        ("tuned/classifier", (), "classifier", "classifier"),
        ("tuned/classifier", ("output=features",), "features", "classifier"),
    ],
)
def test_a_fine_tuned_run_gives_its_classifier_or_its_features(
    tuned: Path, named: str, more: tuple[str, ...], output: str, sha256_of: str, tmp_path: Path
) -> None:
    done = retouch.export(tmp_path / named, *settings(tmp_path / "out", "hub", *more))
    assert (done.record.output, done.record.sha256) == (output, read_encoder_card(tuned / sha256_of).sha256)
    assert read_encoder_card(tmp_path / "out").class_names == (NAMES if output == "classifier" else ())


def test_a_classifier_is_not_made_up(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is an encoder without a classifier: run retouch probe or retouch finetune"):
        retouch.export(encoder, *settings(tmp_path / "out", "onnx", "output=classifier"))
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def test_the_temperature_of_a_classifier_is_in_its_probabilities(tmp_path: Path) -> None:
    export_classifier(Classifier(build(), NAMES), tmp_path / "classifier", temperature=2.0)
    shown = torch.rand(2, 3, 32, 32)
    logits = load_classifier(tmp_path / "classifier")(shown)
    for form in ("torch", "hub"):
        retouch.export(tmp_path / "classifier", *settings(tmp_path / form, form))
    found = torch.export.load(tmp_path / "torch" / "model.pt2").module()(shown)
    torch.testing.assert_close(found["logits"], logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["probabilities"], (logits / 2).softmax(1), rtol=1e-4, atol=1e-5)
    assert read_encoder_card(tmp_path / "hub").temperature == 2


@pytest.mark.usefixtures("few_strengths")
@torch.no_grad()
def test_a_probe_gives_the_classifier_that_it_keeps(encoder: Path, tmp_path: Path) -> None:
    quick = ["knn=null", "damage=[]", "properties=false", "null_check=false", "wandb.mode=disabled", "data.workers=0"]
    quick += ["baselines={random_init: false, pixels: false}", "precision=float32"]
    quick += ["probe.layers=[last2]", "probe.poolings=[avg2]", "probe.folds=2"]
    data = ["data=shapes:train:200", "data.test=shapes:test:50", "data.task=color"]
    retouch.probe(f"encoder={encoder}", *data, *quick, f"out={tmp_path / 'probe'}")
    applied = retouch.load_classifier(tmp_path / "probe")
    done = retouch.export(tmp_path / "probe", *settings(tmp_path / "out", "torch", "task=color"))
    assert (done.record.output, done.record.sha256) == ("classifier", applied.sha256)
    classes = done.record.facts["class_names"]
    assert isinstance(classes, list)
    assert tuple(classes) == applied.class_names
    shown = torch.rand(2, 3, 32, 32)
    found = torch.export.load(tmp_path / "out" / "model.pt2").module()(shown)
    expected = (applied(shown) / applied.temperature).softmax(1)
    torch.testing.assert_close(found["probabilities"], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"it is a probe's classifier, .*; use format=onnx or format=torch or"):
        retouch.export(tmp_path / "probe", *settings(tmp_path / "other", "timm"))


@torch.no_grad()
def test_a_folder_of_timm_is_the_encoders_own(tmp_path: Path) -> None:
    export_encoder(build("timm/test_convnext"), tmp_path / "encoder", Provenance(steps=7))
    retouch.export(tmp_path / "encoder", *settings(tmp_path / "out", "timm"))
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "encoder" / name).read_bytes()


# ---- images of the check


def test_the_check_is_on_images_of_the_run_where_they_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.common.data.samples import picture

    (tmp_path / "pictures").mkdir()
    for number in range(5):
        picture(number, 40, 36).save(tmp_path / "pictures" / f"{number}.png")
    spec = f"folder:{tmp_path / 'pictures'}"
    asked = {"here": spec, "gone": f"folder:{tmp_path / 'gone'}", "on a server": "hf:me/pictures"}
    for name, source in asked.items():
        export_encoder(build(), tmp_path / name, Provenance(source=source, levels=None))
        check = retouch.export(tmp_path / name, *settings(tmp_path / f"{name} out", "hub")).check
        expected = (5, spec, True) if name == "here" else (8, "shapes:train:20000", False)
        assert (check.images, check.source, check.real) == expected, name
    check = retouch.export(
        tmp_path / "gone", *settings(tmp_path / "out", "hub", f"data={tmp_path / 'pictures'}", "check=3")
    ).check
    assert (check.images, check.source, check.real) == (3, spec, True)
    with pytest.raises(UserError, match="gone"):
        retouch.export(tmp_path / "here", *settings(tmp_path / "other", "hub", f"data={tmp_path / 'gone'}"))


# ---- the command


def test_the_command_says_in_one_line_what_it_wrote(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(encoder), f"to={tmp_path / 'a'}", "format=hub", "check=4"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        f"{tmp_path / 'a'}: README.md, config.json, export.json, model.safetensors (features); on 4 "
    )
    assert "the largest difference from torch is features 0.0e+00 (RMS " in said
    assert said.count("\n") == 1
    assert main(["export", f"run={encoder}", f"to={tmp_path / 'b'}", "format=hub", "check=4"]) == 0
    assert main(["export", str(encoder), "format=onx"]) == 2
    said = capsys.readouterr().err
    assert "to: required, but not given: the folder to write" in said
    assert "format: input should be 'timm', 'onnx', 'torch' or 'hub', got 'onx'" in said


def test_the_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    said = capsys.readouterr().out
    for key in ExportConfig.model_fields:
        assert f" {key}=" in said

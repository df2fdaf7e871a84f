"""Exports: they compute what the network computes, wherever they are opened, or are refused with what would work."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import retouch
from common.data import build_source, in_order, load_images
from common.encoders import Classifier, Encoder
from common.encoders.export import export_classifier, export_encoder
from common.encoders.load import load_classifier, load_encoder, read_encoder_card
from common.encoders.provenance import Provenance
from common.encoders.readme import About, Section
from common.errors import UserError
from finetune.classifier import ClassifierCard, Kept, open_classifier, write_classifiers
from finetune.pooling import POOLINGS, Part, pool
from retouch.cli import main
from retouch.exporting import formats
from retouch.exporting.check import Check, Difference, refuse_apart
from retouch.exporting.export import Exported
from retouch.exporting.settings import ExportConfig
from retouch.exporting.subject import open_subject
from tests.common.encoders.test_encoder_folder import TINY_VIT, build

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("cat", "dog", "fox")
ORT = pytest.importorskip("onnxruntime", reason="pip install 'retouch[export]' installs it")


class Kind(NamedTuple):
    """An encoder, and the formats that can hold it."""

    name: str
    encoder: str
    args: dict[str, Any] = {}  # noqa: RUF012
    view: str = "rgb"
    timm: bool = False
    graph: bool = True

    def __str__(self) -> str:
        return self.name

    def build(self) -> Encoder:
        return build(self.encoder, self.args, view=self.view)


SHALLOW = {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}  # an exporter's time grows with the number of operations
SHORT = {"depths": [1, 1, 1, 1]}
KINDS = (
    Kind("small_cnn", "small_cnn", {"width": 8, "depth": 1}),
    Kind("gray", "small_cnn", {"width": 8, "depth": 1}, view="gray"),
    Kind("code", "small_cnn", {"width": 8, "depth": 1, "code_channels": 16, "top_k": 4}),
    Kind("resnet", "timm/resnet18", SHALLOW, timm=True),  # with the stem for small images
    Kind("gray resnet", "timm/resnet18", SHALLOW, view="gray", timm=True),
    Kind("convnext", "timm/test_convnext", SHORT, timm=True),
    Kind("vit", "timm/vit_tiny_patch16_224", {**TINY_VIT, "depth": 1}, timm=True),
    Kind("antialiased", "timm/resnetblur18", SHALLOW),  # a stem that timm cannot have
    Kind("mlp", "mlp", {"hidden": [16], "code": 8}),
    Kind("pca", "linear", {"code": 8}),
    Kind("tca", "kernel", {"code": 8, "landmarks": 16}),
    Kind("patches", "patch_dictionary", {"atoms": 16}),
    Kind("triangle", "patch_dictionary", {"atoms": 16, "code": "triangle", "mirror": False}),
    Kind("top_k", "patch_dictionary", {"atoms": 16, "code": "top_k", "top_k": 4}),
    Kind("lasso", "patch_dictionary", {"atoms": 16, "code": "lasso", "l1": 4.0}, graph=False),
    Kind("sparse_code", "sparse_code", {"atoms": 16}, graph=False),
)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    export_encoder(build(), tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    export_classifier(Classifier(build(), NAMES), tmp_path / "classifier")
    return tmp_path / "classifier"


def settings(to: Path, form: str, *more: str) -> list[str]:
    return [f"to={to}", f"format={form}", "check=8", *more]


def real(folder: Path, count: int) -> Tensor:
    """Photographs, float RGB in [0, 1], ``[N 3 32 32]``."""
    images = load_images(build_source(str(folder / "cifar10" / "test*.parquet")), 32, limit=count)
    return torch.cat([batch.images for batch in in_order(images, 256)]).float() / 255


# ---- opened without Retouch


class Case(NamedTuple):
    """An export that is opened without Retouch."""

    kind: str
    format: str
    of: Literal["encoder", "fine-tuned", "probe"] = "encoder"


CASES = (
    Case("patches", "onnx"),
    *(Case("vit", form) for form in ("onnx", "timm")),
    *(Case("gray resnet", form, "fine-tuned") for form in ("onnx", "torch", "timm")),
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


# ---- refused


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_format_that_cannot_hold_a_network_is_refused_with_those_that_can(kind: Kind, tmp_path: Path) -> None:
    export_encoder(kind.build(), tmp_path / "encoder")
    able = [*(["timm"] if kind.timm else []), *(["onnx", "torch"] if kind.graph else []), "hub"]
    subject = open_subject(ExportConfig(run=str(tmp_path / "encoder"), to=tmp_path, format="hub"))
    for name, one in formats.FORMATS.items():
        assert bool(one.refusal(subject)) == (name not in able), name
    for form in formats.FORMATS.keys() - set(able):
        with pytest.raises(UserError) as raised:
            retouch.export(tmp_path / "encoder", *settings(tmp_path / "out", form))
        assert f"format={form} cannot hold this network" in str(raised.value)
        assert str(raised.value).endswith("use " + " or ".join(f"format={one}" for one in able))
    assert not (tmp_path / "out").exists()


def test_an_export_that_computes_something_else_is_not_written(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retouch.export(encoder, *settings(tmp_path / "out", "torch"))
    before = (tmp_path / "out" / "model.pt2").read_bytes()
    opened = formats.TorchProgram.opened

    def wrong(self: Any, subject: Any, folder: Path) -> Any:
        run = opened(self, subject, folder)
        return lambda images: {name: 1.01 * values for name, values in run(images).items()}

    monkeypatch.setattr(formats.TorchProgram, "opened", wrong)
    with pytest.raises(
        UserError, match=r"differs from the network in torch: features by up to \S+ \(RMS \S+\) on 8 images"
    ):
        retouch.export(encoder, *settings(tmp_path / "out", "torch", "overwrite=true"))
    assert (tmp_path / "out" / "model.pt2").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder", "out"]


def test_an_export_that_is_not_finite_is_not_written(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        formats.HubFolder, "opened", lambda *_: lambda images: {"features": torch.full((len(images), 32), float("nan"))}
    )
    with pytest.raises(UserError, match="features of the export, or of the network itself, is not finite"):
        retouch.export(encoder, *settings(tmp_path / "out", "hub"))
    assert not (tmp_path / "out").exists()


def test_a_difference_is_measured_by_the_size_of_the_output() -> None:
    def check(largest: float, scale: float) -> Check:
        difference = Difference(output="features", largest=largest, scale=scale)
        return Check(images=1, source="shapes", real=False, differences=(difference,))

    refuse_apart(check(0.0, 0.0), "onnx")
    refuse_apart(check(0.9e-4, 1.0), "onnx")
    refuse_apart(check(0.9e-2, 100.0), "onnx")
    for far in (check(1.1e-4, 1.0), check(0.9e-4, 0.5)):
        with pytest.raises(UserError, match="differs"):
            refuse_apart(far, "onnx")


def test_packages_that_are_missing_are_named(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name.startswith("onnx") else object())
    with pytest.raises(UserError) as raised:
        retouch.export(encoder, *settings(tmp_path / "out", "onnx"))
    said = "format=onnx needs onnx, onnxscript, onnxruntime; install them with pip install 'retouch[export]'"
    assert str(raised.value) == said


def test_nothing_is_overwritten(encoder: Path, tmp_path: Path) -> None:
    to = tmp_path / "out"
    to.mkdir()
    (to / "mine.txt").write_text("mine")
    for more in ((), ("overwrite=true",)):
        with pytest.raises(UserError, match=r"to: \S+ contains other files \(mine.txt\); name a new folder"):
            retouch.export(encoder, *settings(to, "torch", *more))
    (to / "mine.txt").unlink()
    retouch.export(encoder, *settings(to, "torch"))
    with pytest.raises(UserError, match="contains an earlier export; name a new folder, or set overwrite=true"):
        retouch.export(encoder, *settings(to, "hub"))
    retouch.export(encoder, *settings(to, "hub", "overwrite=true"))
    assert sorted(path.name for path in to.iterdir()) == [
        "README.md",
        "config.json",
        "export.json",
        "model.safetensors",
    ]
    (to / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"contains other files too \(mine.txt\)"):
        retouch.export(encoder, *settings(to, "hub", "overwrite=true"))
    (to / "mine.txt").unlink()
    (to / "export.json").write_text('{"retouch_export": 1')
    with pytest.raises(UserError, match="is damaged"):
        retouch.export(encoder, *settings(to, "hub", "overwrite=true"))
    with pytest.raises(UserError, match="is a file"):
        retouch.export(encoder, *settings(to / "export.json", "hub"))


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_computed(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retouch.exporting.export.compared", lambda *given: pytest.fail("computed"))
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for to, message in (("file/out", "is a file"), ("link", "is a link"), ("x" * 300, "longer than this file system")):
        with pytest.raises(UserError, match=f"to: .*{message}"):
            retouch.export(encoder, *settings(tmp_path / to, "torch"))
    assert list((tmp_path / "folder").iterdir()) == []


def test_every_problem_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as raised:
        retouch.export(tmp_path / "none", f"to={tmp_path / 'file'}", "format=onnx")
    assert [line.rpartition(": ")[2] for line in raised.value.lines] == [
        "no such folder; use the folder of a finished run",
        f"{tmp_path / 'file'} is a file; choose a folder",
    ]
    with pytest.raises(UserError) as raised:
        retouch.export("run", "to=out", "format=onnx", "push=me", "token=hf_x", "license=My own", "check=0")
    said = str(raised.value)
    assert (
        "token: tokens are not settings and are never stored: log in once with `hf auth login`, or set HF_TOKEN" in said
    )
    assert "check: input should be greater than or equal to 1" in said
    with pytest.raises(UserError) as raised:
        retouch.export("run", "to=out", "format=onnx", "push=me", "license=My own")
    said = str(raised.value)
    assert "license, push: only for the Hub; set format=hub, or remove license, push" in said
    assert "push: 'me' does not have the form USER/NAME" in said
    assert "license: 'My own' is not an identifier of the Hub" in said


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

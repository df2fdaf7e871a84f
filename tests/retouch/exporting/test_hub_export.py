"""Exports for the Hugging Face Hub: the card, the labels, and the upload to a server on this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
import yaml

import retouch
from common.encoders import Classifier
from common.encoders.export import export_classifier, export_encoder
from common.encoders.load import load_classifier, load_encoder, read_encoder_card
from common.encoders.provenance import Provenance
from common.encoders.readme import MARK, About, readme
from common.errors import UserError
from common.files import write_text
from finetune.classifier import open_classifier
from finetune.predict.run import predict
from tests.common.encoders.toys import build, images
from tests.finetune.predict.runs import TEST_IMAGES, config_of, probed
from tests.hub import TOKEN, Hub, Repo, serving

NAMES = ("cat", "dog")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Someone called me is logged in."""
    with serving(monkeypatch, tmp_path / "cache") as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    export_encoder(
        build(), tmp_path / "encoder", Provenance(pretext={"kind": "denoise"}, source="hf:me/pictures:train")
    )
    return tmp_path / "encoder"


def export(run: Path, to: Path, *more: str) -> Any:
    return retouch.export(run, f"to={to}", "format=hub", "check=4", *more)


def front(folder: Path) -> dict[str, Any]:
    text = (folder / "README.md").read_text()
    assert text.startswith(MARK)
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


# ---- the folder


def test_the_card_has_what_the_hub_reads(encoder: Path, tmp_path: Path) -> None:
    export(encoder, tmp_path / "out", "license=cc-by-4.0")
    assert front(tmp_path / "out") == {
        "tags": ["retouch", "self-supervised-learning", "denoise"],
        "license": "cc-by-4.0",
        "library_name": "retouch",
        "pipeline_tag": "image-feature-extraction",
        "datasets": ["me/pictures"],
    }
    text = (tmp_path / "out" / "README.md").read_text()
    assert "source: hf:me/pictures:train." in text
    assert text.count("## How to load") == 1


@pytest.mark.parametrize("source", ["shapes", "folder:my/pictures", "torchvision:CIFAR10", "parquet:a/*.parquet"])
def test_data_sets_that_the_hub_does_not_know_are_not_claimed(tmp_path: Path, source: str) -> None:
    export_encoder(build(), tmp_path / "encoder", Provenance(source=source))
    export(tmp_path / "encoder", tmp_path / "out")
    assert not {"datasets", "license"} & front(tmp_path / "out").keys()


def test_a_model_that_plain_timm_runs_as_it_is_belongs_to_timm(tmp_path: Path) -> None:
    for view, library in (("rgb", "timm"), ("gray", "retouch")):
        export_encoder(build("timm/test_convnext", view=view), tmp_path / view)
        export(tmp_path / view, tmp_path / f"{view} out")
        assert front(tmp_path / f"{view} out")["library_name"] == library


def test_the_classes_are_named_as_programs_of_the_hub_read_them(tmp_path: Path) -> None:
    export_classifier(Classifier(build(), NAMES), tmp_path / "classifier")
    export(tmp_path / "classifier", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["id2label"], config["label2id"]) == ({"0": "cat", "1": "dog"}, {"cat": 0, "dog": 1})
    assert load_classifier(tmp_path / "out").class_names == NAMES
    assert front(tmp_path / "out")["pipeline_tag"] == "image-classification"


@pytest.mark.parametrize("told", [False, True])
def test_the_card_of_the_features_of_a_classifier_is_of_an_encoder(tmp_path: Path, told: bool) -> None:
    folder = tmp_path / "classifier"
    export_classifier(Classifier(build(), NAMES), folder, Provenance(stage="finetune", task="pet"))
    if told:
        write_text(folder / "README.md", readme(read_encoder_card(folder), About("fine-tuning", ())))
    export(folder, tmp_path / "out", "output=features")
    text = (tmp_path / "out" / "README.md").read_text()
    assert 'retouch.load_encoder("FOLDER")' in text
    assert "classifier(" not in text
    assert "classes apart" not in text
    assert front(tmp_path / "out")["tags"] == ["retouch", "fine-tuning"]


def test_names_of_classes_stay_in_the_card_though_they_look_like_paths(tmp_path: Path) -> None:
    export_classifier(Classifier(build(), ("/m/0a", "left /right & up")), tmp_path / "classifier")
    export(tmp_path / "classifier", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "It tells 2 classes apart: /m/0a, left /right &amp; up." in text


def test_the_card_of_a_run_is_that_of_the_report(tmp_path: Path) -> None:
    """And has the results of a probe that is named."""
    small = ["data=shapes:train:16", "data.image_size=16", "steps=1", "batch_size=8", "data.workers=0"]
    small += ["wandb.mode=disabled", "encoder.model_args={width: 4, depth: 1}", "precision=float32"]
    retouch.pretrain("denoise", f"out={tmp_path / 'run'}", *small)
    export(tmp_path / "run", tmp_path / "out", "license=mit")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "## How to repeat" in text
    assert front(tmp_path / "out")["license"] == "mit"
    assert read_encoder_card(tmp_path / "out").sha256 == read_encoder_card(tmp_path / "run").sha256
    with pytest.raises(UserError, match="none"):
        export(tmp_path / "run", tmp_path / "other", f"report=[{tmp_path / 'none'}]")
    assert not (tmp_path / "other").exists()


# ---- more than an encoder


@pytest.fixture
def probe(encoder: Path, tmp_path: Path) -> Path:
    """A finished probe of two tasks."""
    return probed(tmp_path / "probe", encoder)


@torch.no_grad()
def test_a_probe_is_read_from_the_hub_where_nothing_else_of_it_is_left(hub: Hub, probe: Path, tmp_path: Path) -> None:
    shown = images()
    before = open_classifier(probe, "color")
    expected, sha256 = before(shown), before.sha256
    done = export(probe, tmp_path / "out", "task=color", "push=me/mine", "license=mit")
    assert done.record.files == (
        "README.md",
        "classifiers/color/classifier.json",
        "classifiers/color/model.safetensors",
        "encoder/config.json",
        "encoder/model.safetensors",
    )
    assert not [path for path in done.files if str(tmp_path).encode() in path.read_bytes()]
    for path in (probe, tmp_path / "encoder", tmp_path / "out"):
        path.rename(path.with_name(f"{path.name} elsewhere"))
    for name in ("hf:me/mine", tmp_path / "out elsewhere"):
        found = retouch.load_classifier(name)
        assert (found.sha256, found.task, found.class_names) == (sha256, "color", before.class_names)
        assert found.temperature == before.temperature != 1
        torch.testing.assert_close(found(shown), expected, rtol=0, atol=0)
    predicted = predict(config_of(tmp_path / "predictions", Path("hf:me/mine")))
    assert (predicted.task, predicted.rows) == ("color", TEST_IMAGES)
    assert load_encoder("hf:me/mine").layer_shapes == before.encoder.layer_shapes
    again = retouch.export("hf:me/mine", f"to={tmp_path / 'again'}", "format=hub", "check=4", "license=mit")
    assert again.record.sha256 == done.record.sha256


def test_the_card_of_a_probe_names_its_labels_and_how_to_load_it(hub: Hub, probe: Path, tmp_path: Path) -> None:
    done = export(probe, tmp_path / "out", "task=color", "push=me/mine", "license=mit")
    text = (tmp_path / "out" / "README.md").read_text()
    names = open_classifier(probe, "color").class_names
    assert f"## Labels\n\n{', '.join(names)}\n" in text
    assert 'classifier = retouch.load_classifier("hf:me/mine")' in text
    assert "timm.create_model" not in text
    assert front(tmp_path / "out")["pipeline_tag"] == "image-classification"
    assert done.record.facts["class_names"] == list(names)
    alone = shutil.copytree(probe / "classifiers", tmp_path / "alone")
    export(alone, tmp_path / "without its run", "task=texture", f"encoder={tmp_path / 'encoder'}")
    text = (tmp_path / "without its run" / "README.md").read_text()
    assert "# denoise: an encoder and the linear classifier of a probe" in text
    assert "## Labels" in text


def test_an_export_of_a_probe_is_replaced_if_asked_for_and_other_files_are_not(probe: Path, tmp_path: Path) -> None:
    for _ in range(2):
        export(probe, tmp_path / "out", "task=color", "overwrite=true")
    (tmp_path / "out" / "classifiers" / "mine.txt").touch()
    with pytest.raises(UserError, match=r"contains other files too \(classifiers/mine.txt\)"):
        export(probe, tmp_path / "out", "task=color", "overwrite=true")


# ---- the upload


@torch.no_grad()
def test_what_is_pushed_is_read_back_by_its_name(hub: Hub, encoder: Path, tmp_path: Path) -> None:
    done = export(encoder, tmp_path / "out", "push=me/mine", "license=apache-2.0")
    files = hub.repos["me/mine"].files("main") or {}
    assert files.keys() == {".gitattributes", "README.md", "config.json", "export.json", "model.safetensors"}
    assert all((tmp_path / "out" / name).read_bytes() == data for name, data in files.items() if name[0] != ".")
    assert done.uploaded == f"https://huggingface.co/me/mine/commit/{hub.repos['me/mine'].sha('main')}"
    assert (hub.repos["me/mine"].visibility, done.record.check.images) == ("public", 4)
    torch.testing.assert_close(load_encoder("hf:me/mine")(images()), load_encoder(encoder)(images()), rtol=0, atol=0)
    assert '"hf:me/mine"' in (tmp_path / "out" / "README.md").read_text()
    again = retouch.export("hf:me/mine", f"to={tmp_path / 'again'}", "format=torch", "check=4")
    assert again.record.sha256 == done.record.sha256


def test_a_folder_of_the_hub_is_exported_again_with_one_front_matter(hub: Hub, encoder: Path, tmp_path: Path) -> None:
    export(encoder, tmp_path / "one", "push=me/mine", "license=mit")
    export(tmp_path / "one", tmp_path / "two", "push=me/other", "license=apache-2.0")
    text = (tmp_path / "two" / "README.md").read_text()
    assert front(tmp_path / "two")["license"] == "apache-2.0"
    assert text.count("license:") == text.count("library_name:") == text.count("## From the Hub") == 1
    assert "hf:me/mine" not in text


def test_a_probe_of_an_encoder_of_the_hub_keeps_a_classifier(hub: Hub, encoder: Path, tmp_path: Path) -> None:
    export(encoder, tmp_path / "out", "push=me/mine", "license=mit")
    run = probed(tmp_path / "probe", Path("hf:me/mine"))
    found = open_classifier(run, "color")
    assert found(images()).shape == (len(images()), len(found.class_names))


@torch.no_grad()
def test_plain_timm_reads_a_timm_model_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    classifier = Classifier(build("timm/test_convnext"), NAMES).eval()
    export_classifier(classifier, tmp_path / "classifier")
    export(tmp_path / "classifier", tmp_path / "out", "push=me/pets", "license=mit")
    assert 'timm.create_model("hf-hub:me/pets", pretrained=True)' in (tmp_path / "out" / "README.md").read_text()
    plain = timm.create_model("hf-hub:me/pets", pretrained=True).eval()
    shown = classifier.encoder.prepare(images())
    torch.testing.assert_close(plain(shown), classifier(images()), rtol=1e-5, atol=1e-6)
    assert plain.pretrained_cfg["label_names"] == list(NAMES)


def test_a_repository_may_be_private_and_of_an_organization(hub: Hub, encoder: Path, tmp_path: Path) -> None:
    export(encoder, tmp_path / "out", "push=us/mine", "license=mit", "private=true")
    assert hub.repos["us/mine"].visibility == "private"


def test_files_on_the_hub_are_replaced_only_if_asked_for(hub: Hub, encoder: Path, tmp_path: Path) -> None:
    hub.repos["me/mine"] = Repo()
    hub.repos["me/mine"].commit({"config.json": b"old", "notes.md": b"kept"})
    with pytest.raises(
        UserError, match=r"me/mine already contains files \(config.json, notes.md\); name a new repository, or"
    ):
        export(encoder, tmp_path / "out", "push=me/mine", "license=mit")
    assert not (tmp_path / "out").exists()
    export(encoder, tmp_path / "out", "push=me/mine", "license=mit", "overwrite=true")
    files = hub.repos["me/mine"].files("main") or {}
    assert files["notes.md"] == b"kept"
    assert files["config.json"] == (tmp_path / "out" / "config.json").read_bytes()
    assert len(hub.repos["me/mine"].revisions) == 2


def test_no_file_holds_the_token(hub: Hub, encoder: Path, tmp_path: Path) -> None:
    done = export(encoder, tmp_path / "out", "push=me/mine", "license=mit")
    assert not [path for path in done.files if TOKEN.encode() in path.read_bytes()]


def test_the_login_is_checked_before_anything_is_written(
    hub: Hub, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*more: str) -> str:
        with pytest.raises(UserError) as raised:
            export(encoder, tmp_path / "out", *more)
        assert not (tmp_path / "out").exists()
        assert not hub.repos
        return str(raised.value)

    to = ("push=me/mine", "license=mit")
    assert "license: name the license under which others may use the weights" in refused("push=me/mine")
    assert refused("push=you/mine", "license=mit").startswith(
        "push: you are logged in as me, who may write to me, us but not to you/mine"
    )
    scope = {"entity": {"name": "me", "type": "user"}, "permissions": ["repo.content.read"]}
    for token in ({"role": "read"}, {"role": "fineGrained", "fineGrained": {"scoped": [scope]}}):
        hub.token = token
        assert refused(*to).startswith(
            "push: your access token may not write to me/mine; create one with write access in the settings of your"
        )
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "push: cannot ask the Hub who is logged in: Invalid user token." in refused(*to)
    monkeypatch.delenv("HF_TOKEN")
    assert refused(*to) == "push: you are not logged in to the Hub; run `hf auth login` once, or set HF_TOKEN"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set; unset it" in refused(*to)


@pytest.mark.parametrize(
    "token",
    [
        {},
        {"role": "write"},
        {"role": "fineGrained"},
        {"role": "fineGrained", "fineGrained": {"scoped": [{"entity": {"name": "me"}, "permissions": ["repo.write"]}]}},
    ],
)
def test_a_token_that_may_write_or_does_not_say_is_tried(
    hub: Hub, encoder: Path, tmp_path: Path, token: dict[str, Any]
) -> None:
    hub.token = token
    assert export(encoder, tmp_path / "out", "push=me/mine", "license=mit").uploaded


def test_a_failed_upload_leaves_the_folder_and_says_how_to_go_on(hub: Hub, encoder: Path, tmp_path: Path) -> None:
    hub.full = True
    with pytest.raises(UserError, match=r"out was written, but could not be uploaded to me/mine: .*overwrite=true"):
        export(encoder, tmp_path / "out", "push=me/mine", "license=mit")
    assert read_encoder_card(tmp_path / "out").sha256 == read_encoder_card(encoder).sha256
    hub.full = False
    assert export(encoder, tmp_path / "out", "push=me/mine", "license=mit", "overwrite=true").uploaded


def test_an_argument_that_is_a_path_is_not_pushed_and_warned_of(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    export_encoder(build(), tmp_path / "encoder")
    monkeypatch.setattr("retouch.exporting.export.has_path", lambda args: True)
    with pytest.raises(UserError, match=r"push: encoder.model_args holds a path of this machine"):
        export(tmp_path / "encoder", tmp_path / "out", "push=me/mine", "license=mit")
    assert not (tmp_path / "out").exists()
    export(tmp_path / "encoder", tmp_path / "out")
    assert "encoder.model_args holds a path of this machine, and so will config.json of the export" in caplog.text

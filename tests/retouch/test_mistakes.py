"""Common mistakes, as a table: what is typed, and the exact message. Exit code 2, nothing overwritten."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import dump_config, load_config
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from finetune.config import EmbedConfig, FinetuneConfig, ProbeConfig
from pretrain.config import PretrainConfig
from retouch.cli import main

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs" / "pretrain" / "denoise.yaml")

HOLE_OF_AN_IMAGE = "size is 32, but images have 32 px: nothing would be hidden; use at most 16"

# each stage with a shipped config, and the settings that make it valid in the working folder below
CONFIGS: dict[str, tuple[str, Any, list[str]]] = {
    "pretrain": (CONFIG, PretrainConfig, []),
    "probe": (
        str(ROOT / "configs" / "probe" / "linear.yaml"),
        ProbeConfig,
        ["encoder=cnn", "data.train=folder:two", "data.task=null"],
    ),
    "finetune": (
        str(ROOT / "configs" / "finetune" / "full.yaml"),
        FinetuneConfig,
        ["encoder=cnn", "data.train=folder:two", "data.task=null"],
    ),
    "embed": (
        str(ROOT / "configs" / "embed" / "embed.yaml"),
        EmbedConfig,
        ["encoder=cnn", "data.source=folder:two"],
    ),
}
LABELED = ("probe", "finetune")
FROZEN = ("probe", "finetune", "embed")
TINY_VIT = {"patch_size": 4, "embed_dim": 48, "depth": 1, "num_heads": 3}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder, and one that supports only its own image size."""
    folder = tmp_path_factory.mktemp("encoders")
    for name, config in (
        ("cnn", EncoderConfig(model_args={"width": 4, "depth": 1})),
        ("vit", EncoderConfig(name="timm/vit_tiny_patch16_224", model_args=TINY_VIT)),
    ):
        torch.manual_seed(0)
        export_encoder(build_encoder(config, image_size=16), folder / name, {})
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoders: Path) -> Path:
    """A working folder with an empty folder, a folder of notes, a full one, photos with and without classes, and
    intact and damaged encoders."""
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "notes", "full", "photos"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("no image here")
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "one.png")
    for folder, classes, first in (("two", "ab", 0), ("three", "abc", 12), ("one", "a", 24)):
        for number in range(12):
            picture(tmp_path / folder / classes[number % len(classes)] / f"{number}.png", first + number)
    shutil.copytree(encoders, tmp_path, dirs_exist_ok=True)
    shutil.copytree(encoders / "cnn", tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (tmp_path / "earlier" / "encoder").mkdir(parents=True)
    (tmp_path / "earlier" / "encoder" / "config.json").write_text("{}")
    return tmp_path


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(path)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


MISTAKES = [
    pytest.param(
        "pretrain",
        ["stepz=3"],
        ["Found 1 error in {config}:", "  stepz: unknown key; did you mean 'steps'?"],
        id="unknown-key",
    ),
    pytest.param(
        "pretrain",
        ["pretext.kind=denoize"],
        [
            "Found 1 error in {config}:",
            "  pretext.kind: unknown kind 'denoize'; did you mean 'denoise'?; "
            "one of denoise, colorize, mask, mixed, identity",
        ],
        id="misspelled-kind",
    ),
    pytest.param(
        "pretrain",
        ["batch_size=0", "base_lr=fast", "data.image_size=4"],
        [
            "Found 3 errors in {config}:",
            "  batch_size: input should be greater than 0, got 0",
            "  base_lr: input should be a valid number, unable to parse string as a number, got 'fast'",
            "  data.image_size: input should be greater than or equal to 8, got 4",
        ],
        id="types-and-ranges-all-at-once",
    ),
    pytest.param(
        "pretrain",
        ["steps=10", "epochs=2"],
        ["Found 1 error in {config}:", "  give steps or epochs, exactly one of them"],
        id="two-lengths",
    ),
    pytest.param("pretrain", ["steps"], ["'steps': an override is written key=value"], id="override-without-value"),
    pytest.param(
        "pretrain",
        ["out=full"],
        ["out: full is not empty; use resume=true to continue, overwrite=true to start over, or another out"],
        id="non-empty-out",
    ),
    pytest.param(
        "pretrain",
        ["out=full", "overwrite=true"],
        ["out: full holds files that no stage wrote, so it cannot be overwritten; choose another out"],
        id="overwrite-of-foreign-folder",
    ),
    pytest.param(
        "pretrain",
        ["encoder.name=smal_cnn"],
        [
            "encoder.name: no encoder 'smal_cnn'; did you mean small_cnn?; use small_cnn, mlp, linear, sparse_code, "
            "patch_dictionary, kernel, or timm/ and the name of a timm model"
        ],
        id="unknown-encoder",
    ),
    pytest.param(
        "pretrain",
        ["data.image_size=8"],
        [
            "small_cnn cannot be used as an encoder at 8 px: it halves images 3 times; use a multiple of 8 px, at "
            "least 16 px"
        ],
        id="image-size-refused",
    ),
    pytest.param(
        "pretrain",
        ["data.source=foldr:photos"],
        ["'foldr:photos': unknown source 'foldr'; did you mean 'folder'?"],
        id="unknown-source",
    ),
    pytest.param(
        "pretrain",
        ["data=nowhere"],
        [
            "'nowhere': no such file or folder: {here}/nowhere; give a folder, a .zip, a .csv or .txt that lists "
            "images, .parquet files, shapes, photos, hf:NAME, torchvision:NAME or patches:SOURCE"
        ],
        id="plain-path-that-is-not-there",
    ),
    pytest.param(
        "pretrain",
        ["out=runs/a-{n}", "resume=true", "data=foto"],
        [
            "'foto': no such file or folder: {here}/foto; did you mean photos or ./photos?",
            "resume=true, but no run is named; say which run: out=FOLDER",
        ],
        id="resume-without-a-run",
    ),
    pytest.param(
        "pretrain",
        ["data.source=parquet:none-*.parquet"],
        ["parquet:none-*.parquet: no file matches (from {here})"],
        id="parquet-that-matches-nothing",
    ),
    pytest.param(
        "pretrain",
        ["out=full", "data.source=folder:nowhere", "encoder.name=none"],
        [
            "folder:nowhere: no such folder: {here}/nowhere",
            "encoder.name: no encoder 'none'; use small_cnn, mlp, linear, sparse_code, patch_dictionary, kernel, or "
            "timm/ and the name of a timm model",
            "out: full is not empty; use resume=true to continue, overwrite=true to start over, or another out",
        ],
        id="several-at-once",
    ),
    pytest.param(
        "pretrain",
        ["encoder.name=none", "decoder.kind=transformer", "decoder.width=100", "data.source=folder:nowhere"],
        [
            "folder:nowhere: no such folder: {here}/nowhere",
            "encoder.name: no encoder 'none'; use small_cnn, mlp, linear, sparse_code, patch_dictionary, kernel, or "
            "timm/ and the name of a timm model",
            "decoder.width must be a multiple of 32 for a transformer, got 100",
        ],
        id="encoder-decoder-and-source",
    ),
    pytest.param(
        "pretrain",
        [
            "pretext={kind: mask, size: 5}",
            "decoder.kind=transformer",
            "decoder.width=100",
            "encoder.model_args.depth=1",
        ],
        [
            "small_cnn cannot be pretrained with mask:",
            "  pretext.size is 5, which does not divide the image size 32: hidden patches must fill the image",
            "  decoder.width must be a multiple of 32 for a transformer, got 100",
        ],
        id="pretext-and-decoder",
    ),
    pytest.param(
        "pretrain",
        ["pretext.corruption={kind: holes, size: 32}"],
        ["small_cnn cannot be pretrained with denoise:", f"  pretext.corruption: {HOLE_OF_AN_IMAGE}"],
        id="hole-as-large-as-the-image",
    ),
    pytest.param(
        "pretrain",
        ["pretext={kind: mixed, members: [{kind: gray}, {kind: holes, size: 32}]}"],
        ["small_cnn cannot be pretrained with mixed:", f"  pretext.members.1: {HOLE_OF_AN_IMAGE}"],
        id="hole-as-large-as-the-image-in-a-mix",
    ),
    pytest.param(
        "probe",
        ["damage=[{kind: gray}, {kind: holes, size: 16}]"],
        ["damage.1: size is 16, but images have 16 px: nothing would be hidden; use at most 8"],
        id="hole-as-large-as-the-test-image",
    ),
    *(
        pytest.param(stage, [f"{key}={source}"], [f"{source}: {message}"], id=f"{stage}-{source}")
        for stage, key in (
            ("pretrain", "data.source"),
            ("probe", "data.train"),
            ("probe", "data.test"),
            ("finetune", "data.train"),
            ("finetune", "data.test"),
            ("embed", "data.source"),
        )
        for source, message in (
            ("folder:nowhere", "no such folder: {here}/nowhere"),
            ("folder:empty", "the folder is empty: {here}/empty"),
            ("folder:notes", "no image files in {here}/notes (found 1 .txt)"),
        )
    ),
    *(
        pytest.param(
            stage,
            ["out=full"],
            ["out: full is not empty; use resume=true to continue, overwrite=true to start over, or another out"],
            id=f"{stage}-non-empty-out",
        )
        for stage in FROZEN
    ),
    *(
        pytest.param(stage, [f"encoder={folder}"], [message], id=f"{stage}-encoder-{folder}")
        for stage in FROZEN
        for folder, message in (
            ("nowhere", "nowhere: no such folder; use the folder of a finished run"),
            ("photos", "photos is not an encoder: it has no config.json; use the folder of a finished run"),
            (
                "earlier",
                "earlier/encoder has no model.safetensors: the copy is incomplete, or its weights have another format",
            ),
            (
                "cut",
                "cut/model.safetensors cannot be read (Error while deserializing header: incomplete metadata, file not "
                "fully covered): it is truncated or not safetensors; copy or export it again",
            ),
        )
    ),
    *(
        pytest.param(
            stage,
            ["data.task=color"],
            ["folder:two: no task 'color'; it has label; set data.task to one, or to null"],
            id=f"{stage}-no-such-task",
        )
        for stage in FROZEN
    ),
    pytest.param(
        "probe",
        ["data.train=shapes", "data.task=[hue, shape, size]"],
        [
            f"shapes:train:20000: no task '{task}'; it has shape, color, texture, all; set data.task to one, or to null"
            for task in ("hue", "size")
        ],
        id="probe-no-such-tasks",
    ),
    *(
        pytest.param(stage, overrides, lines, id=f"{stage}-{name}")
        for stage in LABELED
        for name, overrides, lines in (
            (
                "more-classes-in-test",
                ["data.test=folder:three"],
                [
                    "task 'label': images of c are in the test set only; training has a, b: add such images to "
                    "training, or take them out of the test set"
                ],
            ),
            (
                "one-class",
                ["data.train=folder:one"],
                ["folder:one (80% for training, seed 0): task 'label' has only one class (a); at least two are needed"],
            ),
            (
                "no-labels",
                ["data.train=folder:photos"],
                [
                    "folder:photos: labels are needed, but some images (such as one.png) are not in a class folder: "
                    "put each image into a folder named after its class"
                ],
            ),
        )
    ),
    *(
        pytest.param(
            stage,
            ["encoder=vit", "data.image_size=30"],
            [
                "data.image_size=30: timm/vit_tiny_patch16_224 does not support this size: Input height (30) "
                "doesn't match model (16); remove data.image_size"
            ],
            id=f"{stage}-image-size-refused",
        )
        for stage in FROZEN
    ),
    *(
        pytest.param(
            stage,
            ["data.levels=[0, 4095]", f"{'data.source' if stage == 'pretrain' else 'data.image_size'}={value}"],
            ["data.levels: folder:two has images of 8 bits, for which there is nothing to set; remove it"],
            id=f"{stage}-levels-of-8-bits",
        )
        for stage, value in {"pretrain": "folder:two", **dict.fromkeys(FROZEN, "16")}.items()
    ),
    *(
        pytest.param(
            stage,
            ["data.levels=[5, 2]"],
            [
                "Found 1 error in {config}:",
                "  data.levels: must be [black, white], the smaller value first, got [5, 2]",
            ],
            id=f"{stage}-levels-descending",
        )
        for stage in CONFIGS
    ),
    pytest.param(
        "embed",
        ["layer=each"],
        ["layer: 'each' selects several feature sets; choose one with a number, all, or lastN"],
        id="embed-several-layers",
    ),
    pytest.param(
        "probe",
        ["data.train=folder:nowhere", "data.test=folder:empty", "encoder=cut", "out=full"],
        [
            "out: full is not empty; use resume=true to continue, overwrite=true to start over, or another out",
            "cut/model.safetensors cannot be read (Error while deserializing header: incomplete metadata, file not "
            "fully covered): it is truncated or not safetensors; copy or export it again",
            "folder:nowhere: no such folder: {here}/nowhere",
            "folder:empty: the folder is empty: {here}/empty",
        ],
        id="probe-several-at-once",
    ),
    pytest.param(
        "finetune",
        ["data.train=folder:nowhere", "data.test=folder:empty", "encoder=photos", "out=full"],
        [
            "photos is not an encoder: it has no config.json; use the folder of a finished run",
            "folder:nowhere: no such folder: {here}/nowhere",
            "folder:empty: the folder is empty: {here}/empty",
            "out: full is not empty; use resume=true to continue, overwrite=true to start over, or another out",
        ],
        id="finetune-several-at-once",
    ),
    pytest.param(
        "probe",
        ["probe.layers=[9, each, -8]", "data.train=folder:nowhere", "out=full"],
        [
            "out: full is not empty; use resume=true to continue, overwrite=true to start over, or another out",
            "there is no layer 9; the encoder has layers 0 to 2",
            "there is no layer -8; the encoder has layers 0 to 2",
            "folder:nowhere: no such folder: {here}/nowhere",
        ],
        id="probe-layers-and-data",
    ),
    pytest.param(
        "probe",
        ["data.task=color", "data.test=folder:nowhere"],
        [
            "folder:two: no task 'color'; it has label; set data.task to one, or to null",
            "folder:nowhere: no such folder: {here}/nowhere",
        ],
        id="probe-task-and-test-set",
    ),
    pytest.param(
        "embed",
        ["layer=9", "data.source=folder:nowhere", "out=full"],
        [
            "out: full is not empty; use resume=true to continue, overwrite=true to start over, or another out",
            "there is no layer 9; the encoder has layers 0 to 2",
            "folder:nowhere: no such folder: {here}/nowhere",
        ],
        id="embed-layer-and-data",
    ),
    pytest.param(
        "embed",
        ["data.source=folder:nowhere", "encoder=nowhere", "out=full"],
        [
            "out: full is not empty; use resume=true to continue, overwrite=true to start over, or another out",
            "nowhere: no such folder; use the folder of a finished run",
            "folder:nowhere: no such folder: {here}/nowhere",
        ],
        id="embed-several-at-once",
    ),
    pytest.param(
        "probe",
        ["batch_size=0", "seeed=1", "probe.kind=logistik", "knn.kk=1", "data.task=[shape, shape]"],
        [
            "Found 5 errors in {config}:",
            "  batch_size: input should be greater than 0, got 0",
            "  data.task: must be one task or a list of different tasks",
            "  probe.kind: input should be 'logistic' or 'ridge', got 'logistik'",
            "  knn.kk: unknown key; did you mean 'k'?",
            "  seeed: unknown key; did you mean 'seed'?",
        ],
        id="probe-config",
    ),
    pytest.param(
        "finetune",
        ["batch_size=0", "seeed=1", "layer_decay=2", "encoder.from_scrach=true"],
        [
            "Found 4 errors in {config}:",
            "  batch_size: input should be greater than 0, got 0",
            "  encoder.from_scrach: unknown key; did you mean 'from_scratch'?",
            "  layer_decay: input should be less than or equal to 1, got 2",
            "  seeed: unknown key; did you mean 'seed'?",
        ],
        id="finetune-config",
    ),
    pytest.param(
        "embed",
        ["batch_size=0", "seeed=1", "store=thin", "pooling=mean", "data.sourc=shapes"],
        [
            "Found 5 errors in {config}:",
            "  batch_size: input should be greater than 0, got 0",
            "  data.sourc: unknown key; did you mean 'source'?",
            "  pooling: must be avg, avg2, max, flatten, or several joined by '+'",
            "  store: input should be 'dense' or 'sparse', got 'thin'",
            "  seeed: unknown key; did you mean 'seed'?",
        ],
        id="embed-config",
    ),
]


def messages(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of stderr."""
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(("stage", "overrides", "lines"), MISTAKES)
def test_mistake_gives_a_plain_message(
    here: Path, capsys: pytest.CaptureFixture[str], stage: str, overrides: list[str], lines: list[str]
) -> None:
    config, _, right = CONFIGS[stage]
    before = files(here)
    common = ["out=new", "data.workers=0", "wandb.mode=disabled"]
    assert main([stage, config, *common, *right, *overrides]) == 2
    expected = [line.format(config=config, here=here) for line in lines]
    assert messages(capsys) == [f"retouch {stage}: {expected[0]}", *expected[1:]]
    assert files(here) == before


@pytest.mark.parametrize("stage", list(CONFIGS))
def test_unreadable_images_cost_nothing_of_an_earlier_run(
    here: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    config, schema, right = CONFIGS[stage]
    for path in (here / "two").glob("*/*.png"):
        path.write_bytes(b"no picture")
    source = [] if stage != "pretrain" else ["data.source=folder:two"]
    (here / "old").mkdir()
    first = f"# retouch {stage}\n"
    (here / "old" / "config.yaml").write_text(first + dump_config(load_config(schema, config, ["out=old", *right])))
    (here / "old" / "results.json").write_text("precious")
    before = files(here)
    common = ["out=old", "overwrite=true", "data.workers=0", "wandb.mode=disabled"]
    assert main([stage, config, *common, *right, *source]) == 2
    assert "no image can be read, for example two/a/" in messages(capsys)[-1]
    assert files(here) == before


@pytest.mark.parametrize("stage", LABELED)
def test_unreadable_images_of_all_classes_but_one_are_found_before_the_run(
    here: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    config, _, right = CONFIGS[stage]
    for path in (here / "two" / "b").glob("*.png"):
        path.write_bytes(b"no picture")
    before = files(here)
    assert main([stage, config, "out=new", "data.workers=0", "wandb.mode=disabled", *right]) == 2
    assert messages(capsys)[-1] == (
        f"retouch {stage}: task 'label': all 5 training images are of one class (a); at least two are needed: "
        "add images"
    )
    assert files(here) == before


@pytest.mark.parametrize("stage", list(CONFIGS))
def test_resumption_with_another_config_is_refused(here: Path, capsys: pytest.CaptureFixture[str], stage: str) -> None:
    config, schema, right = CONFIGS[stage]
    (here / "old").mkdir()
    (here / "old" / "config.yaml").write_text(dump_config(load_config(schema, config, ["out=old", *right])))
    before = files(here)
    assert main([stage, config, "out=old", *right, "resume=true", "seed=1", "batch_size=64", "data.limit=10"]) == 2
    old = load_config(schema, config, ["out=old", *right])
    assert messages(capsys) == [
        f"retouch {stage}: resume=true, but the config differs from the one in old/config.yaml:",
        f"  batch_size: was {old.batch_size}, now 64",
        f"  data.limit: was {old.data.limit}, now 10",
        "  seed: was 0, now 1",
    ]
    assert files(here) == before


# ---- warnings


def test_test_images_that_are_training_images_are_counted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("0", "1", "2"):
        shutil.copy(next((here / "two").glob(f"*/{name}.png")), here / "three" / "a" / f"copy{name}.png")
    shutil.rmtree(here / "three" / "c")
    config, _, right = CONFIGS["probe"]
    quick = ["knn=null", "damage=[]", "properties=false", "baselines.random_init=false", "baselines.pixels=false"]
    common = ["out=new", "data.workers=0", "wandb.mode=disabled", "data.test=folder:three"]
    assert main(["probe", config, *common, *right, *quick]) == 0
    assert [line for line in messages(capsys) if line.startswith("warning")] == [
        "warning: 3 of 11 test images are identical to training images: test accuracy may be too high"
    ]
    assert (here / "new" / "results.json").is_file()


def test_more_workers_than_cores_are_counted(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.machine.cores.usable_cores", lambda: 1)
    config, _, right = CONFIGS["embed"]
    assert main(["embed", config, "out=new", "data.workers=2", "wandb.mode=disabled", *right]) == 0
    assert [line for line in messages(capsys) if line.startswith("warning")] == [
        "warning: data.workers=2, but this machine has 1 cores: more workers will not decode faster"
    ]
    assert (here / "new" / "features.parquet").is_file()


KINDS = "pca, ica, cca, tca, sparse_coding, patch_dictionary"
ONE_ERROR = "Found 1 error in {config}:"
FIT_MISTAKES = [
    pytest.param(
        "pca",
        ["fit.kind=pcaa"],
        [ONE_ERROR, f"  fit.kind: unknown kind 'pcaa'; did you mean 'pca'?; one of {KINDS}"],
        id="unknown-kind",
    ),
    pytest.param(
        "pca",
        ["fit.component=8"],
        [ONE_ERROR, "  fit.component: unknown key; did you mean 'components'?"],
        id="unknown-key",
    ),
    pytest.param(
        "pca",
        ["encoder.name=mlp", "penalty.l1=0.1"],
        [
            "Found 2 errors in {config}:",
            "  encoder: `fit` methods have their own encoder and objective: remove it",
            "  penalty: `fit` methods have their own encoder and objective: remove it",
        ],
        id="encoder-beside-fit",
    ),
    pytest.param(
        "pca",
        ["steps=10", "precision=bfloat16"],
        [
            "Found 2 errors in {config}:",
            "  precision: `fit` methods do not use gradient descent: remove it",
            "  fit.kind=pca makes exactly one pass: remove steps; remove epochs or set epochs=1",
        ],
        id="several-settings-without-use",
    ),
    pytest.param(
        "pca",
        ["steps=10"],
        [ONE_ERROR, "  fit.kind=pca makes exactly one pass: remove steps; remove epochs or set epochs=1"],
        id="one-pass-with-steps",
    ),
    pytest.param(
        "ica",
        ["steps=10"],
        [ONE_ERROR, "  fit.kind=ica is fitted on one sample: remove steps; remove epochs or set epochs=1"],
        id="one-sample-with-steps",
    ),
    pytest.param(
        "cca",
        ["fit={kind: cca, views: other}"],
        [ONE_ERROR, "  fit.views=other needs data.other, the second view"],
        id="second-view-not-given",
    ),
    pytest.param(
        "cca",
        ["fit.views=neighbors"],
        [ONE_ERROR, "  fit: damage needs views=damage, not views=neighbors: remove it"],
        id="damage-of-another-view",
    ),
    pytest.param(
        "pca",
        ["data.other=shapes"],
        [ONE_ERROR, "  fit.kind=pca does not use data.other: remove it"],
        id="second-source-without-use",
    ),
    pytest.param(
        "denoise",
        ["data.other=shapes"],
        [ONE_ERROR, "  pretext.kind=denoise does not use data.other: remove it"],
        id="second-source-without-fit",
    ),
    pytest.param(
        "tca",
        ["fit={kind: tca}"],
        [ONE_ERROR, "  fit.kind=tca needs a second domain: set data.other, or damage the first (fit.damage)"],
        id="second-domain-not-given",
    ),
    pytest.param(
        "tca",
        ["fit.components=64", "fit.landmarks=33"],
        [ONE_ERROR, "  fit: components is 64, but there are only 32 landmarks: lower it"],
        id="more-components-than-landmarks",
    ),
    pytest.param(
        "tca",
        ["data.limit=300"],
        ["fit.landmarks=1000 needs 500 images per domain, but there are 300: lower it"],
        id="more-landmarks-than-images",
    ),
    *(
        pytest.param(
            kind,
            ["fit.damage={kind: holes, size: 32}", "data.image_size=32"],
            [f"fit.damage: {HOLE_OF_AN_IMAGE}"],
            id=f"hole-as-large-as-the-image-{kind}",
        )
        for kind in ("cca", "tca")
    ),
    pytest.param(
        "sparse_coding",
        ["fit.penalty=l0", "fit.gamma=0.1"],
        [ONE_ERROR, "  fit: gamma needs penalty=l1; with penalty=l0 atoms have unit norm: remove it"],
        id="gamma-with-l0",
    ),
    pytest.param(
        "sparse_coding_l0",
        ["fit.penalty=atoms", "fit.atoms=16", "fit.top_k=20"],
        [ONE_ERROR, "  fit: top_k is 20, but there are only 16 atoms: lower it"],
        id="top-k-beyond-atoms",
    ),
    pytest.param(
        "patch_dictionary",
        ["fit.network.atoms=7"],
        [ONE_ERROR, "  fit.network: mirror needs an even number of atoms, not 7"],
        id="odd-atoms-mirrored",
    ),
    pytest.param(
        "patch_dictionary",
        ["fit.learn=pca"],
        [
            "Found 2 errors in {config}:",
            "  fit: learn=pca finds atoms that are mirror images of themselves or of each other, so mirroring "
            "adds none: set fit.network.mirror=false",
            "  fit: learn=pca finds at most 108 atoms of 6 px patches: lower fit.network.atoms",
        ],
        id="more-components-than-a-patch-has-numbers",
    ),
    pytest.param(
        "pca",
        ["data.image_size=8", "fit.components=200"],
        [
            "fit.components=200: images of 8 px have 192 values and allow no more components; lower it, or raise "
            "data.image_size"
        ],
        id="more-components-than-an-image-has-numbers",
    ),
    pytest.param(
        "pca",
        ["data.image_size=8", "fit.components=200", "data.source=folder:nowhere", "out=full"],
        [
            "folder:nowhere: no such folder: {here}/nowhere",
            "fit.components=200: images of 8 px have 192 values and allow no more components; lower it, or raise "
            "data.image_size",
            "out: full is not empty; use resume=true to continue, overwrite=true to start over, or another out",
        ],
        id="components-and-source",
    ),
    pytest.param(
        "tca",
        ["fit={kind: tca}", "data.source=folder:nowhere", "data.other=folder:empty"],
        ["folder:nowhere: no such folder: {here}/nowhere", "folder:empty: the folder is empty: {here}/empty"],
        id="both-sources",
    ),
    pytest.param(
        "cca",
        ["data.limit=50"],
        [
            "fit.components=64 needs at least 65 images, but there are 50; lower it, or use more (data.source, "
            "data.limit)"
        ],
        id="more-components-than-images",
    ),
    pytest.param(
        "cca",
        ["fit={kind: cca, views: other}", "data.other=shapes:test"],
        ["fit.kind=cca pairs images by row, but shapes:train:20000 has 20,000 rows and shapes:test:4000 has 4,000"],
        id="pairs-of-unequal-sources",
    ),
]


@pytest.mark.parametrize(("name", "overrides", "lines"), FIT_MISTAKES)
def test_mistake_with_a_fit_gives_a_plain_message(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, overrides: list[str], lines: list[str]
) -> None:
    config = str(ROOT / "configs" / "pretrain" / f"{name}.yaml")
    before = files(here)
    assert main(["pretrain", config, "out=run", "wandb.mode=disabled", *overrides]) == 2
    expected = [line.format(config=config, here=here) for line in lines]
    assert capsys.readouterr().err.splitlines() == [f"retouch pretrain: {expected[0]}", *expected[1:]]
    assert files(here) == before


def test_missing_config_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "none.yaml"]) == 2
    assert capsys.readouterr().err == "retouch pretrain: config file not found: none.yaml\n"

"""Common mistakes with probe, finetune and embed, or with any stage: what is typed, and the exact message."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.retouch.mistakes.stages import CONFIGS, FROZEN, LABELED, assert_told

MISTAKES = [
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
            ["folder:two: no task 'color'; it has label; set data.task to one of them, or remove it"],
            id=f"{stage}-no-such-task",
        )
        for stage in FROZEN
    ),
    pytest.param(
        "probe",
        ["data.train=shapes", "data.task=[hue, shape, size]"],
        [
            f"shapes:train:20000: no task '{task}'; it has shape, color, texture, all; set data.task to one of "
            "them, or remove it"
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
                    "put each image into a folder named after its class, or label them with the page that "
                    "`retouch label encoder=RUN data=photos` writes"
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
            "folder:two: no task 'color'; it has label; set data.task to one of them, or remove it",
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
    pytest.param(
        "probe",
        ["damage=[{kind: gray}, {kind: holes, size: 16}]"],
        ["damage.1: size is 16, but images have 16 px: nothing would be hidden; use at most 8"],
        id="hole-as-large-as-the-test-image",
    ),
]


@pytest.mark.parametrize(("stage", "overrides", "lines"), MISTAKES)
def test_mistake_gives_a_plain_message(
    here: Path, capsys: pytest.CaptureFixture[str], stage: str, overrides: list[str], lines: list[str]
) -> None:
    config, _, right = CONFIGS[stage]
    common = ["out=new", "data.workers=0", "wandb.mode=disabled"]
    assert_told(here, capsys, stage, config, [*common, *right, *overrides], lines)

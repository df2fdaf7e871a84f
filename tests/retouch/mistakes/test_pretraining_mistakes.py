"""Common mistakes with pretraining: what is typed, and the exact message."""

from __future__ import annotations

from pathlib import Path

import pytest

from retouch.cli import main
from tests.retouch.mistakes.stages import CONFIG, HOLE_OF_AN_IMAGE, assert_told

MISTAKES = [
    pytest.param(
        ["stepz=3"],
        ["Found 1 error in {config}:", "  stepz: unknown key; did you mean 'steps'?"],
        id="unknown-key",
    ),
    pytest.param(
        ["pretext.kind=denoize"],
        [
            "Found 1 error in {config}:",
            "  pretext.kind: unknown kind 'denoize'; did you mean 'denoise'?; "
            "one of denoise, colorize, mask, mixed, identity",
        ],
        id="misspelled-kind",
    ),
    pytest.param(
        ["batch_size=0", "base_lr=fast", "data.image_size=4"],
        [
            "Found 3 errors in {config}:",
            "  batch_size: input should be greater than 0, got 0",
            "  base_lr: input should be a number, got 'fast'",
            "  data.image_size: input should be greater than or equal to 8, got 4",
        ],
        id="types-and-ranges-all-at-once",
    ),
    pytest.param(
        ["steps=10", "epochs=2"],
        [
            "Found 1 error in {config}:",
            "  give steps or epochs, not both: set steps=null to train by epochs, or epochs=null",
        ],
        id="two-lengths",
    ),
    pytest.param(["steps"], ["'steps': an override is written key=value"], id="override-without-value"),
    pytest.param(
        ["out=full"],
        ["out: full is not empty; use resume=true to continue, overwrite=true to start over, or another out"],
        id="non-empty-out",
    ),
    pytest.param(
        ["out=full", "overwrite=true"],
        ["out: full holds files that no stage wrote, so it cannot be overwritten; choose another out"],
        id="overwrite-of-foreign-folder",
    ),
    pytest.param(
        ["encoder.name=smal_cnn"],
        [
            "encoder.name: no encoder 'smal_cnn'; did you mean small_cnn?; use small_cnn, mlp, linear, sparse_code, "
            "patch_dictionary, kernel, or timm/ and the name of a timm model"
        ],
        id="unknown-encoder",
    ),
    pytest.param(
        ["data.image_size=8"],
        [
            "small_cnn cannot be used as an encoder at 8 px: it halves images 3 times; use a multiple of 8 px, at "
            "least 16 px"
        ],
        id="image-size-refused",
    ),
    pytest.param(
        ["data.source=foldr:photos"],
        ["'foldr:photos': unknown source 'foldr'; did you mean 'folder'?"],
        id="unknown-source",
    ),
    pytest.param(
        ["data=nowhere"],
        [
            "'nowhere': no such file or folder: {here}/nowhere; give a folder, a .zip, a .csv or .txt that lists "
            "images, .parquet files, shapes, photos, hf:NAME, torchvision:NAME or patches:SOURCE"
        ],
        id="plain-path-that-is-not-there",
    ),
    pytest.param(
        ["out=runs/a-{n}", "resume=true", "data=foto"],
        [
            "'foto': no such file or folder: {here}/foto; did you mean photos or ./photos?",
            "resume=true, but no run is named; say which run: out=FOLDER",
        ],
        id="resume-without-a-run",
    ),
    pytest.param(
        ["data.source=parquet:none-*.parquet"],
        ["parquet:none-*.parquet: no file matches (from {here})"],
        id="parquet-that-matches-nothing",
    ),
    pytest.param(
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
        ["pretext.corruption={kind: holes, size: 32}"],
        ["small_cnn cannot be pretrained with denoise:", f"  pretext.corruption: {HOLE_OF_AN_IMAGE}"],
        id="hole-as-large-as-the-image",
    ),
    pytest.param(
        ["pretext={kind: mixed, members: [{kind: gray}, {kind: holes, size: 32}]}"],
        ["small_cnn cannot be pretrained with mixed:", f"  pretext.members.1: {HOLE_OF_AN_IMAGE}"],
        id="hole-as-large-as-the-image-in-a-mix",
    ),
]


@pytest.mark.parametrize(("overrides", "lines"), MISTAKES)
def test_mistake_gives_a_plain_message(
    here: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], lines: list[str]
) -> None:
    common = ["out=new", "data.workers=0", "wandb.mode=disabled"]
    assert_told(here, capsys, "pretrain", CONFIG, [*common, *overrides], lines)


def test_a_missing_config_file_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "none.yaml"]) == 2
    assert capsys.readouterr().err == "retouch pretrain: config file not found: none.yaml\n"

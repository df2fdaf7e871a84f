"""A batch that no memory holds is refused by every stage that has batches, before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import retouch
from common.errors import UserError
from retouch.cli import main
from tests.retouch.mistakes.stages import CONFIGS, files, messages
from tests.retouch.quick_stages import PICTURES, export, run

SETTINGS = ["out=new", "data.workers=0", "wandb.mode=disabled", "batch_size=1000000000"]
NEW = ("predict", "search", "strange")


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_batch_of_training_is_refused_on_any_machine(
    stage: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _, right = CONFIGS[stage]
    before = files(here)
    assert main([stage, config, *right, *SETTINGS]) == 2
    [said] = [line for line in messages(capsys) if "batch_size" in line]
    size = {"pretrain": "32 px take 14.0 TiB", "finetune": "16 px take 3.5 TiB"}[stage]
    assert said.startswith(f"retouch {stage}: batch_size: the images of a batch of 1,000,000,000 at {size} of memory, ")
    assert files(here) == before


@pytest.mark.parametrize("stage", ["probe", "embed"])
def test_a_pass_over_few_images_fits_unless_there_is_no_memory_for_them(
    stage: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _, right = CONFIGS[stage]
    before = files(here)
    with monkeypatch.context() as patch:
        patch.setattr("common.machine.room.available_memory", lambda: 10_000)
        assert main([stage, config, *right, *SETTINGS]) == 2
    images = {"probe": 10, "embed": 12}[stage]  # of twelve, the probe holds two out
    assert f"batch_size: the images of a batch of {images} at 16 px take " in messages(capsys)[-1]
    assert files(here) == before
    if stage == "embed":
        assert main([stage, config, *right, *SETTINGS]) == 0


@pytest.mark.parametrize("stage", NEW)
def test_stages_for_new_images_refuse_it_too(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    retouch.images(PICTURES, "pictures")
    export(tmp_path)
    monkeypatch.setattr("common.machine.room.available_memory", lambda: 10_000)
    assert run(stage, tmp_path / stage, "batch_size=1000000000") == 2
    assert f"batch_size: the images of a batch of {len(PICTURES)} at 16 px take " in messages(capsys)[-1]
    assert not (tmp_path / stage).exists()


def test_a_fit_of_images_in_memory_refuses_it_too() -> None:
    with pytest.raises(UserError, match="a batch of 1,000,000,000 at 8 px"):
        retouch.fit({"kind": "pca", "components": 4}, torch.rand(20, 3, 8, 8), batch_size=10**9)


def test_a_page_for_labeling_refuses_it_too(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.machine.room.available_memory", lambda: 10_000)
    with pytest.raises(UserError, match="a batch of 12 at 16 px"):
        retouch.label("encoder=cnn", "data=two", "batch_size=1000000000")
    assert not (here / "label.html").exists()

"""Refusals and warnings after the images are opened: nothing of an earlier run is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from common.config import dump_config, load_config
from common.encoders.start import pinned
from finetune.config import FinetuneConfig
from retouch.cli import main
from tests.retouch.mistakes.stages import CONFIGS, LABELED, files, messages


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
        f"retouch {stage}: task 'label': all 5 training images have the same class (a); at least two are needed: "
        "add images"
    )
    assert files(here) == before


@pytest.mark.parametrize("stage", list(CONFIGS))
def test_resumption_with_another_config_is_refused(here: Path, capsys: pytest.CaptureFixture[str], stage: str) -> None:
    config, schema, right = CONFIGS[stage]
    (here / "old").mkdir()
    old = load_config(schema, config, ["out=old", *right])
    if isinstance(old, FinetuneConfig):
        old = old.model_copy(update={"encoder": pinned(old.encoder)[0]})
    (here / "old" / "config.yaml").write_text(dump_config(old))
    before = files(here)
    assert main([stage, config, "out=old", *right, "resume=true", "seed=1", "batch_size=64", "data.limit=10"]) == 2
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
    quick += ["null_check=false", "probe.layers=[-1]", "probe.poolings=[avg]", "probe.l2=[0.01]"]
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
        "warning: data.workers=2, but this machine has 1 core: more workers will not decode faster"
    ]
    assert (here / "new" / "features.parquet").is_file()

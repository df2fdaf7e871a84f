"""The Python API: from a folder of pictures to an encoder and its features, and a small demo."""

from __future__ import annotations

import logging
import re
import shutil
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import retouch
from common.data import build_source
from common.engine.progress import StepProgress
from finetune.results import ProbeReport, read_results
from retouch import demo

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["steps=2", "batch_size=8", "data.workers=0", "wandb.mode=disabled", "encoder.model_args={width: 8}"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve pictures of two colors, in class folders."""
    source = build_source("shapes")
    for index in range(12):
        folder = tmp_path / "pictures" / ("even", "odd")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = source.image(index)
        assert isinstance(image, torch.Tensor)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    return tmp_path / "pictures"


def test_a_folder_becomes_an_encoder_and_its_features(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = retouch.pretrain("denoise", "data=pictures", *SMALL)
    assert result.encoder == Path("runs/denoise-1/encoder")
    encoder = retouch.load_encoder(result.encoder)
    images = torch.rand(3, 3, 32, 32)
    assert encoder(images).shape == (3, *encoder.map_shape)
    assert [tuple(one.shape[1:]) for one in encoder.layers(images)] == encoder.layer_shapes
    assert encoder.encode(images).shape == (3, encoder.map_shape[0])
    assert not any(parameter.requires_grad for parameter in encoder.parameters())

    found = retouch.embed({"encoder": "runs/denoise-1", "data": "pictures", "wandb": {"mode": "disabled"}})
    assert found.path == Path("runs/embed-1/features.parquet")
    assert (found.rows, found.width) == (12, encoder.map_shape[0])
    rows = pq.read_table(found).to_pylist()
    assert len(rows) == 12
    assert {row["label"] for row in rows} == {"even", "odd"}
    assert len(rows[0]["features"]) == encoder.map_shape[0]


def test_a_stage_may_be_called_with_settings_alone(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is the standard recipe's; a path is a file."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "configs" / "pretrain" / "denoise.yaml", "mine.yaml")
    retouch.pretrain("mine.yaml", "data=pictures", *SMALL)
    quick = [
        "knn=null",
        "damage=[]",
        "properties=false",
        "data.workers=0",
        "wandb.mode=disabled",
        "probe.l2=[0.1]",
        "probe.poolings=[avg]",
    ]
    report = retouch.probe("encoder=runs/mine-1", "data=pictures", "data.test=pictures", *quick)
    assert [one.task for one in report.results] == ["label"]
    assert report.results[0].data.image_size == 32  # the encoder's
    assert read_results("runs/linear-1") == report
    assert retouch.load_encoder("runs/mine-1").image_size == 32


def test_mistake_in_python_gives_the_same_plain_error() -> None:
    with pytest.raises(retouch.UserError, match="did you mean 'steps'"):
        retouch.pretrain({"out": "run", "steps": 1}, "stepz=2")


NARROW = ["encoder.model_args={width: 8, depth: 1}", "data.limit=128", "data.workers=0"]
FEW = ["data.limit=120", "data.test_limit=120", "data.workers=0"]
FEW += ["probe.l2=[0.1]", "probe.layers=[-1]", "probe.poolings=[avg]", "probe.folds=0"]
ALONE = [*FEW, "knn=null", "damage=[]", "properties=false", "null_check=false"]


def test_demo_ends_with_one_table_over_both_encoders_and_all_tasks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "demo" / "denoise").mkdir(parents=True)
    # an earlier demo is replaced
    (tmp_path / "demo" / "denoise" / "config.yaml").write_text("seed: 7\nout: demo/denoise\n")
    results = demo.demo(tmp_path / "demo", pretraining=["steps=2", *NARROW], probing=[*FEW, "knn.k=[5]"])
    assert [(one.encoder.pretext, one.task) for one in results] == [
        (pretext, task) for pretext in ("denoise", "colorize") for task in ("shape", "color", "texture")
    ]
    said = capsys.readouterr().out
    assert said.count("Test accuracy") == 1
    assert "pretrain colorize data=my/pictures" in said
    assert "mask in place of colorize if the pictures are gray" in said
    assert f"{tmp_path}/demo/report.html" in said
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    # in the order in which they started, to the second: here, perhaps in the same one
    assert re.search("Do (denoise and colorize|colorize and denoise) beat the same networks untrained", page)
    assert page.count('class="confusion"') == 3  # one per task
    assert page.count('class="grid"') == 2  # restored images of both
    log = (tmp_path / "demo" / "denoise-probe" / "train.log").read_text(encoding="utf-8")
    told = [line for line in log.splitlines() if " INFO " in line]
    assert [line for line in told if "untrained: shape " in line]
    assert not [line for line in told if "random_init" in line or "probed in" in line]
    for run in ("denoise", "colorize"):
        assert list((tmp_path / "demo" / run / "panels").glob("*.png"))
        model_card = (tmp_path / "demo" / run / "encoder" / "README.md").read_text(encoding="utf-8")
        assert f"# Does {run} beat the same network untrained" in model_card  # no longer pretraining's own
        assert "retouch.load_encoder" in model_card
        assert isinstance(read_results(tmp_path / "demo" / f"{run}-probe"), ProbeReport)


@pytest.mark.parametrize(("pretraining", "probing"), [(["stepz=2"], []), ([], ["knm=null"])])
def test_a_misspelled_setting_of_the_demo_is_found_before_anything_is_trained(
    tmp_path: Path, pretraining: list[str], probing: list[str]
) -> None:
    with pytest.raises(retouch.UserError, match="did you mean"):
        demo.demo(tmp_path / "demo", pretraining=pretraining, probing=probing)
    assert not (tmp_path / "demo").exists()


def test_a_stopped_demo_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    finish = StepProgress.update

    def stop(self: StepProgress, step: int, loss: float | None, speed: float) -> None:
        finish(self, step, loss, speed)
        if step == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, caplog.at_level(logging.INFO, "retouch"):
        patch.setattr(StepProgress, "waiting", True)
        patch.setattr(StepProgress, "update", stop)
        assert demo.demo(tmp_path / "demo", pretraining=["steps=4", *NARROW], probing=ALONE) == []
        assert "to continue the demo, run it again" in caplog.text
    monkeypatch.setattr(demo, "write_report", lambda folders, out: out)
    with caplog.at_level(logging.INFO, "retouch"):
        assert len(demo.demo(tmp_path / "demo", pretraining=["steps=4", *NARROW], probing=ALONE)) == 6
        assert "resumed from step 3" in caplog.text

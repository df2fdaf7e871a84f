"""What a user can get wrong: every problem at once, with what to do, and nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import retouch
from common.errors import UserError
from common.recipes import stage_config
from retouch.cli import main
from retouch.studies.config import StudyConfig
from retouch.studies.images import load, open_images
from tests.retouch.studies.studies import settings


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        retouch.study(values)
    assert not Path(values["out"]).exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": "20x"}, "budget: must be a length of time above zero, such as 90s, 20m or 1h"),
        ({"budget": "2"}, "budget: needs a unit: budget=2m for minutes, or budget=2s for seconds"),
        ({"budget": 90}, "budget: needs a unit: budget=90m for minutes, or budget=90s for seconds"),
        ({"budget": "9" * 400 + "s"}, "budget: must be at most 10,000h"),
        ({"labels": None}, "labels:"),
        ({"contestants": []}, "contestants:"),
        (
            {"contestants": ["pca", "pca"]},
            "there are two contestants named pca; give each a name of its own",
        ),
        ({"contestants": ["pixels"]}, "contestants: remove pixels: raw pixels and untrained networks always compete"),
        ({"contestants": ["denois"]}, "no recipe 'denois'; did you mean denoise"),
        (
            {"contestants": ["tca"]},
            "tca learns from two views or sources, but a study has one; remove it",
        ),
        ({"pretrained": "resnet18"}, "pretrained: must be the name of a timm model, such as timm/resnet18"),
        ({"pretrained": "timm/resnet99999"}, "pretrained: timm has no model 'resnet99999'"),
        ({"test": "x"}, "test: a test set belongs to its labels: use labels.test"),
        ({"more_labels": [{"train": "shapes"}]}, "there are several label sets, so say which images to learn from"),
        ({"labels": {"train": "shapes", "image_size": 16}}, "one size for all images; set image_size instead"),
        ({"plan": "nowhere.json"}, "plan: no such file: nowhere.json; give the plan.json of a study"),
        ({"resume": True, "overwrite": True}, "resume=true and overwrite=true exclude each other"),
        ({"data": {"source": "nowhere"}}, "no such file or folder"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_is_named_with_its_remedy(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in refused(settings(tmp_path, "run") | changes)


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    changes = {
        "data": {"source": "nowhere"},
        "contestants": ["denois"],
        "plan": "nowhere.json",
        "pretrained": "timm/no",
    }
    said = refused(settings(tmp_path, "run") | changes)
    assert all(part in said for part in ("no such file or folder", "'denois'", "plan: no such file", "model 'no'"))


@pytest.mark.parametrize("start", ["{path: runs/mine}", "{name: timm/resnet18, pretrained: true}"])
def test_a_contestant_that_starts_from_trained_weights_is_refused(tmp_path: Path, start: str) -> None:
    """It would be called untrained before its first step."""
    (tmp_path / "on.yaml").write_text(f"steps: 10\nencoder: {start}\n")
    said = refused(settings(tmp_path, "run", contestants=[str(tmp_path / "on.yaml")]))
    assert "starts from trained weights, but a study compares each network with the same network untrained" in said


def test_a_file_that_is_no_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"steps": 3}')
    assert "is not a plan of retouch study" in refused(settings(tmp_path, "run", plan=str(tmp_path / "other.json")))
    (tmp_path / "old.json").write_text('{"version": 1, "image_size": 16}')
    assert "is of another version of Retouch" in refused(settings(tmp_path, "run", plan=str(tmp_path / "old.json")))


def test_a_plan_with_other_contestants_is_refused(tmp_path: Path) -> None:
    said = refused(settings(tmp_path, "run", contestants=["denoise"]))
    assert (
        "has contestants that this study does not have: colorize_tiny, denoise_tiny, mask_tiny, pca, scratch; add them"
        in said
    )


def test_the_command_ends_with_code_two_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "labels=nowhere", f"out={tmp_path}/run", "budget=1h"]) == 2
    assert "retouch study: 'nowhere': no such file or folder" in capsys.readouterr().err
    assert main(["study"]) == 2
    assert "labels: required, but not given: a folder of class folders" in capsys.readouterr().err


def test_help_lists_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["study", "study", "--help"])
    said = capsys.readouterr().out
    assert all(key in said for key in ("budget=20m", "labels.train=", "contestants=", "plan=null", "data.source=null"))
    assert max(map(len, said.splitlines())) <= 100


def test_a_folder_of_another_stage_is_not_replaced(tmp_path: Path) -> None:
    other = tmp_path / "run"
    other.mkdir()
    (other / "config.yaml").write_text("# retouch pretrain\nsteps: 3\n")
    with pytest.raises(UserError, match="holds a run of retouch pretrain"):
        retouch.study(settings(tmp_path, "run", overwrite=True))
    assert (other / "config.yaml").read_text() == "# retouch pretrain\nsteps: 3\n"


def test_images_of_two_ranges_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    random = np.random.default_rng(0)
    for number in range(40):
        path = tmp_path / "labeled" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 900, (16, 16), dtype=np.uint16)).save(path)
    (tmp_path / "pool").mkdir()
    Image.fromarray(np.full((16, 16), 4000, np.uint16)).save(tmp_path / "pool" / "a.png")
    data = {"source": str(tmp_path / "pool"), "workers": 0}
    values = {"data": data, "labels": {"train": str(tmp_path / "labeled"), "workers": 0}, "out": str(tmp_path / "out")}
    load(config := stage_config(StudyConfig, values), open_images(config), 16)
    assert "pool has values 0 to 4095 (12 bits), but" in caplog.text
    assert "has values 0 to 1023 (10 bits), so the same value is a different gray in each; set data" in caplog.text

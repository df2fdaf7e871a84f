"""``retouch restore`` as a run: stopped, resumed and refused."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import retouch
from common.errors import UserError
from common.files import write_json
from common.runs.folder import StageConfig
from pretrain.__main__ import RESTORING
from pretrain.restoring import restore as stage
from pretrain.restoring.config import RestoreConfig, StrangeConfig
from pretrain.restoring.results import RestoredPicture
from pretrain.restoring.sheets import Shown, sheet
from retouch.cli import main
from retouch.reporting.folders import find_runs
from tests.pretrain.restoring.restored import ODD, QUIET, everything, restore
from tests.pretrain.restoring.toys import SIZES, RunOf, save


def test_a_stopped_run_goes_on_where_it_was(
    run_of: RunOf, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pictures / "a.png").rename(pictures / f"{ODD}.png")
    whole = restore(run_of("denoise"), pictures, tmp_path / "whole", "damage=recipe")
    add, left = stage.Journal.add, [2]

    def stopping(journal: stage.Journal, name: str, picture: RestoredPicture) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        add(journal, name, picture)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage.Journal, "add", stopping)
        restore(run_of("denoise"), pictures, tmp_path / "out", "damage=recipe")
    with (tmp_path / "out" / "pictures.jsonl").open("a") as journal:
        journal.write('{"path": "half')
    half = tmp_path / "out" / "pictures" / "deep" / "er" / ".b.png.1.tmp"
    half.parent.mkdir(parents=True, exist_ok=True)
    half.write_bytes(b"half")
    done = tmp_path / "out" / "pictures" / f"{ODD}.png"
    times = done.stat().st_mtime_ns
    resumed = restore(run_of("denoise"), pictures, tmp_path / "out", "damage=recipe", "resume=true")
    assert resumed.pictures == whole.pictures
    assert done.stat().st_mtime_ns == times
    assert not half.exists()
    for name in ("pictures.csv", "sheet.png", "pictures/deep/er/b.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # a journal of unknown origin is not continued
    kept = tmp_path / "out" / "pictures.jsonl"
    whole_journal = kept.read_text()
    for first in ("{", "[]"):
        kept.write_text(f"{first}\n" + whole_journal.partition("\n")[2])
        with pytest.raises(UserError, match="was begun before these changed: pictures, decoder;"):
            restore(run_of("denoise"), pictures, tmp_path / "out", "damage=recipe", "resume=true")
    kept.write_text(whole_journal)
    # other pictures are another run
    save(torch.zeros(3, 20, 20, dtype=torch.uint8), pictures / "new.png")
    with pytest.raises(UserError, match="was begun before these changed: pictures;"):
        restore(run_of("denoise"), pictures, tmp_path / "out", "damage=recipe", "resume=true")


@pytest.mark.parametrize(("setting", "what"), [("masks", "masks"), ("clean", "clean versions")])
def test_other_masks_or_clean_versions_are_another_run(
    setting: str, what: str, run_of: RunOf, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "broken.png").unlink()
    for name, size in SIZES.items():
        path = tmp_path / "beside" / Path(name).with_suffix(".png")
        save(torch.zeros(1, *size, dtype=torch.uint8), path)
        os.utime(path, (0, 0))
    settings = (run_of("mixed"), pictures, tmp_path / "out", f"data.{setting}={tmp_path / 'beside'}")
    found = restore(*settings)
    assert restore(*settings, "resume=true").pictures == found.pictures
    os.utime(tmp_path / "beside" / "a.png", (1, 1))
    with pytest.raises(UserError, match=f"was begun before these changed: {what};"):
        restore(*settings, "resume=true")


def test_results_are_written_before_the_sheet_which_does_without_pictures_that_have_gone(
    run_of: RunOf, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    def writing(path: Path, value: Any) -> None:
        write_json(path, value)
        (pictures / "a.png").unlink()

    def drawing(columns: Sequence[Shown], title: str) -> Image.Image:
        assert (tmp_path / "out" / "results.json").is_file()
        shown.extend(one.captions[0] for one in columns)
        return sheet(columns, title)

    monkeypatch.setattr(stage, "write_json", writing)
    monkeypatch.setattr("pretrain.restoring.restore.sheet", drawing)
    assert restore(run_of("denoise"), pictures, tmp_path / "out").restored == 4
    assert shown == ["deep/c.png", "deep/d.png", "deep/er/b.png"]


def test_nothing_is_overwritten(run_of: RunOf, pictures: Path, tmp_path: Path) -> None:
    restore(run_of("denoise"), pictures, tmp_path / "out")
    before = everything(tmp_path / "out")
    with pytest.raises(UserError, match="is not empty"):
        restore(run_of("denoise"), pictures, tmp_path / "out")
    assert everything(tmp_path / "out") == before
    originals = everything(pictures)
    with pytest.raises(UserError, match="is not empty"):
        restore(run_of("denoise"), pictures, pictures)
    with pytest.raises(UserError, match="no stage wrote"):
        restore(run_of("denoise"), pictures, pictures, "overwrite=true")
    assert everything(pictures) == originals


def refused(*arguments: str) -> str:
    with pytest.raises(UserError) as error:
        retouch.restore(*arguments, *QUIET)
    return str(error.value)


def test_what_cannot_be_done_is_said_before_anything_is_written(
    run_of: RunOf, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    denoise, mask = str(run_of("denoise")), str(run_of("mask"))
    said = refused(denoise, "data=nowhere", "tile=12")
    assert "no such file or folder" in said
    assert "tile=12" in said
    assert "fills holes, but nothing says where they are" in refused(mask, f"data={pictures}")
    save(torch.zeros(1, 40, 52, dtype=torch.uint8), tmp_path / "masks" / "a.png")
    assert "does not know which pixels are hidden" in refused(denoise, f"data={pictures}", "data.masks=masks")
    both = refused(denoise, f"data={pictures}", "data.masks=m", "data.clean=c", "damage=recipe")
    assert "damage=recipe draws them" in both
    assert "remove data.clean" in both
    assert not (tmp_path / "runs").exists()
    for path in pictures.rglob("*.*"):
        if path.is_file() and path.name != "broken.png":
            path.unlink()
    assert "no picture can be restored" in refused(denoise, f"data={pictures}")
    assert not (tmp_path / "runs").exists()


def test_pictures_that_cannot_be_read_cost_nothing_of_an_earlier_run(
    run_of: RunOf, pictures: Path, tmp_path: Path
) -> None:
    restore(run_of("denoise"), pictures, tmp_path / "out")
    before = everything(tmp_path / "out")
    for path in pictures.rglob("*.*"):
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="no picture can be restored, for example"):
        restore(run_of("denoise"), pictures, tmp_path / "out", "overwrite=true")
    assert everything(tmp_path / "out") == before


# ---- the command line


def test_both_commands_take_a_run_and_settings(
    run_of: RunOf, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = str(run_of("denoise"))
    assert main(["restore", run, "data=pictures", "damage=recipe", *QUIET]) == 0
    assert (tmp_path / "runs" / "restore-1" / "pictures" / "deep" / "c.png").is_file()
    assert main(["strange", run, "data=pictures", "--top", "2", "data.workers=0", *QUIET]) == 0
    assert len(json.loads((tmp_path / "runs" / "strange-1" / "results.json").read_text())["top"]) == 2
    capsys.readouterr()
    assert main(["restore", str(tmp_path), "data=pictures", *QUIET]) == 2
    assert capsys.readouterr().err.startswith(f"retouch restore: {tmp_path} is not a run of retouch pretrain")
    assert main(["strange", run]) == 2
    assert "data: required, but not given: which pictures" in capsys.readouterr().err
    texts = {run.stage: run.result for run in retouch.runs(tmp_path / "runs")}
    assert texts["restore"].startswith("4 pictures, PSNR ")
    assert texts["strange"].startswith("4 pictures, largest surprise ")
    with pytest.raises(UserError, match="retouch restore writes pictures, not results to report"):
        find_runs([tmp_path / "runs" / "restore-1"])
    configs: list[type[StageConfig]] = [RestoreConfig, StrangeConfig]
    for one, config in zip(RESTORING, configs, strict=True):
        assert (one.name, one.schema()) == (config.stage, config)

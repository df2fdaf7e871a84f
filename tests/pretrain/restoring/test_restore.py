"""``retouch restore``: from a run and a folder of pictures to restored pictures and their scores."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kornia.color import rgb_to_lab
from PIL import Image

import retouch
from common.data.levels import Levels
from common.encoders.provenance import Provenance
from common.errors import UserError
from common.files import write_json
from common.runs.folder import StageConfig
from pretrain.__main__ import RESTORING
from pretrain.gradient.objective import Objective
from pretrain.restoring import restore as stage
from pretrain.restoring.config import RestoreConfig, StrangeConfig
from pretrain.restoring.pictures import Pictures, open_pictures
from pretrain.restoring.results import RestoredPicture, RestoreResult
from pretrain.restoring.sheets import Shown, sheet
from retouch.cli import main
from retouch.reporting.folders import find_runs
from tests.pretrain.restoring.toys import SIZES, RunOf, pixels, save

QUIET = ["wandb.mode=disabled", "precision=float32"]
ODD = "a\u2028\x85"  # a name with characters that end a line


def restore(run: Path, pictures: Path, out: Path, *more: str) -> RestoreResult:
    return retouch.restore(str(run), f"data={pictures}", f"out={out}", *QUIET, *more)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_pictures_are_restored_at_their_own_size_and_paths(run_of: RunOf, pictures: Path, tmp_path: Path) -> None:
    before = everything(pictures)
    found = restore(run_of("denoise"), pictures, tmp_path / "out")
    assert everything(pictures) == before
    assert set(everything(found.folder)) == {str(Path(name).with_suffix(".png")) for name in SIZES}
    restorer = retouch.open_restorer(run_of("denoise"))
    for name in SIZES:
        given, restored = pixels(pictures / name), pixels(found.folder / Path(name).with_suffix(".png"))
        wanted = restorer(given[None].float() / 255)[0]
        assert (restored.float() / 255 - wanted).abs().max() < 0.51 / 255
    assert (found.restored, found.measured, found.after) == (4, 0, None)
    assert list(found.failed) == [str(pictures / "broken.png")]
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert RestoreResult.model_validate(written) == found.model_copy(update={"pictures": ()})
    with Image.open(tmp_path / "out" / "sheet.png") as drawn:
        assert drawn.height > 2 * 192


def test_a_picture_of_which_the_network_makes_no_numbers_is_named(
    run_of: RunOf, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Objective, "restore_damaged", lambda self, damaged: damaged.images * torch.nan)
    first = f"{pictures}/a.png: the network gives NaN or infinite numbers; set precision=float32"
    with pytest.raises(UserError) as refused:
        restore(run_of("denoise"), pictures, tmp_path / "out")
    assert str(refused.value).startswith(first)
    assert not list((tmp_path / "out" / "pictures").rglob("*.png"))
    with pytest.raises(UserError) as refused:
        retouch.strange(str(run_of("denoise")), f"data={pictures}", f"out={tmp_path / 'other'}", *QUIET)
    assert str(refused.value).startswith(first)


def test_of_pictures_that_are_damaged_here_scores_are_known(run_of: RunOf, pictures: Path, tmp_path: Path) -> None:
    found = restore(run_of("denoise"), pictures, tmp_path / "out", "damage=recipe")
    rows = list(csv.DictReader((tmp_path / "out" / "pictures.csv").open()))
    assert [row["path"] for row in rows] == [one.path for one in found.pictures]
    assert found.measured == 4
    assert found.before is not None
    assert found.after is not None
    # noise of 0.1 has 20 dB, and clipping it helps a little
    assert 19.5 < found.before.psnr < 21.5
    for row, one in zip(rows, found.pictures, strict=True):
        assert one.after is not None
        assert float(row["psnr"]) == one.after.psnr
        clean, restored = pixels(Path(row["path"])), pixels(tmp_path / "out" / row["file"])
        wanted = -10 * ((clean - restored.float()) / 255).square().mean().log10()
        assert one.after.psnr == pytest.approx(float(wanted), abs=1e-3)
    assert found.after.psnr == pytest.approx(sum(float(row["psnr"]) for row in rows) / 4, abs=1e-3)
    # the same noise again, and other noise with another seed
    again = restore(run_of("denoise"), pictures, tmp_path / "again", "damage=recipe")
    assert again.pictures == found.pictures
    other = restore(run_of("denoise"), pictures, tmp_path / "other", "damage=recipe", "seed=1")
    assert other.pictures[0].before != found.pictures[0].before


def test_the_sheet_says_how_much_better_a_picture_has_become_where_that_is_known(
    run_of: RunOf, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions: list[Sequence[str]] = []

    def drawing(columns: Sequence[Shown], title: str) -> Image.Image:
        captions.extend(one.captions for one in columns)
        assert title == f"Restored by denoise: {pictures.name}"
        return sheet(columns, title)

    monkeypatch.setattr(stage, "sheet", drawing)
    found = restore(run_of("denoise"), pictures, tmp_path / "out", "damage=recipe")
    for one, said in zip(found.pictures, captions, strict=True):
        assert one.before is not None
        assert one.after is not None
        assert list(said) == [one.file, f"PSNR {one.after.psnr:.1f} dB (before {one.before.psnr:.1f})"]
    captions.clear()
    restore(run_of("denoise"), pictures, tmp_path / "other")
    assert [list(said) for said in captions] == [[one.file] for one in found.pictures]


def test_what_is_drawn_for_a_picture_does_not_depend_on_the_others(
    run_of: RunOf, pictures: Path, tmp_path: Path
) -> None:
    found = restore(run_of("denoise"), pictures, tmp_path / "out", "damage=recipe")
    (pictures / "a.png").unlink()
    fewer = restore(run_of("denoise"), pictures, tmp_path / "fewer", "damage=recipe")
    assert fewer.pictures == tuple(one for one in found.pictures if one.file != "a.png")


def test_clean_versions_are_measured_with(run_of: RunOf, pictures: Path, tmp_path: Path) -> None:
    (pictures / "broken.png").unlink()
    for name in SIZES:
        save(pixels(pictures / name), tmp_path / "clean" / Path(name).with_suffix(".png"))
    found = restore(run_of("denoise"), pictures, tmp_path / "out", f"data.clean={tmp_path / 'clean'}")
    assert found.measured == 4
    assert found.before is not None
    assert found.before.psnr == 100  # nothing was damaged


def test_means_leave_out_pictures_in_which_nothing_is_lost(run_of: RunOf, pictures: Path, tmp_path: Path) -> None:
    """A gray picture has no color to lose: as given it has 100 dB, which no network can keep."""
    without = restore(run_of("colorize"), pictures, tmp_path / "without", "damage=recipe")
    save(pixels(pictures / "a.png")[:1], pictures / "gray.png")
    found = restore(run_of("colorize"), pictures, tmp_path / "out", "damage=recipe")
    assert (without.nothing_to_restore, found.nothing_to_restore, found.measured) == (0, 1, 5)
    assert (found.before, found.after) == (without.before, without.after)


def test_what_a_network_without_color_was_given_is_called_gray(
    run_of: RunOf, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Shown] = []

    def drawing(columns: Sequence[Shown], title: str) -> Image.Image:
        shown.extend(columns)
        return sheet(columns, title)

    monkeypatch.setattr("pretrain.restoring.restore.sheet", drawing)
    restore(run_of("colorize"), pictures, tmp_path / "colorize")
    restore(run_of("denoise"), pictures, tmp_path / "denoise")
    assert [next(iter(one.rows)) for one in (shown[0], shown[-1])] == ["given,\nin gray", "given"]


def test_gray_pictures_get_color_and_keep_their_lightness(run_of: RunOf, pictures: Path, tmp_path: Path) -> None:
    gray = pixels(pictures / "a.png").float().mean(0, keepdim=True).mul(0.5).add(60).byte()
    save(gray, tmp_path / "gray" / "a.png")
    found = restore(run_of("colorize"), tmp_path / "gray", tmp_path / "out")
    restored = pixels(found.folder / "a.png").float()
    assert (restored.amax(0) - restored.amin(0)).mean() > 2
    light, wanted = (rgb_to_lab(one[None] / 255)[0, 0] for one in (restored, gray.float().expand(3, -1, -1)))
    assert (light - wanted).abs().mean() < 0.5
    # for a color picture, its own color is the target
    known = restore(run_of("colorize"), pictures, tmp_path / "known", "damage=recipe")
    assert known.measured == 4


@pytest.mark.parametrize("kind", ["mask", "mixed"])
def test_holes_of_a_mask_are_filled(kind: str, run_of: RunOf, pictures: Path, tmp_path: Path) -> None:
    (pictures / "broken.png").unlink()
    for name, size in SIZES.items():
        mask = torch.zeros(1, *size, dtype=torch.uint8)
        mask[:, 2:8, 3:9] = 255
        save(mask, tmp_path / "masks" / Path(name).with_suffix(".png"))
    found = restore(run_of(kind), pictures, tmp_path / "out", f"data.masks={tmp_path / 'masks'}")
    for name in SIZES:
        given, restored = pixels(pictures / name), pixels(found.folder / Path(name).with_suffix(".png"))
        hole = (slice(None), slice(2, 8), slice(3, 9))
        filled = restored[hole].clone()
        restored[hole] = given[hole]
        assert torch.equal(restored, given) == (kind == "mask")  # a mixed network restores all pixels
        assert filled.float().std() > 0  # not the gray that replaces hidden pixels
    # what was under the mask is not looked at
    for name in SIZES:
        changed = pixels(pictures / name)
        changed[:, 2:8, 3:9] = 0
        save(changed, (pictures / name).with_suffix(".png"))
    if kind == "mask":
        (pictures / "deep/er/b.jpg").unlink()
        other = restore(run_of(kind), pictures, tmp_path / "other", f"data.masks={tmp_path / 'masks'}")
        for name in ("a.png", "deep/c.png"):
            assert torch.equal(pixels(other.folder / name)[:, 2:8, 3:9], pixels(found.folder / name)[:, 2:8, 3:9])


def test_holes_that_are_drawn_are_scored_alone(run_of: RunOf, pictures: Path, tmp_path: Path) -> None:
    found = restore(run_of("mask"), pictures, tmp_path / "out", "damage=recipe")
    one = next(one for one in found.pictures if one.file == "a.png")
    clean, restored = pixels(pictures / "a.png").float(), pixels(found.folder / "a.png").float()
    wrong = ((clean - restored) / 255).square()
    share = float((wrong.sum(0) > 0).float().mean())
    assert 0.3 < share <= 0.45  # of 130 patches, 40% are hidden
    assert one.after is not None
    whole = -10 * torch.log10(wrong.mean())
    assert one.after.psnr == pytest.approx(float(whole + 10 * torch.log10(torch.tensor(0.4))), abs=0.3)


def test_pictures_may_be_made_smaller_and_it_is_said(run_of: RunOf, pictures: Path, tmp_path: Path) -> None:
    found = restore(run_of("denoise"), pictures, tmp_path / "out", "scale=0.5")
    assert pixels(found.folder / "a.png").shape == (3, 20, 26)
    assert (found.scale, found.pictures[0].width, found.pictures[0].height) == (0.5, 26, 20)


def test_every_setting_is_felt(run_of: RunOf, pictures: Path, tmp_path: Path) -> None:
    deep = torch.arange(40 * 52).view(40, 52).mul(7).to(torch.int32)
    Image.fromarray(deep.numpy().astype("uint16")).save(pictures / "a.png")
    plain = restore(run_of("denoise"), pictures, tmp_path / "plain")
    for number, (change, known) in enumerate(
        {
            "overlap=0": lambda found: found.overlap == 0,
            "tile=32": lambda found: found.tile == 32,
            "scale=0.5": lambda found: found.scale == 0.5,
            "data.levels=[0, 60000]": lambda found: True,
            "precision=bfloat16": lambda found: True,
        }.items()
    ):
        found = restore(run_of("denoise"), pictures, tmp_path / str(number), change)
        assert known(found)
        assert not torch.equal(pixels(found.folder / "a.png"), pixels(plain.folder / "a.png")), change
    assert restore(run_of("denoise"), pictures, tmp_path / "limit", "data.limit=2").restored <= 2


def test_a_network_of_small_pictures_is_told_apart_from_one_of_details(
    run_of: RunOf, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (pictures / "deep").rglob("*.*"):
        path.unlink()
    with caplog.at_level("WARNING", logger="retouch"):
        restore(run_of("denoise"), pictures, tmp_path / "out")
        assert "Use scale=0.4 to show it what it knows" in caplog.text
        caplog.clear()
        restore(run_of("denoise"), pictures, tmp_path / "smaller", "scale=0.4")
        assert "shows it what it knows" not in caplog.text


@pytest.mark.parametrize(("asked", "levels"), [("null", (0, 65535)), ("[0, 8191]", (0, 8191))])
def test_values_are_scaled_as_in_training_and_pages_that_are_left_are_said(
    asked: str,
    levels: tuple[float, float],
    run_of: RunOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    deep = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20))
    (tmp_path / "deep").mkdir()
    deep.save(tmp_path / "deep" / "a.tif", save_all=True, append_images=[deep])
    opened: list[Pictures] = []

    def opening(*given: Any) -> Pictures:
        opened.append(open_pictures(*given))
        return opened[-1]

    monkeypatch.setattr(stage, "open_pictures", opening)
    monkeypatch.setattr(stage, "provenance", lambda run: Provenance(levels=Levels(0, 65535)))
    restore(run_of("denoise"), tmp_path / "deep", tmp_path / "out", f"data.levels={asked}")
    assert opened[0].levels == levels
    assert "have several pages" in caplog.text
    assert ("the encoder was trained on values 0 to 65535" in caplog.text) == (asked != "null")


# ---- stopped, resumed, refused


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

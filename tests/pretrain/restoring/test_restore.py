"""``retouch restore``: from a run and a folder of pictures to restored pictures and their scores."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kornia.color import rgb_to_lab
from PIL import Image

import retouch
from common.data.decode import to_rgb
from common.data.levels import Levels
from common.encoders.provenance import Provenance
from common.errors import UserError
from common.pixels import to_uint8
from pretrain.gradient.objective import Objective
from pretrain.restoring import restore as stage
from pretrain.restoring.pictures import Pictures, open_pictures
from pretrain.restoring.results import RestoreResult
from pretrain.restoring.sheets import Shown, sheet
from tests.pretrain.restoring.restored import QUIET, everything, restore
from tests.pretrain.restoring.toys import SIZES, RunOf, pixels, save


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


def test_pictures_may_be_made_smaller_and_it_is_said(
    run_of: RunOf, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="retouch")
    found = restore(run_of("denoise"), pictures, tmp_path / "out", "scale=0.5")
    # the others are 16x4 and 8x8 px
    assert f"4 pictures restored at 0.5 of their size (8x8 to 26x20 px), 1 cannot be read: {found.folder}" in (
        caplog.messages
    )
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
        assert caplog.messages == [
            f"left out: {pictures / 'broken.png'} (not an image that PIL or torchvision can read)"
        ]


@pytest.mark.parametrize(
    ("side", "scale", "small", "advice"),
    [
        (40, 0.2, 8, "Use scale=0.4"),
        (41, 0.2, 8, "Use scale=0.4"),  # 0.3902
        (152, 0.1, 15, "Use scale=0.11"),  # 0.1053, and 0.1 would leave 15 px
        (15, 0.9, 14, "Restore small pictures without scale, apart from large ones"),
    ],
)
def test_a_scale_that_leaves_less_than_the_network_sees_is_named_with_one_that_fits(
    side: int, scale: float, small: int, advice: str, run_of: RunOf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(torch.randint(0, 256, (3, side, side + 9), dtype=torch.uint8), tmp_path / "pictures" / "a.png")
    caplog.set_level("WARNING", logger="retouch")
    restore(run_of("denoise"), tmp_path / "pictures", tmp_path / "out", f"scale={scale}")
    assert caplog.messages == [
        f"scale={scale} makes pictures {small} px or smaller, but the network sees 16 px at a time: the rest is their "
        f"mirror image. {advice}"
    ]
    caplog.clear()
    change = [] if "without" in advice else [advice.partition(" ")[2]]
    restore(run_of("denoise"), tmp_path / "pictures", tmp_path / "better", *change)
    assert not caplog.messages


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


def test_pictures_that_cannot_be_read_are_named_and_many_are_counted(
    run_of: RunOf, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(2):  # one is there already
        (pictures / f"broken-{number}.png").write_bytes(b"no picture")
    found = restore(run_of("denoise"), pictures, tmp_path / "out")
    assert sum("left out: " in line and "broken" in line for line in caplog.messages) == len(found.failed) == 3
    assert "results.json lists them" not in caplog.text
    caplog.clear()
    monkeypatch.setattr("pretrain.restoring.restore.SAID", 2)
    restore(run_of("denoise"), pictures, tmp_path / "again")
    assert sum("left out: " in line for line in caplog.messages) == 2
    assert "3 pictures cannot be read and are left out; results.json lists them" in caplog.messages


def test_an_erased_area_that_a_mask_marks_is_filled(run_of: RunOf, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (32, 32, 4), np.uint8)
    values[..., 3] = 255
    values[8:16, 8:16, 3] = 0
    values[20:, 20:, 3] = 0  # transparent, but no hole
    hole = np.zeros((32, 32), bool)
    hole[8:16, 8:16] = True
    for name, image in (("pictures", Image.fromarray(values)), ("masks", Image.fromarray(hole))):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "a.png")
    found = restore(run_of("mask"), tmp_path / "pictures", tmp_path / "out", f"data.masks={tmp_path / 'masks'}")
    with Image.open(found.folder / "a.png") as picture:
        restored = np.asarray(picture)
    assert (restored[8:16, 8:16, 3] == 255).all()
    assert len(np.unique(restored[8:16, 8:16, :3])) > 1
    assert (restored[20:, 20:, 3] == 0).all()


def test_transparency_is_kept_and_seen_on_white(run_of: RunOf, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 28, 4), np.uint8)
    values[:, :14, 3] = 255
    (tmp_path / "pictures").mkdir()
    Image.fromarray(values).save(tmp_path / "pictures" / "a.png")
    Image.fromarray(values[..., :3]).save(tmp_path / "pictures" / "opaque.png")
    found = restore(run_of("denoise"), tmp_path / "pictures", tmp_path / "out")
    with Image.open(found.folder / "opaque.png") as opaque:
        assert opaque.mode == "RGB"
    with Image.open(found.folder / "a.png") as picture:
        restored = np.asarray(picture).astype(float)
    assert np.array_equal(restored[..., 3], values[..., 3])
    with Image.open(tmp_path / "pictures" / "a.png") as given:
        on_white = torch.from_numpy(np.array(to_rgb(given))).permute(2, 0, 1)
    wanted = to_uint8(retouch.open_restorer(run_of("denoise"))(on_white[None].float() / 255)[0]).permute(1, 2, 0)
    assert np.abs(restored[:, :14, :3] - wanted[:, :14].numpy()).max() <= 1
    share = restored[..., 3:] / 255
    shown = 255 - share * (255 - restored[..., :3])
    possible = np.maximum(wanted.numpy(), 255 - 255 * share)  # black at this opacity
    assert np.abs(shown - possible).max() <= 1.5

    smaller = restore(run_of("denoise"), tmp_path / "pictures" / "a.png", tmp_path / "smaller", "scale=0.5")
    with Image.open(smaller.folder / "a.png") as picture:
        assert (picture.mode, picture.size) == ("RGBA", (14, 10))

"""``retouch strange``: pictures of another kind are ranked first, and hard ones of the same kind are not."""

from __future__ import annotations

import csv
import json
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import retouch
from common.data import Images, build_source, load_images
from common.data.levels import SAMPLE, Levels
from common.data.rows import even_rows
from common.encoders.provenance import Provenance
from common.errors import UserError
from common.files import write_json
from pretrain.restoring import strange as stage
from pretrain.restoring.results import StrangePicture, StrangeResult
from pretrain.restoring.sheets import Shown, heat, sheet
from pretrain.restoring.strange import Tried, captions, decibels, deviation, expected_psnr, first_and_errors, ranked
from tests.pretrain.restoring.toys import SIDE, RunOf, save

QUIET = ["wandb.mode=disabled", "precision=float32", "data.workers=0"]


# ---- the ranking


def test_hard_pictures_of_the_same_kind_are_not_strange() -> None:
    """Error alone ranks pictures that are hard for every restorer; another one is harder for the network."""
    trivial = np.linspace(15, 35, 50)
    network = 0.8 * trivial + 10
    network[40] -= 3  # easy, but restored worse than others that are as easy
    found = ranked([str(place) for place in range(50)], network, trivial)
    assert [one.rank for one in found] == list(range(1, 51))
    first = found[0]
    assert (first.path, first.rank_by_psnr) == ("40", 32)
    assert first.surprise == pytest.approx(3, abs=0.05)
    assert first.expected == pytest.approx(0.8 * trivial[40] + 10, abs=0.05)
    assert next(one for one in found if one.path == "0").rank_by_psnr == 1
    assert max(abs(one.surprise) for one in found[1:]) < 0.05


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 1.5), st.integers(30, 300))
def test_a_fifth_of_strange_pictures_does_not_hide_themselves(seed: int, slope: float, count: int) -> None:
    random = np.random.default_rng(seed)
    trivial = random.uniform(15, 35, count)
    network = slope * trivial + 8 + random.normal(size=count) * 0.2
    strange = random.permutation(count)[: count // 5]
    network[strange] -= 6
    found = ranked([str(place) for place in range(count)], network, trivial)
    assert {int(one.path) for one in found[: len(strange)]} == set(strange.tolist())


def test_of_few_pictures_or_of_equally_hard_ones_the_line_is_as_steep_as_the_trivial_restorers() -> None:
    assert expected_psnr(np.array([30.0, 22.0, 25.0]), np.array([25.0, 20.0, 20.0])).tolist() == [30, 25, 25]
    assert expected_psnr(np.array([30.0]), np.array([25.0])).tolist() == [30]
    same = np.full(40, 20.0)
    assert expected_psnr(np.arange(40.0), same).tolist() == [19.5] * 40


def test_no_more_is_expected_than_of_the_best_picture() -> None:
    """Gray pictures are restored by doing nothing, at 100 dB, but no colorizer leaves them quite gray."""
    trivial = np.append(np.linspace(15, 35, 50), [100.0, 100.0])
    network = np.append(0.8 * np.linspace(15, 35, 50) + 4, [28.0, 33.0])
    network[7] -= 6  # really strange
    found = ranked([str(place) for place in range(52)], network, trivial)
    assert [one.path for one in found[:2]] == ["7", "50"]
    assert (found[1].expected, found[1].surprise) == (33, 5)


def test_a_sheet_says_how_much_worse_than_expected() -> None:
    picture = StrangePicture(
        rank=3, path="/home/me/mix/a/b.png", surprise=2.34, psnr=20.0, trivial=19.0, expected=22.34, rank_by_psnr=9
    )
    source: Any = SimpleNamespace(spec="folder:/home/me/mix")
    assert captions(picture, source) == ("a/b.png", "3: 2.3 dB below expected", "20.0 instead of 22.3 dB")
    better = picture.model_copy(update={"surprise": -0.34, "expected": 19.66})
    assert captions(better, source)[1] == "3: 0.3 dB above expected"


def test_heat_goes_from_black_through_red_and_yellow_to_white() -> None:
    shown = heat(torch.tensor([[0.0, 1.0, 2.0, 3.0, 9.0]]), 3.0)
    assert shown[:, 0].T.tolist() == [[0, 0, 0], [255, 0, 0], [255, 255, 0], [255, 255, 255], [255, 255, 255]]


def test_errors_are_over_all_copies_and_only_the_first_copy_is_kept() -> None:
    clean = torch.zeros(1, 3, 1, 2)
    kept: list[weakref.ref[Tensor]] = []

    def copies() -> Iterator[Tried]:
        for wrong, counted in ((0.1, [1.0, 0.0]), (0.2, [1.0, 1.0]), (0.4, [0.0, 1.0]), (0.7, [0.0, 0.0])):
            assert sum(one() is not None for one in kept) <= 2  # the first, and the one before
            restored = torch.full_like(clean, wrong)
            kept.append(weakref.ref(restored))
            nothing = torch.zeros(1)
            yield Tried(clean, restored, nothing, nothing, torch.tensor(counted).view(1, 1, 1, 2))

    first, errors = first_and_errors(copies(), clean)
    assert first.restored.flatten()[0].item() == pytest.approx(0.1)
    assert errors.flatten().tolist() == pytest.approx([math.sqrt(0.05 / 2), math.sqrt(0.2 / 2)])


def test_what_rounds_to_zero_has_no_sign() -> None:
    assert [decibels(level) for level in (-0.04, -0.0, 0.04, -0.06, 12.34)] == ["0.0", "0.0", "0.0", "−0.1", "12.3"]


def test_a_few_strange_pictures_do_not_change_the_usual_deviation() -> None:
    usual = np.random.default_rng(0).normal(size=2000) * 1.5
    assert deviation(usual.tolist()) == pytest.approx(1.5, rel=0.05)
    assert deviation([*usual, *[30.0] * 40]) == pytest.approx(1.5, rel=0.07)


# ---- the stage


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A denoiser of ``shapes`` that has learned something."""
    out = tmp_path_factory.mktemp("trained") / "run"
    retouch.pretrain(
        {
            "out": str(out),
            "data": {"source": "shapes", "image_size": SIDE, "limit": 600, "workers": 0},
            "encoder": {"name": "small_cnn", "model_args": {"width": 16, "depth": 1}},
            "decoder": {"kind": "unet", "width": 32},
            "pretext": {"kind": "denoise", "corruption": {"kind": "gaussian", "sigma": 0.1}},
            "steps": 200,
            "batch_size": 32,
            "base_lr": 0.1,
            "precision": "float32",
            "panels_every": 1000,
            "wandb": {"mode": "disabled"},
        }
    )
    return out


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures of ``shapes``, and three of noise among them."""
    folder = tmp_path_factory.mktemp("mixture")
    source = build_source("shapes:test").at(SIDE)
    for row in range(60):
        image = source.image(row)
        assert isinstance(image, torch.Tensor)
        save(image, folder / f"{row:02d}.png")
    for row in range(3):
        noise = np.random.default_rng(row).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{17 * row + 5:02d}-noise.png")
    (folder / "broken.png").write_bytes(b"nothing")
    return folder


def strange(run: Path, pictures: Path, out: Path, *more: str) -> StrangeResult:
    return retouch.strange(str(run), f"data={pictures}", f"out={out}", *QUIET, *more)


def test_pictures_of_another_kind_come_first(trained: Path, mixture: Path, tmp_path: Path) -> None:
    found = strange(trained, mixture, tmp_path / "out", "top=5")
    assert {Path(one.path).name for one in found.pictures[:3]} == {"05-noise.png", "22-noise.png", "39-noise.png"}
    assert found.pictures[2].surprise > 1.3 * found.pictures[3].surprise
    assert (found.ranked, found.unreadable, found.image_size, found.draws) == (63, 1, SIDE, 4)
    assert found.top == found.pictures[:5]
    rows = list(csv.DictReader((tmp_path / "out" / "strange.csv").open()))
    assert [row["path"] for row in rows] == [one.path for one in found.pictures]
    assert [float(row["surprise"]) for row in rows] == [one.surprise for one in found.pictures]
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert StrangeResult.model_validate(written) == found.model_copy(update={"pictures": ()})
    with Image.open(tmp_path / "out" / "sheet.png") as drawn:
        assert drawn.height > 4 * 192


def test_a_picture_is_judged_alike_whatever_is_judged_with_it(trained: Path, mixture: Path, tmp_path: Path) -> None:
    found = strange(trained, mixture, tmp_path / "out")
    again = strange(trained, mixture, tmp_path / "again", "batch_size=7")
    levels = {one.path: one.psnr for one in found.pictures}
    assert {one.path: one.psnr for one in again.pictures} == pytest.approx(levels, abs=0.002)
    other = strange(trained, mixture, tmp_path / "other", "seed=1", "draws=2")
    assert other.draws == 2
    assert {one.path: one.psnr for one in other.pictures} != levels


@pytest.mark.parametrize("kind", ["colorize", "mask", "mixed"])
def test_every_pretext_ranks_pictures_and_says_where_a_filter_is_better(
    kind: str, run_of: RunOf, mixture: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", logger="retouch"):
        found = strange(run_of(kind), mixture, tmp_path / "out", "data.limit=12", "top=3")
    # a network trained for a few steps is worse than a filter, so its failures say little
    assert "is no better than" in caplog.text
    assert found.ranked + found.unreadable == 12
    assert found.draws == (1 if kind == "colorize" else 4)  # color is lost in the same way each time
    assert all(np.isfinite([one.psnr, one.trivial, one.surprise]).all() for one in found.pictures)


@pytest.fixture
def some_gray(tmp_path: Path) -> Path:
    """Twelve pictures with color, three gray ones of which one is a JPEG of one channel, and one of a single color."""
    folder = tmp_path / "some-gray"
    source = build_source("shapes:test").at(SIDE)
    for row in range(15):
        image = source.image(row)
        assert isinstance(image, torch.Tensor)
        save(image, folder / f"{row:02d}.png")
        if row > 11:
            with Image.open(folder / f"{row:02d}.png") as picture:
                picture.convert("L").save(folder / f"{row:02d}-gray.{'png' if row > 12 else 'jpg'}")
            (folder / f"{row:02d}.png").unlink()
    Image.new("RGB", (SIDE, SIDE), (200, 30, 90)).save(folder / "plain.png")
    return folder


@pytest.mark.parametrize(
    ("kind", "left_out", "spared"),
    [
        ("colorize", ["12-gray.jpg", "13-gray.png", "14-gray.png"], "3 pictures without color: nothing to restore"),
        ("mask", ["plain.png"], "1 picture of one color: nothing to restore"),
        ("denoise", [], ""),
    ],
)
def test_pictures_with_nothing_to_restore_are_counted_and_not_ranked(
    kind: str, left_out: list[str], spared: str, run_of: RunOf, some_gray: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with caplog.at_level("INFO", logger="retouch"):
        found = strange(run_of(kind), some_gray, tmp_path / "out")
    assert [Path(one.path).name for one in found.intact] == left_out
    assert (found.ranked, found.nothing_to_restore) == (16 - len(left_out), len(left_out))
    assert spared in caplog.text
    assert ("nothing to restore" in caplog.text) == bool(left_out)
    rows = list(csv.DictReader((tmp_path / "out" / "strange.csv").open()))
    assert [Path(row["path"]).name for row in rows if not row["rank"]] == left_out
    assert len(rows) == 16
    for one in left_out:  # the others are judged as if these were not there
        (some_gray / one).unlink()
    assert strange(run_of(kind), some_gray, tmp_path / "again").pictures == found.pictures


def test_a_copy_in_which_nothing_was_lost_does_not_count(run_of: RunOf, some_gray: Path, tmp_path: Path) -> None:
    """Mixed damage takes the color of some copies: of a gray picture, such a copy is perfect without a network."""
    found = strange(run_of("mixed"), some_gray, tmp_path / "out", "draws=8")
    gray = [one for one in found.pictures if "gray" in Path(one.path).name]
    assert len(gray) == 3
    assert max(one.trivial for one in gray) < 25


def test_only_gray_pictures_are_refused_for_a_network_that_colors(
    run_of: RunOf, some_gray: Path, tmp_path: Path
) -> None:
    for path in some_gray.iterdir():
        if "gray" not in path.name:
            path.unlink()
    with pytest.raises(UserError, match="nothing that colorize could restore: all 3 pictures are without color"):
        strange(run_of("colorize"), some_gray, tmp_path / "out")


def test_pictures_may_be_larger_than_the_network_has_seen(trained: Path, mixture: Path, tmp_path: Path) -> None:
    found = strange(trained, mixture, tmp_path / "out", "data.limit=8", "data.image_size=40", "draws=1", "top=2")
    assert found.image_size == 40


def test_results_are_written_before_the_sheet_which_does_without_pictures_that_have_gone(
    run_of: RunOf, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Shown] = []

    def writing(path: Path, value: Any) -> None:
        write_json(path, value)
        Path(value["top"][0]["path"]).unlink()

    def drawing(columns: Sequence[Shown], title: str, keys: Mapping[str, Image.Image]) -> Image.Image:
        assert (tmp_path / "out" / "results.json").is_file()
        assert (tmp_path / "out" / "strange.csv").is_file()
        shown.extend(columns)
        return sheet(columns, title, keys)

    monkeypatch.setattr(stage, "write_json", writing)
    monkeypatch.setattr("pretrain.restoring.strange.sheet", drawing)
    found = strange(run_of("denoise"), pictures, tmp_path / "out", "draws=2")
    paths = [str(pictures / one.captions[0]) for one in shown]
    assert paths == [one.path for one in found.pictures[1:]]
    for one, path in zip(shown, paths, strict=True):  # each with its own picture
        square = load_images(build_source(path, single=True), SIDE).rows(torch.tensor([0]))[0]
        assert torch.equal(one.rows["original"], square)


def test_one_readable_picture_of_many_is_found_and_scaled_as_in_training(
    run_of: RunOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    place = int(min(set(even_rows(70, SAMPLE).tolist()) - set(even_rows(70, stage.TUNED).tolist())))
    for number in range(70):
        (folder / f"{number:02}.png").write_bytes(b"nothing")
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)).save(folder / f"{place:02}.png")
    seen: list[Images] = []

    def load(*given: Any, **named: Any) -> Images:
        seen.append(load_images(*given, **named))
        return seen[-1]

    monkeypatch.setattr(stage, "load_images", load)
    monkeypatch.setattr(stage, "provenance", lambda run: Provenance(levels=Levels(0, 65535)))
    found = retouch.strange(str(run_of("denoise")), f"data={folder}", f"out={tmp_path / 'out'}", "draws=1", *QUIET)
    assert (found.ranked, found.unreadable) == (1, 69)
    assert seen[0].levels == (0, 65535)


def test_what_cannot_be_done_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        retouch.strange(str(tmp_path / "none"), "data=nowhere", f"out={tmp_path / 'out'}", *QUIET)
    assert "no such folder" in str(error.value)
    assert "no such file or folder" in str(error.value)
    assert not (tmp_path / "out").exists()

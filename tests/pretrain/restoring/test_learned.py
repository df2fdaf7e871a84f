"""Which pictures a network has learned from, and which it has not seen."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import retouch
from common.data import build_source, load_images
from common.data.held_out import hold_out
from common.data.images import kept_rows
from pretrain.restoring.learned import learned_from
from pretrain.restoring.restore import provenance
from retouch.listing.found import find_runs
from tests.pretrain.restoring.restored import restore
from tests.pretrain.restoring.toys import SIDE, save
from tests.recipe import NETWORK

QUIET = ["wandb.mode=disabled", "precision=float32", "data.workers=0"]


def write(folder: Path, rows: range) -> Path:
    source = build_source("shapes:test").at(SIDE)
    for row in rows:
        image = source.image(row)
        assert isinstance(image, torch.Tensor)
        save(image, folder / f"{row:03d}.png")
    return folder


def train(out: Path, source: str | Path, *more: str, **settings: Any) -> Path:
    retouch.pretrain(
        {
            "out": str(out),
            "data": {"source": str(source), "image_size": SIDE, "workers": 0},
            "encoder": NETWORK,
            "decoder": {"kind": "upsampler", "width": 32},
            "pretext": {"kind": "denoise", "corruption": {"kind": "gaussian", "sigma": 0.1}},
            "steps": 2,
            "batch_size": 16,
            "precision": "float32",
            "wandb": {"mode": "disabled"},
            **settings,
        },
        *more,
    )
    return out


def known(run: Path, source: str | Path) -> list[bool] | None:
    opened = build_source(str(source))
    found = learned_from(run, provenance(run), opened, torch.arange(len(opened)))
    return None if found is None else found.tolist()


@pytest.mark.parametrize("limit", [None, 110, 40])
def test_images_of_training_were_learned_from_and_those_held_out_or_beyond_a_limit_were_not(
    limit: int | None, tmp_path: Path
) -> None:
    pictures = write(tmp_path / "pictures", range(120))
    run = train(tmp_path / "run", pictures, "seed=3", *([] if limit is None else [f"data.limit={limit}"]))
    training, held = hold_out(load_images(build_source(str(pictures)), SIDE, limit=limit), 0.02, 3)
    assert (held is None) == (limit == 40)
    learned = known(run, pictures)
    assert learned is not None
    assert [row for row, one in enumerate(learned) if one] == training.kept.tolist()
    assert known(run / "decoder", pictures) == learned


def test_files_are_told_apart_by_where_they_are(tmp_path: Path) -> None:
    pictures = write(tmp_path / "pictures", range(6))
    other = write(tmp_path / "other", range(6))  # the same names, and the same pixels
    run = train(tmp_path / "run", pictures)
    (tmp_path / "link").symlink_to(pictures)
    (tmp_path / "list.txt").write_text("pictures/001.png\nother/001.png\n./pictures/../pictures/002.png\n")
    assert known(run, tmp_path / "link") == [True] * 6
    (tmp_path / "links").mkdir()
    for file in sorted(pictures.iterdir()):
        (tmp_path / "links" / file.name).symlink_to(file)
    assert known(run, tmp_path / "links") == [True] * 6
    assert known(run, other) == [False] * 6
    assert known(run, tmp_path / "list.txt") == [True, False, True]
    assert known(run, f"patches:{pictures}") == [True] * len(build_source(f"patches:{pictures}"))


def test_an_image_was_learned_from_where_its_patches_were(tmp_path: Path) -> None:
    source = build_source("photos:train:3")
    for row in range(3):
        image = source.at(64).image(row)
        assert isinstance(image, torch.Tensor)
        save(image, tmp_path / "pictures" / f"{row}.png")
    run = train(tmp_path / "run", f"patches:{tmp_path / 'pictures'}", held_out=0)
    assert known(run, tmp_path / "pictures") == [True] * 3


def test_generated_images_are_told_apart_by_their_number(tmp_path: Path) -> None:
    run = train(tmp_path / "run", "shapes:train:40")
    assert known(run, "shapes:train:50") == [True] * 40 + [False] * 10
    assert known(run, "shapes:test:5") == [False] * 5


def test_images_of_every_training_of_a_network_were_learned_from(tmp_path: Path) -> None:
    first, second = write(tmp_path / "first", range(3)), write(tmp_path / "second", range(3, 6))
    train(tmp_path / "before", first)
    run = train(tmp_path / "run", second, encoder={"path": str(tmp_path / "before")})
    assert (known(run, first), known(run, second)) == ([True] * 3, [True] * 3)


def test_images_in_memory_must_still_be_those_of_the_run(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (SIDE, SIDE), (number, 0, 0)) for number in range(5)]
    name = retouch.images(pictures, "learned")
    run = train(tmp_path / "run", name)
    assert known(run, name) == [True] * 5
    retouch.images(pictures[::-1], "learned")
    assert known(run, name) is None


def test_where_an_image_could_not_be_read_it_is_not_known_which_were_held_out(tmp_path: Path) -> None:
    pictures = write(tmp_path / "pictures", range(120))
    (pictures / "broken.png").write_bytes(b"nothing")
    learned = known(train(tmp_path / "run", pictures), pictures)
    assert learned is not None
    assert sum(learned) == len(kept_rows(build_source(str(pictures)), None)) == 121


@pytest.mark.parametrize("lost", ["config.yaml", "results.json", "images"])
def test_of_what_is_lost_nothing_is_claimed(lost: str, tmp_path: Path) -> None:
    pictures = write(tmp_path / "pictures", range(3))
    run = train(tmp_path / "run", pictures)
    if lost == "images":
        pictures.rename(tmp_path / "moved")
        assert known(run, tmp_path / "moved") is None
        return
    (run / lost).unlink()
    assert known(run, pictures) is None


# ---- what is said of it


def test_a_ranking_of_what_was_learned_and_what_was_not_says_which(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = write(tmp_path / "pictures", range(12))
    run = train(tmp_path / "run", pictures)
    caplog.set_level(logging.INFO, logger="retouch")
    found = retouch.strange(str(run), f"data={pictures}", f"out={tmp_path / 'same'}", *QUIET)
    assert (found.ranked, found.learned) == (12, 12)
    assert (
        "all of these pictures were learned from: the network may have memorized some, which are then not found strange"
    ) in caplog.messages
    write(tmp_path / "new", range(12, 15))
    (tmp_path / "list.txt").write_text(
        "".join(f"{'pictures' if row < 12 else 'new'}/{row:03d}.png\n" for row in range(8, 15))
    )
    caplog.clear()
    found = retouch.strange(str(run), f"data={tmp_path / 'list.txt'}", f"out={tmp_path / 'both'}", *QUIET)
    assert (found.ranked, found.learned) == (7, 4)
    assert (
        "4 of 7 pictures were learned from: the network may have memorized them, and restores them better, so compare "
        "them only with each other (the column learned of strange.csv)"
    ) in caplog.messages
    rows = list(csv.DictReader((tmp_path / "both" / "strange.csv").open()))
    assert {Path(row["path"]).name: row["learned"] for row in rows} == {
        f"{row:03d}.png": str(row < 12) for row in range(8, 15)
    }
    assert json.loads((tmp_path / "both" / "results.json").read_text())["learned"] == 4
    caplog.clear()
    found = retouch.strange(str(run), f"data={tmp_path / 'new'}", f"out={tmp_path / 'unseen'}", *QUIET)
    assert found.learned == 0
    assert "learned from:" not in caplog.text
    marked = {one.path.name: one.on_training for one in find_runs(tmp_path) if one.stage == "strange"}
    assert marked == {"same": True, "both": False, "unseen": False}
    assert any(one.result.startswith("7 pictures (4 learned from), largest surprise") for one in find_runs(tmp_path))


def test_a_psnr_of_what_was_learned_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pictures = write(tmp_path / "pictures", range(4))
    run = train(tmp_path / "run", pictures)
    write(tmp_path / "new", range(4, 6))
    (tmp_path / "list.txt").write_text("pictures/001.png\nnew/004.png\n")
    caplog.set_level(logging.INFO, logger="retouch")
    found = restore(run, tmp_path / "list.txt", tmp_path / "both", "damage=recipe")
    assert (found.measured, found.learned) == (2, 1)
    assert (
        "1 of these 2 pictures was learned from: the network may have memorized them, and may restore others worse"
    ) in caplog.messages
    caplog.clear()
    assert restore(run, pictures, tmp_path / "given").learned == 0  # nothing was measured
    assert restore(run, tmp_path / "new", tmp_path / "unseen", "damage=recipe").learned == 0
    assert "learned from:" not in caplog.text
    marked = {one.path.name: one.on_training for one in find_runs(tmp_path) if one.stage == "restore"}
    assert marked == {"both": False, "given": False, "unseen": False}

"""Broken files in a folder of images: a run is that of the folder without them, also when it is killed and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import retouch
from tests.common.data.samples import picture
from tests.recipe import Killed, kill_at, last_checkpoint, pretraining

BROKEN = {*range(5, 15), 21}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Thirty pictures of which a run of ten and another one cannot be read, and the others alone."""
    spoiled, clean = tmp_path_factory.mktemp("spoiled"), tmp_path_factory.mktemp("clean")
    for number in range(30):
        picture(number).save(spoiled / f"{number:02}.png")
        if number in BROKEN:
            (spoiled / f"{number:02}.png").write_bytes(b"no picture")
        else:
            picture(number).save(clean / f"{number:02}.png")
    return spoiled, clean


def settings(out: Path, folder: Path, cache: str, workers: int = 0, **changes: Any) -> dict[str, Any]:
    data = {"source": f"folder:{folder}", "image_size": 16, "cache": cache, "workers": workers}
    return pretraining(out, data=data, checkpoint={"every": 2}, **changes)


def weights(out: Path) -> bytes:
    return (out / "encoder" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("cache", "workers"), [("ram", 0), ("none", 0), ("none", 2)])
def test_a_run_is_that_of_the_folder_without_its_broken_files(
    folders: tuple[Path, Path], tmp_path: Path, cache: str, workers: int
) -> None:
    spoiled, clean = folders
    retouch.pretrain(settings(tmp_path / "clean", clean, "ram"))
    retouch.pretrain(settings(tmp_path / "spoiled", spoiled, cache, workers))
    assert weights(tmp_path / "spoiled") == weights(tmp_path / "clean")
    assert "11 of 30 images cannot be read and are left out" in (tmp_path / "spoiled" / "train.log").read_text()


def test_a_killed_run_goes_on_bit_for_bit_without_them(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled, _ = folders
    retouch.pretrain(settings(tmp_path / "whole", spoiled, "none"))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 5)
        retouch.pretrain(settings(tmp_path / "cut", spoiled, "none"))
    assert last_checkpoint(tmp_path / "cut").name == "step-0000004"
    retouch.pretrain(settings(tmp_path / "cut", spoiled, "ram", resume=True))
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")

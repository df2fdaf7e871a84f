"""Files of several pages or frames: the first is the image, and a source of them is warned of once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

from common.data import build_source, load_images
from common.data.source import Subset
from tests.common.data.samples import picture

KINDS = ("tif", "gif", "png", "webp")


def write_stack(path: Path, pages: int = 3) -> None:
    """Pages of which each has its own gray."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = [Image.new("RGB", (16, 16), (60 * (number + 1),) * 3) for number in range(pages)]
    first.save(path, save_all=True, append_images=others, lossless=True)  # for webp


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if "pages" in one.getMessage()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", ["ram", "none"])
def test_the_first_page_is_read_and_the_others_are_mentioned(
    tmp_path: Path, kind: str, cache: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        write_stack(tmp_path / f"{number}.{kind}", pages=number + 1)
    images = load_images(build_source(f"folder:{tmp_path}"), 16, cache=cache)
    assert images.rows(torch.arange(3)).unique().tolist() == [60]
    load_images(build_source(f"folder:{tmp_path}"), 16, cache=cache)
    assert warnings(caplog) == [
        f"folder:{tmp_path}: 2 of 3 files looked at have several pages or frames (such as {tmp_path}/1.{kind}, with "
        "2); the first of each file is read: to use the others, save each as a file of its own"
    ]


def test_parts_and_patches_are_warned_of_as_one_source(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(4):
        write_stack(tmp_path / f"{number}.tif")
    whole = build_source(f"folder:{tmp_path}")
    for rows in ([0, 1], [2, 3]):
        load_images(Subset(whole, torch.tensor(rows), "half"), 16)
    load_images(build_source(f"patches:folder:{tmp_path}"), 16, limit=4)
    assert len(warnings(caplog)) == 1


def test_a_smaller_copy_in_a_tiff_is_no_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, small = picture(0, 32, 32), picture(0, 16, 16)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    small.encoderinfo = {"tiffinfo": tags}
    whole.save(tmp_path / "map.tif", save_all=True, append_images=[small])
    assert getattr(Image.open(tmp_path / "map.tif"), "n_frames", 1) == 2
    load_images(build_source(f"folder:{tmp_path}"), 16)
    assert warnings(caplog) == []


def test_what_a_phone_adds_to_a_photograph_is_no_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture(0).save(tmp_path / "IMG_1.jpg", "MPO", save_all=True, append_images=[picture(1)])
    images = load_images(build_source(f"folder:{tmp_path}"), 16)
    assert len(images) == 1
    assert warnings(caplog) == []


def test_a_source_of_plain_images_is_not_worth_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "retouch")
    for kind in (*KINDS, "jpg", "bmp"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"a.{kind}")
    load_images(build_source(f"folder:{tmp_path}"), 8)
    assert warnings(caplog) == []

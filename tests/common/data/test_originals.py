"""Facts about images before decoding: the same however they are read; for patches, about the whole images."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.data import build_source, load_images
from common.data.images import Cache
from common.data.originals import LOOKED_AT, Originals, Sizes
from tests.common.data.samples import picture

SIZES = [(30, 20), (20, 40), (16, 16), (300, 10), (18, 20)]  # by pixels: 256, 360, 600, 800, 3000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, (width, height) in enumerate(SIZES):
        picture(number, width, height).save(tmp_path / f"{number}.png")
    (tmp_path / "1-broken.png").write_bytes(b"no image")
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "0-cut.png").write_bytes(whole[: len(whole) // 2])  # its size could be read, its pixels not
    return tmp_path


EXPECTED = Originals(unreadable=2, sizes=Sizes(images=5, smallest=(16, 16), median=(30, 20), largest=(300, 10)))


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_sizes_are_those_of_the_files_that_can_be_read(folder: Path, cache: Cache) -> None:
    for _ in range(2):  # the second time, what the first has found is remembered
        images = load_images(build_source(str(folder)), 8, cache=cache)
        assert images.originals == EXPECTED
    later = load_images(build_source(str(folder)), 8, cache=cache, check=False).readable()
    assert later.originals == EXPECTED


def test_of_patches_it_is_the_images_that_are_cut(folder: Path) -> None:
    images = load_images(build_source(f"patches:{folder}"), 8, limit=200)
    assert images.originals == EXPECTED


def test_generated_images_have_no_originals() -> None:
    assert load_images(build_source("shapes"), 8, limit=4).originals is None


def test_of_many_images_some_are_looked_at(folder: Path) -> None:
    (folder / "list.txt").write_text("".join(f"{folder}/{number % 5}.png\n" for number in range(2 * LOOKED_AT)))
    found = load_images(build_source(str(folder / "list.txt")), 8).originals
    assert found is not None
    assert found.sizes == Sizes(images=LOOKED_AT, smallest=(16, 16), median=(30, 20), largest=(300, 10))

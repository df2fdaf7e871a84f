"""Patches of one's own pictures: crisp, reproducible, from every picture and place, and with little decoding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from common.data import Labels, Source, Subset, load_images
from common.data.folder import FolderSource
from common.data.levels import Levels
from common.data.patches import EACH, ROWS, PatchesSource
from common.errors import UserError
from tests.common.data.samples import picture


class Places(Source):
    """Images ``[3 h w]`` whose pixels say where they are: their number, row and column. Counts how often each opens."""

    spec, tasks, fingerprint = "places", (), "0" * 64

    def __init__(self, *sizes: tuple[int, int]) -> None:
        self.sizes = sizes
        self.opened = [0] * len(sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def image(self, index: int) -> Tensor:
        self.opened[index] += 1
        height, width = self.sizes[index]
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        return torch.stack([torch.full_like(rows, index), rows, columns]).to(torch.uint8)

    def where(self, index: int) -> str:
        return f"place {index}"

    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        raise AssertionError("no labels here")


def test_patches_are_cut_at_natural_resolution_from_every_place_of_every_image() -> None:
    source = PatchesSource(Places((40, 60), (60, 40), (12, 13)), each=2000).at(12)
    patches = source.bulk(torch.arange(len(source)))
    assert patches is not None
    steps = torch.arange(12, dtype=torch.uint8)
    assert torch.equal(patches[:, 1], patches[:, 1, :1, :1] + steps[:, None].expand(len(source), 12, 12))
    assert torch.equal(patches[:, 2], patches[:, 2, :1, :1] + steps.expand(len(source), 12, 12))
    assert torch.equal(patches[:, 0, 0, 0], torch.arange(3, dtype=torch.uint8).repeat_interleave(2000))
    for number, (height, width) in enumerate(source.source.sizes):  # type: ignore[attr-defined]
        corners = patches[2000 * number : 2000 * (number + 1), 1:, 0, 0]
        assert corners.amin(0).tolist() == [0, 0]
        assert corners.amax(0).tolist() == [height - 12, width - 12]


def test_a_patch_does_not_depend_on_its_batch_and_follows_the_seed() -> None:
    source = PatchesSource(Places((40, 60), (60, 40)), each=50).at(8)
    rows = torch.tensor([99, 3, 60, 4, 3])
    together = source.bulk(rows)
    assert together is not None
    assert torch.equal(together, torch.stack([source.image(int(row)) for row in rows]))
    other = PatchesSource(source.source, seed=1, each=50).at(8)
    assert not torch.equal(other.image(3), source.image(3))
    assert len({one.fingerprint for one in (source, other, source.at(9), PatchesSource(source.source, each=51))}) == 4


def test_few_images_give_a_data_set_and_many_give_some_each() -> None:
    assert len(PatchesSource(Places(*[(20, 20)] * 3))) == 3 * -(-ROWS // 3) >= ROWS
    assert len(PatchesSource(Places(*[(20, 20)] * 30_000))) == 30_000 * EACH


@pytest.mark.parametrize("limit", [None, 600])
def test_filling_the_cache_opens_each_image_a_few_times_at_most(limit: int | None) -> None:
    places = Places(*[(30, 30)] * 4)
    loaded = load_images(PatchesSource(places, each=500), 10, limit=limit)
    assert loaded.pixels is not None
    assert set(loaded.pixels[:, 0, 0, 0].tolist()) == {0, 1, 2, 3}  # a limit takes some of every image
    assert max(places.opened) <= 5  # once for the levels, and once for the pages of its file


def test_images_smaller_than_a_patch_are_left_out_and_refused_where_all_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = PatchesSource(Places((30, 30), (9, 30), (30, 30)), each=4)
    caplog.set_level("WARNING", logger="retouch")
    loaded = load_images(source, 10)
    assert loaded.readable().kept.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert "4 of 12 images cannot be read and are left out" in caplog.text
    assert ": place 1, patch 0 (the image has 30x9 px, less than a patch of " in caplog.text
    with pytest.raises(UserError) as caught:
        load_images(source, 31, limit=2)
    assert str(caught.value).startswith("patches:places: no image can be read, for example place ")
    assert str(caught.value).endswith("px, less than a patch of 31 px)")


def test_pictures_of_a_folder_are_turned_upright_and_cut_as_they_are(tmp_path: Path) -> None:
    shown = picture(0)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter before it is looked at
    shown.save(tmp_path / "turned.png", exif=exif)
    upright = np.asarray(shown.rotate(-90, expand=True)).transpose(2, 0, 1)
    windows = np.lib.stride_tricks.sliding_window_view(upright, (12, 12), axis=(1, 2))
    patches = load_images(PatchesSource(FolderSource(str(tmp_path)), each=20), 12).pixels
    assert patches is not None
    for patch in patches.numpy():
        assert (windows == patch[:, None, None]).all((0, 3, 4)).any()


def test_patches_have_the_levels_that_are_given(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 4096, (40, 40)).astype(np.uint16)
    deep[0, 0] = 4095
    Image.fromarray(deep).save(tmp_path / "deep.png")
    source = PatchesSource(FolderSource(str(tmp_path)), each=20)
    own, given = load_images(source, 12), load_images(source, 12, levels=Levels(0, 16383))
    assert (own.levels, given.levels) == ((0, 4095), (0, 16383))
    assert own.pixels is not None
    assert given.pixels is not None
    assert torch.equal(given.pixels, own.pixels // 4)
    assert own.fingerprint != given.fingerprint
    part = load_images(Subset(source, torch.tensor([3, 7]), "some"), 12, cache="none", levels=Levels(0, 16383))
    assert torch.equal(part.rows(torch.arange(2)), given.pixels[[3, 7]])
    thumbnail = given.source.at(12).image(5)
    assert isinstance(thumbnail, Tensor)
    assert torch.equal(thumbnail, given.pixels[5])

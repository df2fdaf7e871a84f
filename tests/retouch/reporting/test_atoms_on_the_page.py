"""Atoms on the page: folded, on its own ground, and counted."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.files import write_json
from pretrain.report.atoms import save_atoms, save_exciting
from retouch.reporting.blocks import Panels
from retouch.reporting.page import html
from retouch.reporting.parts import page_parts
from retouch.reporting.reading import read_facts
from tests.retouch.reporting.reading import Page
from tests.retouch.reporting.runs import write_pretraining


def dictionary(folder: Path, *, mirror: bool, unused: int = 0) -> Path:
    """A finished run that learned 40 atoms, of which half are mirror images or none."""
    run = write_pretraining(folder, method="patch_dictionary")
    args = {"atoms": 40, "patch": 4, "mirror": mirror}
    encoder = build_encoder(EncoderConfig(name="patch_dictionary", model_args=args), image_size=16)
    export_encoder(encoder, run / "encoder")
    tree = json.loads((run / "results.json").read_text())
    write_json(run / "results.json", {**tree, "atoms": 40, "unused_atoms": unused})
    (run / "panels").mkdir()
    count = 20 if mirror else 40
    save_atoms(run / "panels" / "atoms.png", torch.randn(count, 3, 4, 4), torch.arange(count), title="dictionary")
    save_exciting(run / "panels" / "exciting.png", torch.randn(12, 3, 4, 4), torch.rand(12, 5, 3, 4, 4))
    return run


@pytest.mark.parametrize(("mirror", "which"), [(True, "20 of 40"), (False, "all 40")])
def test_atoms_are_folded_and_it_is_said_how_many_of_them_are_drawn(tmp_path: Path, mirror: bool, which: str) -> None:
    facts = read_facts([dictionary(tmp_path / "kmeans", mirror=mirror)])
    [part] = [one for one in page_parts(facts) if one.anchor == "atoms"]
    *_, block = part.blocks
    assert isinstance(block, Panels)
    assert block.folded == "kmeans: 40 atoms"
    assert [one.caption for one in block.items] == [
        f"kmeans: {which}, most used first",
        "kmeans: the 12 most used, each with the patches that excite it most",
    ]
    page = Page(html(facts))
    assert ("Of an atom and its left-right mirror image" in page.said) == mirror
    assert page.said.count("Each square is one atom, ") == 1
    assert "details" in [tag for tag, attributes in page.tags if attributes.get("class") == "panels"]


def test_their_pictures_have_no_paper_so_that_they_suit_a_dark_page(tmp_path: Path) -> None:
    [part] = [one for one in page_parts(read_facts([dictionary(tmp_path / "a", mirror=True)])) if one.anchor == "atoms"]
    for block in part.blocks:
        for one in block.items if isinstance(block, Panels) else ():
            with Image.open(io.BytesIO(base64.b64decode(one.picture.uri.partition(",")[2]))) as image:
                opaque = np.array(image.convert("RGBA"))[..., 3]
            assert set(np.unique(opaque)) == {0, 255}
            assert opaque[0, 0] == 255  # neither a margin nor a title


def test_struck_atoms_are_explained_where_there_are_any(tmp_path: Path) -> None:
    for unused in (0, 2):
        said = Page(html(read_facts([dictionary(tmp_path / f"{unused}", mirror=False, unused=unused)]))).said
        assert ("the unused ones last and struck through" in said) == bool(unused)


def shown(run: Path) -> list[Image.Image]:
    """The pictures in the part about atoms, RGBA."""
    [part] = [one for one in page_parts(read_facts([run])) if one.anchor == "atoms"]
    panels = [one for block in part.blocks if isinstance(block, Panels) for one in block.items]
    opened = [Image.open(io.BytesIO(base64.b64decode(one.picture.uri.partition(",")[2]))) for one in panels]
    return [image.convert("RGBA") for image in opened]


@pytest.mark.parametrize("name", ["atoms.png", "exciting.png"])
def test_a_picture_of_an_unknown_layout_is_shown_as_it_is(tmp_path: Path, name: str) -> None:
    """Its size does not suit 40 atoms, or 12 with their patches, below a title."""
    run = dictionary(tmp_path / "a", mirror=False)
    other = Image.new("RGB", (40, 50), "white")
    other.putpixel((0, 0), (1, 2, 3))
    other.save(run / "panels" / name)
    image = shown(run)[name == "exciting.png"]
    assert image.size == (40, 50)
    assert image.getpixel((0, 0)) == (1, 2, 3, 255)
    assert set(np.unique(np.array(image)[..., 3])) == {255}  # on its paper


@pytest.mark.parametrize("patches", [1, 5])
def test_a_title_that_is_wider_than_the_patches_adds_none(tmp_path: Path, patches: int) -> None:
    """An atom, a gap of 18 px, and tiles of 64 px that are 3 px apart."""
    run = dictionary(tmp_path / "a", mirror=False)
    drawn = torch.rand(12, patches, 3, 4, 4)
    drawn[0, -1] = 1.0  # a white patch is no paper: others are below it
    title = "a title that is much wider than the patches " * 2
    save_exciting(run / "panels" / "exciting.png", torch.randn(12, 3, 4, 4), drawn, title=title)
    save_atoms(run / "panels" / "atoms.png", torch.randn(40, 3, 4, 4), torch.arange(40), title=title)
    atoms, exciting = shown(run)
    assert exciting.size == (64 + 18 + patches * 67 - 3, 12 * 67 - 3)
    assert atoms.width == 7 * (96 + 3) - 3  # 40 atoms of 4 px, enlarged to 96, seven in a row
    assert exciting.getpixel((exciting.width - 1, 0)) == (255, 255, 255, 255)

"""``retouch search``: images similar to a query are found, listed and shown."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import retouch
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.errors import UserError
from finetune.search.run import SearchResult
from finetune.search.sheet import GAP, SIDE, TEXT


def picture(seed: int, change: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(20, 230, (6, 6, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((20, 16), Image.Resampling.BILINEAR))
    return Image.fromarray(smooth + np.uint8(change))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures, two queries that are brighter copies of the third and the eighth, and an encoder."""
    folder = tmp_path_factory.mktemp("search")
    for name in ("pictures", "queries"):
        (folder / name).mkdir()
    for seed in range(12):
        picture(seed).save(folder / "pictures" / f"{seed:02}.png")
    for seed in (3, 8):
        picture(seed, 5).save(folder / "queries" / f"like, {seed:02}.png")
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(model_args={"width": 8, "depth": 1}), image_size=16)
    export_encoder(encoder, folder / "encoder")
    return folder


def searched(here: Path, out: Path, **changes: Any) -> SearchResult:
    settings = {
        "run": str(here / "encoder"),
        "data": str(here / "pictures"),
        "query": str(here / "queries"),
        "top": 4,
        "out": str(out),
        "feature_cache": False,
        "precision": "float32",
        "wandb": {"mode": "disabled"},
    }
    return retouch.search(settings | changes)


@pytest.mark.parametrize("components", [None, 6])
def test_what_is_like_a_query_comes_first(here: Path, tmp_path: Path, components: int | None) -> None:
    result = searched(here, tmp_path / "out", components=components)
    assert result.images == 12
    assert [Path(one.query).name for one in result.found] == ["like, 03.png", "like, 08.png"]
    assert [Path(one.neighbors[0].path).name for one in result.found] == ["03.png", "08.png"]
    for one in result.found:
        similar = [near.similarity for near in one.neighbors]
        assert len(similar) == 4
        assert similar == sorted(similar, reverse=True)
        assert similar[0] > 0.9 > similar[1]
    with result.table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["query"], int(row["rank"]), row["path"]) for row in rows] == [
        (one.query, rank, near.path) for one in result.found for rank, near in enumerate(one.neighbors, start=1)
    ]


def test_the_sheet_shows_each_query_beside_what_was_found(here: Path, tmp_path: Path) -> None:
    result = searched(here, tmp_path / "out")
    with Image.open(result.sheet) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(float)
    for number, one in enumerate(result.found):
        top = GAP + number * (SIDE + GAP + TEXT)
        places = [GAP, *(3 * GAP + place * (SIDE + GAP) for place in range(1, 5))]
        shown = [pixels[top : top + SIDE, left : left + SIDE] for left in places]
        for thumbnail, path in zip(shown, (one.query, *(near.path for near in one.neighbors)), strict=True):
            with Image.open(path) as image:
                square = image.crop((2, 0, 18, 16)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            assert np.abs(thumbnail - np.asarray(square)).mean() < 3


def test_a_query_may_be_one_image(here: Path, tmp_path: Path) -> None:
    result = searched(here, tmp_path / "out", query=str(here / "queries" / "like, 08.png"))
    assert [Path(one.neighbors[0].path).name for one in result.found] == ["08.png"]


def test_a_query_does_not_find_itself(here: Path, tmp_path: Path) -> None:
    result = searched(here, tmp_path / "out", query=str(here / "pictures"), top=20)
    for one in result.found:
        assert len(one.neighbors) == 11
        assert one.query not in [near.path for near in one.neighbors]


def test_a_second_search_in_the_same_images_reads_their_features(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = {"feature_cache": True, "cache_folder": str(tmp_path / "cache")}
    first = searched(here, tmp_path / "first", **cached)
    passes: list[int] = []
    real = retouch.load_encoder(here / "encoder").__class__.layers
    monkeypatch.setattr(
        "common.encoders.small_cnn.SmallCNN.layers",
        lambda self, images: passes.append(len(images)) or real(self, images),
    )
    second = searched(here, tmp_path / "second", **cached)
    assert [count for count in passes if count > 1] == [2]  # the queries; one image alone shows the shapes of maps
    assert second.found == first.found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": "gone.png"}, "gone.png"),
        ({"run": "gone"}, "no such folder"),
        ({"layer": "1,2"}, "layer"),
        ({"top": 0}, "top"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_written(
    here: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        searched(here, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_a_query_that_is_reached_by_another_way_does_not_find_itself(here: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(here / "pictures")
    result = searched(here, tmp_path / "out", query=str(tmp_path / "link" / "03.png"), top=20)
    assert "03.png" not in [Path(near.path).name for near in result.found[0].neighbors]
    assert len(result.found[0].neighbors) == 11


def test_where_the_query_is_the_only_image_there_is_nothing_to_search_among(here: Path, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    only = tmp_path / "alone" / "only.png"
    picture(0).save(only)
    (tmp_path / "link.png").symlink_to(only)
    for query in (only, tmp_path / "link.png"):
        with pytest.raises(UserError) as told:
            searched(here, tmp_path / "out", data=str(only.parent), query=str(query))
        assert told.value.problems == (
            f"data: folder:{only.parent} has no image besides the query itself, so there is nothing to search among; "
            "name more images, or another query",
        )
    one = {"source": str(here / "pictures"), "limit": 1}
    [kept] = searched(here, tmp_path / "which", data=one).found[0].neighbors
    with pytest.raises(UserError, match=r"name more images or a larger data\.limit, or another query$"):
        searched(here, tmp_path / "out", data=one, query=kept.path)
    assert not (tmp_path / "out").exists()


def test_a_query_without_another_image_that_can_be_read_is_named(
    here: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "two").mkdir()
    only = tmp_path / "two" / "only.png"
    picture(0).save(only)
    (tmp_path / "two" / "broken.png").write_bytes(b"broken")
    result = searched(here, tmp_path / "out", data=str(tmp_path / "two"), query=str(only))
    assert [one.neighbors for one in result.found] == [()]
    assert result.table.read_text() == "query,rank,path,similarity\n"
    assert f"no other image could be compared with {only}: the table has no row of it" in caplog.messages
    caplog.clear()
    searched(here, tmp_path / "more", data=str(only.parent), query=str(here / "queries"))
    assert not [one for one in caplog.messages if "no other image" in one]

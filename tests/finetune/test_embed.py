"""Embedding: the same features as the encoder gives, with paths and labels, in a file others can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from common.artifact import export_encoder, load_encoder
from common.data import build_source, load_images
from common.encoders import EncoderConfig, build_encoder
from common.errors import UserError
from common.images import to_float
from finetune import embed as stage
from finetune.config import EmbedConfig
from finetune.embed import embed


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "encoder"
    torch.manual_seed(0)
    config = EncoderConfig(name="small_cnn", model_args={"width": 4, "depth": 1})
    export_encoder(build_encoder(config, image_size=16), folder, {})
    return folder


def config_of(out: Path, encoder: Path, **changes: Any) -> EmbedConfig:
    values = {"out": out, "encoder": encoder, "data": {"source": "shapes", "limit": 20}, "precision": "float32"}
    return EmbedConfig.model_validate(values | {"wandb": {"mode": "disabled"}, "batch_size": 8} | changes)


def test_features_labels_and_places_are_written_row_by_row(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "GROUP_ROWS", 10)
    path = embed(config_of(tmp_path / "out", encoder))
    table = pq.read_table(path)
    assert table.column_names == ["path", "label", "features"]
    assert pq.ParquetFile(path).num_row_groups == 2  # 16 rows, then 4: streamed, not gathered
    source = build_source("shapes")
    images = load_images(source, 16, limit=20)
    expected = load_encoder(encoder).encode(to_float(images.rows(torch.arange(20))))
    torch.testing.assert_close(torch.tensor(table["features"].to_pylist()), expected)
    labels = images.labels("shape")
    assert table["label"].to_pylist() == [labels.names[value] for value in labels.values]
    assert table["path"].to_pylist() == [source.where(row) for row in range(20)]


def test_images_without_labels_have_null_labels(encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (20, 16), (number, 0, 0)).save(folder / f"{number}.png")
    path = embed(config_of(tmp_path / "out", encoder, data={"source": f"folder:{folder}"}))
    table = pq.read_table(path)
    assert table["label"].to_pylist() == [None] * 3
    assert [Path(place).name for place in table["path"].to_pylist()] == ["0.png", "1.png", "2.png"]


def test_layers_and_poolings_can_be_joined(encoder: Path, tmp_path: Path) -> None:
    path = embed(config_of(tmp_path / "out", encoder, layer="last2", pooling="avg+max"))
    assert len(pq.read_table(path)["features"][0]) == 2 * (8 + 16)


def test_a_full_folder_is_not_written_to(encoder: Path, tmp_path: Path) -> None:
    path = embed(config_of(tmp_path / "out", encoder))
    before = path.read_bytes()
    with pytest.raises(UserError, match="not empty"):
        embed(config_of(tmp_path / "out", encoder, layer=0))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": "each"}, "names several features"),
        ({"layer": 9}, "no layer 9"),
        ({"data": {"source": "shapes", "task": "size"}}, "no task 'size'"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    changes: dict[str, Any], message: str, encoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        embed(config_of(tmp_path / "out", encoder, **changes))
    assert not (tmp_path / "out").exists()

"""Embedding: the encoder's features, with paths and labels, in a file that other tools can read."""

from __future__ import annotations

import io
import json
import logging
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from common.data import build_source, load_images
from common.data.levels import Levels
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.encoders.load import load_encoder, read_encoder_card
from common.encoders.provenance import Provenance
from common.encoders.small_cnn import SmallCNN
from common.errors import UserError
from common.pixels import to_float
from finetune import embed as stage
from finetune.config import EmbedConfig
from finetune.embed import EmbedResult, embed, read_sparse, storage_report, storage_text
from tests.offline_wandb import history, settings


def config_of(out: Path, encoder: Path, **changes: Any) -> EmbedConfig:
    values = {"out": out, "encoder": encoder, "data": {"source": "shapes", "limit": 20}, "precision": "float32"}
    return EmbedConfig.model_validate(values | {"wandb": {"mode": "disabled"}, "batch_size": 8} | changes)


def test_features_labels_and_paths_are_written_row_by_row(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "GROUP_ROWS", 10)
    path = embed(config_of(tmp_path / "out", encoder)).path
    table = pq.read_table(path)
    assert table.column_names == ["path", "label", "features"]
    assert pq.ParquetFile(path).num_row_groups == 2  # 16 rows, then 4: streamed, not collected first
    source = build_source("shapes")
    images = load_images(source, 16, limit=20)
    expected = load_encoder(encoder).encode(to_float(images.rows(torch.arange(20))))
    torch.testing.assert_close(torch.tensor(table["features"].to_pylist()), expected)
    labels = images.labels("shape")
    assert table["label"].to_pylist() == [labels.names[value] for value in labels.values]
    assert table["path"].to_pylist() == [source.where(row) for row in range(20)]


def test_classes_are_named_with_their_counts(encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(5):
        path = tmp_path / "pictures" / ("cat" if number else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (40 * number, 0, 0)).save(path)
    embed(config_of(tmp_path / "out", encoder, data={"source": f"folder:{tmp_path / 'pictures'}"}))
    assert ("retouch", logging.INFO, "task label: cat (4), dog (1)") in caplog.record_tuples


def test_levels_of_deep_images_can_be_set(encoder: Path, tmp_path: Path) -> None:
    for number in range(4):
        ramp = np.random.default_rng(number).integers(0, 4000, (16, 16)).astype(np.uint16)
        Image.fromarray(ramp).save(tmp_path / f"{number}.png")
    data = {"source": f"folder:{tmp_path}", "levels": [0, 16383]}
    found = pq.read_table(embed(config_of(tmp_path / "out", encoder, data=data)).path)["features"].to_pylist()
    images = load_images(build_source(f"folder:{tmp_path}", levels=(0, 16383)), 16)
    assert images.rows(torch.arange(4)).max() < 64
    expected = load_encoder(encoder).encode(to_float(images.rows(torch.arange(4))))
    torch.testing.assert_close(torch.tensor(found), expected)


def test_images_have_the_levels_that_the_encoder_learned_from(tmp_path: Path) -> None:
    for number in range(4):
        ramp = np.random.default_rng(number).integers(0, 4000, (16, 16)).astype(np.uint16)
        Image.fromarray(ramp).save(tmp_path / f"{number}.png")
    network = build_encoder(EncoderConfig(model_args={"width": 4, "depth": 1}), image_size=16)
    export_encoder(network, tmp_path / "encoder", Provenance(levels=Levels(0, 16383)))
    data = {"source": f"folder:{tmp_path}"}
    found = pq.read_table(embed(config_of(tmp_path / "out", tmp_path / "encoder", data=data)).path)["features"]
    images = load_images(build_source(f"folder:{tmp_path}", levels=(0, 16383)), 16)
    expected = load_encoder(tmp_path / "encoder").encode(to_float(images.rows(torch.arange(4))))
    torch.testing.assert_close(torch.tensor(found.to_pylist()), expected)


def test_wandb_holds_the_hash_of_the_encoder(encoder: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path / "out", encoder, wandb={"mode": "offline"})
    embed(config)
    history(config.out)  # waits until the file is complete
    assert settings(config.out)["encoder_sha256"] == read_encoder_card(encoder).sha256


def table_without_all_labels(path: Path, feature: Any, labels: list[Any]) -> str:
    pictures = []
    for number in range(len(labels)):
        file = io.BytesIO()
        Image.new("RGB", (16, 16), (40 * number, 0, 0)).save(file, "png")
        pictures.append({"bytes": file.getvalue(), "path": None})
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features).to_parquet(path)
    return f"parquet:{path}"


@pytest.mark.parametrize(
    ("feature", "labels"),
    [
        (datasets.ClassLabel(names=["a", "b"]), [-1, -1, -1]),
        (datasets.ClassLabel(names=["a", "b"]), [None, None, None]),
        (datasets.Value("string"), ["a bird", None, "a bird"]),
    ],
    ids=["all -1", "all null", "gaps"],
)
def test_images_without_all_labels_are_embedded_unless_the_labels_are_asked_for(
    encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, feature: Any, labels: list[Any]
) -> None:
    source = table_without_all_labels(tmp_path / "table.parquet", feature, labels)
    table = pq.read_table(embed(config_of(tmp_path / "out", encoder, data={"source": source})).path)
    assert table["label"].to_pylist() == [None] * 3
    assert len(table["features"]) == 3
    assert "of 3 rows have no label in column 'label'; features need no labels" in caplog.text
    for asked in ({"task": "label"}, {"label": "label"}):
        with pytest.raises(UserError, match="of 3 rows have no label in column 'label'"):
            embed(config_of(tmp_path / "other", encoder, data={"source": source, **asked}))
        assert not (tmp_path / "other").exists()


def test_the_seed_does_not_change_the_images(encoder: Path, tmp_path: Path) -> None:
    data = {"source": "shapes", "limit": 10}
    one, other = (
        pq.read_table(embed(config_of(tmp_path / f"{seed}", encoder, seed=seed, data=data)).path) for seed in (0, 1)
    )
    assert one.equals(other)


def test_images_without_labels_have_null_labels(encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (20, 16), (number, 0, 0)).save(folder / f"{number}.png")
    path = embed(config_of(tmp_path / "out", encoder, data={"source": f"folder:{folder}"})).path
    table = pq.read_table(path)
    assert table["label"].to_pylist() == [None] * 3
    assert [Path(place).name for place in table["path"].to_pylist()] == ["0.png", "1.png", "2.png"]


def test_layers_and_poolings_can_be_joined(encoder: Path, tmp_path: Path) -> None:
    path = embed(config_of(tmp_path / "out", encoder, layer="last2", pooling="avg+max")).path
    assert len(pq.read_table(path)["features"][0]) == 2 * (8 + 16)


def test_features_that_are_not_finite_are_named_and_nothing_is_written(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SmallCNN.layers

    def broken(self: SmallCNN, images: torch.Tensor) -> list[torch.Tensor]:
        *maps, last = real(self, images)
        if len(images) > 1:  # not the trial image
            last = last.clone()
            last[2] = torch.inf
        return [*maps, last]

    monkeypatch.setattr(SmallCNN, "layers", broken)
    with pytest.raises(UserError) as refused:
        embed(config_of(tmp_path / "out", encoder, layer="last2", pooling="avg+max"))
    assert refused.value.title.startswith("small_cnn gives NaN or infinite features")
    assert refused.value.problems == (
        "layer 2, avg: 1 of 8 images, first shapes:train[2]",
        "layer 2, max: 1 of 8 images, first shapes:train[2]",
    )
    assert not (tmp_path / "out" / "features.parquet").exists()
    embed(config_of(tmp_path / "first", encoder, layer=0))  # another layer is not asked for


@pytest.fixture(scope="module")
def rectified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder whose last layer is a code of 8 channels, in which about half of the entries are zero."""
    folder = tmp_path_factory.mktemp("rectified") / "encoder"
    torch.manual_seed(0)
    args = {"width": 4, "depth": 1, "code_channels": 8, "rectify": True}
    export_encoder(build_encoder(EncoderConfig(model_args=args), image_size=16), folder)
    return folder


def test_sparse_features_equal_the_dense_ones(rectified: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "GROUP_ROWS", 10)
    dense = pq.read_table(embed(config_of(tmp_path / "dense", rectified, pooling="flatten")).path)
    path = embed(config_of(tmp_path / "sparse", rectified, pooling="flatten", store="sparse")).path
    expected = torch.tensor(dense["features"].to_pylist())
    assert 0.2 < float((expected == 0).float().mean()) < 0.8

    found = read_sparse(path)
    assert found.layout == torch.sparse_csr
    assert torch.equal(found.to_dense(), expected)
    table = pq.read_table(path)
    assert table.column_names == ["path", "label", "indices", "values"]
    assert table.schema.field("indices").type == pa.list_(pa.int32())
    assert table.schema.field("values").type == pa.list_(pa.float32())
    assert pq.ParquetFile(path).num_row_groups == 2
    assert table.select(["path", "label"]).equals(dense.select(["path", "label"]))
    for row, (indices, values) in enumerate(
        zip(table["indices"].to_pylist(), table["values"].to_pylist(), strict=True)
    ):
        assert indices == expected[row].nonzero().flatten().tolist()
        assert values == expected[row][expected[row] != 0].tolist()


@pytest.mark.parametrize("store", ["dense", "sparse"])
def test_the_storage_report_counts_the_non_zeros(
    store: str, rectified: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="retouch"):
        path = embed(config_of(tmp_path / "out", rectified, pooling="flatten", store=store)).path
    report = storage_report(path)
    table = pq.read_table(path)
    lists = table["features" if store == "dense" else "values"].to_pylist()
    count = sum(value != 0 for values in lists for value in values)
    assert 0 < count < 20 * 32
    assert (report.rows, report.width, report.nonzeros) == (20, 32, count)
    assert report.bytes_dense == 20 * 32 * 4
    assert 0 < report.bytes_on_disk < path.stat().st_size
    assert report.nonzeros_per_image == count / 20
    assert report.zero_share == pytest.approx(1 - count / 640)
    assert storage_text(report) in caplog.text
    assert json.loads(pq.ParquetFile(path).metadata.metadata[b"shape"]) == [20, 32]


def test_the_report_reads_as_a_sentence() -> None:
    found = EmbedResult(path=Path("f.parquet"), rows=1000, width=2048, nonzeros=12_500, bytes_on_disk=110_000)
    assert storage_text(found) == (
        "107.4 KiB on disk, 8 MiB as dense float32 (1%); 12.5 of 2,048 features per image are non-zero (99.4% zeros)"
    )


def test_codes_that_are_zero_everywhere_can_be_written(rectified: Path, tmp_path: Path) -> None:
    encoder = load_encoder(rectified)
    for tensor in encoder.state_dict().values():
        tensor.zero_()
    export_encoder(encoder, tmp_path / "encoder")
    path = embed(config_of(tmp_path / "out", tmp_path / "encoder", store="sparse")).path
    assert torch.equal(read_sparse(path).to_dense(), torch.zeros(20, 8))
    assert storage_report(path).zero_share == 1


def test_files_without_sparse_features_are_refused(encoder: Path, tmp_path: Path) -> None:
    dense = embed(config_of(tmp_path / "out", encoder)).path
    with pytest.raises(UserError, match="holds dense features"):
        read_sparse(dense)
    pq.write_table(pa.table({"indices": [[0]], "values": [[1.0]]}), tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    for read in (read_sparse, storage_report):
        with pytest.raises(UserError, match="retouch embed did not write it"):
            read(tmp_path / "other.parquet")
        with pytest.raises(UserError, match="not readable as parquet"):
            read(tmp_path / "text.parquet")
        with pytest.raises(UserError, match="no such file"):
            read(tmp_path / "gone.parquet")


def test_a_non_empty_folder_is_not_written_to(encoder: Path, tmp_path: Path) -> None:
    path = embed(config_of(tmp_path / "out", encoder)).path
    before = path.read_bytes()
    with pytest.raises(UserError, match="not empty"):
        embed(config_of(tmp_path / "out", encoder, layer=0))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": "each"}, "selects several feature sets"),
        ({"layer": 9}, "no layer 9"),
        ({"data": {"source": "shapes", "task": "size"}}, "no task 'size'"),
    ],
)
def test_mistakes_are_reported_before_anything_is_written(
    changes: dict[str, Any], message: str, encoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        embed(config_of(tmp_path / "out", encoder, **changes))
    assert not (tmp_path / "out").exists()


def test_names_that_are_not_utf8_are_written_as_escapes(encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    odd = os.fsencode(folder) + b"/caf\xe9"
    os.makedirs(odd)  # noqa: PTH103 -- bytes, which pathlib does not take
    Image.new("RGB", (20, 16)).save(os.fsdecode(odd + b"/\xff.png"))
    table = pq.read_table(embed(config_of(tmp_path / "out", encoder, data={"source": f"folder:{folder}"})).path)
    assert table["label"].to_pylist() == ["caf\\xe9"]
    assert table["path"][0].as_py().endswith("/caf\\xe9/\\xff.png")

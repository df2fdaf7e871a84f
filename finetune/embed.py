"""The embed stage: write the features of a frozen encoder to a parquet file, dense or sparse."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from common.data import Batch, Images, Labels, Source, build_source, in_order, load_images
from common.data.images import some_readable
from common.data.levels import levels_of_training
from common.data.split import with_counts
from common.encoders.base import Encoder
from common.encoders.load import load_encoder, read_encoder_card
from common.encoders.provenance import warn_of_levels
from common.errors import UserError, check_all, one_line
from common.files import as_utf8, replacing, write_json
from common.machine.distributed import world
from common.machine.memory import readable_size
from common.machine.precision import autocast, resolve_precision
from common.machine.room import check_pass_batch
from common.pixels import to_float
from common.runs.folder import check_run_folder, numbered, open_run, with_group
from common.runs.logs import early_log
from common.runs.results import RESULTS, Record
from common.words import counted
from finetune.config import EmbedConfig
from finetune.features import Features, check_finite, layer_shapes
from finetune.pooling import Space, concatenate, one_space, pool

log = logging.getLogger("retouch")

GROUP_ROWS = 8192  # rows per row group: large enough to compress, small enough to stream
COLUMNS = {
    "dense": {"features": pa.list_(pa.float32())},
    "sparse": {"indices": pa.list_(pa.int32()), "values": pa.list_(pa.float32())},
}


class EmbedResult(Record):
    """The file that ``retouch embed`` wrote, and the storage size of its features.

    It can be given wherever a path is expected: ``pandas.read_parquet(retouch.embed(...))``.
    """

    path: Path
    rows: int  # images
    width: int  # features per image
    nonzeros: int  # of all images together; only exact zeros are not counted
    bytes_on_disk: int  # of the feature columns, compressed

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def bytes_dense(self) -> int:
        """As a float32 array, uncompressed."""
        return 4 * self.rows * self.width

    @property
    def nonzeros_per_image(self) -> float:
        return self.nonzeros / max(self.rows, 1)

    @property
    def zero_share(self) -> float:
        """Share of zeros among all entries, in [0, 1]."""
        return 1 - self.nonzeros / max(self.rows * self.width, 1)


def embed(config: EmbedConfig) -> EmbedResult:
    """Write ``OUT/features.parquet``, one row per readable image; returns its path and storage size.

    Columns: ``path`` (string), ``label`` (the class name; null without labels), and ``features`` (list of float32), or
    with ``store=sparse`` the ``indices`` (list of int32, ascending) and ``values`` (list of float32) of the non-zeros.
    The file's metadata hold the ``shape``, ``[images, features]``. ``read_sparse`` reads sparse features back, and
    ``storage_report`` returns the storage size of either kind.

    Raises:
        UserError: the encoder, data or run folder cannot be used; nothing has been written.
    """
    with world() as here, numbered(config, here) as config, early_log() as early:
        if here.size > 1:
            raise UserError("embed runs in one process: start it without torchrun")
        # everything the user can get wrong is checked before anything is written
        _, (encoder, space), (source, task) = check_all(
            lambda: check_run_folder(config), lambda: _encoder(config), lambda: _open(config)
        )
        data, card = config.data, read_encoder_card(config.encoder)
        size = data.image_size or encoder.image_size
        levels = levels_of_training(source, data.levels, card.provenance.levels)
        images = load_images(
            source, size, limit=data.limit, workers=data.workers, cache="none", check=False, levels=levels
        )
        check_pass_batch(config.batch_size, len(images), size, here)
        images = some_readable(images, data.workers)
        warn_of_levels(card.provenance, images.levels, source.spec)
        labels = None if task is None else images.labels(task)
        if labels is not None:
            counts = labels.values.bincount(minlength=len(labels.names)).tolist()
            log.info("%s", with_counts(f"task {labels.task}: ", labels.names, counts))
        config = with_group(config, card.provenance.group)
        with open_run(config, here, early) as run:
            run.tracker.use_encoder(config.encoder, card.sha256, card.provenance.artifact)
            path = run.folder / "features.parquet"
            precision = resolve_precision(config.precision, here.device)
            _write(path, encoder.to(here.device), images, labels, space, config, precision)
            found = storage_report(path)
            write_json(run.folder / RESULTS, found.model_dump(mode="json", exclude={"path"}))
            log.info("%s: %s of %s", path, counted(found.rows, "row"), counted(found.width, "feature"))
            log.info("%s", storage_text(found))
            run.tracker.summary(
                {
                    "rows": found.rows,
                    "features": found.width,
                    "bytes_on_disk": found.bytes_on_disk,
                    "bytes_dense": found.bytes_dense,
                    "nonzeros_per_image": found.nonzeros_per_image,
                    "zero_share": found.zero_share,
                }
            )
            return found


def storage_report(path: str | Path) -> EmbedResult:
    """The storage size of the features in a ``retouch embed`` file, read from its metadata alone.

    Raises:
        UserError: there is no such file, or ``retouch embed`` did not write it.
    """
    file = _open_features(path)
    shape, nonzeros = _notes(file, path)
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    held = {name for of_store in COLUMNS.values() for name in of_store}
    on_disk = sum(one.total_compressed_size for one in columns if one.path_in_schema.split(".")[0] in held)
    rows, width = shape
    return EmbedResult(path=Path(path), rows=rows, width=width, nonzeros=nonzeros, bytes_on_disk=on_disk)


def storage_text(found: EmbedResult) -> str:
    """The storage size of the features, in one readable line."""
    return (
        f"{readable_size(found.bytes_on_disk)} on disk, {readable_size(found.bytes_dense)} as dense float32 "
        f"({found.bytes_on_disk / max(found.bytes_dense, 1):.0%}); {found.nonzeros_per_image:,.1f} of {found.width:,} "
        f"features per image are non-zero ({found.zero_share:.1%} zeros)"
    )


def read_sparse(path: str | Path) -> Tensor:
    """Read the features of ``retouch embed`` with ``store=sparse``: a sparse CSR tensor ``[images features]``, float32.

    Rows are in the order of the file's ``path`` and ``label``. ``read_sparse(path).to_dense()`` equals the features
    of ``store=dense``.

    Raises:
        UserError: there is no such file, or it has no sparse features.
    """
    file = _open_features(path)
    shape, _ = _notes(file, path)
    if "indices" not in file.schema_arrow.names:
        raise UserError(f"{path} holds dense features; read its column 'features', or embed again with store=sparse")
    table = file.read(columns=["indices", "values"])
    indices, values = (table[name].combine_chunks() for name in ("indices", "values"))
    starts = np.concatenate([[0], np.cumsum(indices.value_lengths().to_numpy(zero_copy_only=False))])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR")  # torch warns on first use that sparse CSR is in beta
        return torch.sparse_csr_tensor(
            torch.tensor(starts, dtype=torch.int64),
            torch.tensor(indices.flatten().to_numpy(), dtype=torch.int64),
            torch.tensor(values.flatten().to_numpy(), dtype=torch.float32),
            size=shape,
            check_invariants=True,
        )


def _encoder(config: EmbedConfig) -> tuple[Encoder, Space]:
    """The encoder, and the features that are written.

    Raises:
        UserError: there is no such encoder, or it has no such layer or supports no images of this size.
    """
    encoder = load_encoder(config.encoder)
    shapes = layer_shapes(encoder, config.data.image_size or encoder.image_size)
    return encoder, one_space(shapes, config.layer, config.pooling)


def _open(config: EmbedConfig) -> tuple[Source, str | None]:
    """The source, and the task whose labels are written: the configured one, or the default one if it has labels.

    Images do not depend on the seed: a source has the same ones in every stage.

    Raises:
        UserError: the source cannot be opened, or labels that the config names are missing.
    """
    data = config.data
    source = build_source(data.source, image=data.image, label=data.label, root=data.root, levels=data.levels)
    if data.task is None and not source.tasks:
        return source, None
    try:
        task = source.resolve(data.task)
        source.labels(task)
    except UserError as error:
        if data.task is not None or data.label is not None:
            raise
        log.warning("%s; features need no labels, so the column `label` stays empty", error)
        return source, None
    return source, task


def _write(
    path: Path,
    encoder: Encoder,
    images: Images,
    labels: Labels | None,
    space: Space,
    config: EmbedConfig,
    precision: torch.dtype,
) -> None:
    """Write row groups to a temporary file, and rename it when it is complete."""
    schema = pa.schema({"path": pa.string(), "label": pa.string(), **COLUMNS[config.store]})
    rows = nonzeros = 0
    waiting: list[pa.RecordBatch] = []
    with replacing(path) as unfinished, pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
        for batch in in_order(images, config.batch_size, config.data.workers):
            vectors = _vectors(encoder, batch, images, space, precision)
            rows += len(vectors)
            nonzeros += int(vectors.count_nonzero())
            waiting.append(_rows(schema, images, labels, batch.index, vectors))
            if sum(map(len, waiting)) >= GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting))
        notes = {"shape": [rows, space.width], "nonzeros": nonzeros}
        writer.add_key_value_metadata({key: json.dumps(note) for key, note in notes.items()})


def _vectors(encoder: Encoder, batch: Batch, images: Images, space: Space, precision: torch.dtype) -> Tensor:
    """A batch of the images, uint8 ``[B 3 S S]`` -> features float32 ``[B F]`` on the CPU.

    Raises:
        UserError: some are NaN or infinite; names layers, poolings and an image.
    """
    device = encoder.mean.device
    with torch.inference_mode():
        with autocast(device, precision):
            maps = encoder.layers(to_float(batch.images.to(device)))  # uint8 0..255 -> float 0..1
        parts = {part: pool(maps[part.layer], part.pooling).cpu() for part in space.parts}
    check_finite(Features(parts, batch.index), images, encoder.name)
    return concatenate([*parts.values()])


def _rows(schema: pa.Schema, images: Images, labels: Labels | None, index: Tensor, vectors: Tensor) -> pa.RecordBatch:
    rows = index.tolist()
    names = [None] * len(rows) if labels is None else [as_utf8(labels.names[labels.values[row]]) for row in rows]
    columns = _lists(vectors) if "features" in schema.names else _sparse_lists(vectors)
    return pa.RecordBatch.from_arrays(
        [pa.array([as_utf8(images.where(row)) for row in rows]), pa.array(names, pa.string()), *columns], schema=schema
    )


def _lists(vectors: Tensor) -> list[Any]:
    """``[B F]`` -> the column ``features``."""
    count, width = vectors.shape
    offsets = np.arange(count + 1, dtype=np.int32) * width
    return [pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.contiguous().numpy().reshape(-1)))]


def _sparse_lists(vectors: Tensor) -> list[Any]:
    """``[B F]`` -> the columns ``indices`` and ``values``, the non-zeros of each row in ascending order of index."""
    dense = vectors.contiguous().numpy()
    row, index = np.nonzero(dense)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(dense)))]).astype(np.int32)
    flat = (index.astype(np.int32), dense[row, index])
    return [pa.ListArray.from_arrays(pa.array(offsets), pa.array(entries)) for entries in flat]


def _open_features(path: str | Path) -> Any:
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; give the features.parquet of a finished retouch embed run")
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not readable as parquet: {one_line(error)}") from None


def _notes(file: Any, path: str | Path) -> tuple[tuple[int, int], int]:
    """Shape and number of non-zeros, from the metadata that ``_write`` adds."""
    notes = file.metadata.metadata or {}
    try:
        rows, width = json.loads(notes[b"shape"])
        return (int(rows), int(width)), int(json.loads(notes[b"nonzeros"]))
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{path} has no shape in its metadata: retouch embed did not write it") from None

"""The embed stage: features of a frozen encoder as a parquet file, for use elsewhere."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from common.artifact import load_encoder
from common.config import load_config
from common.data import Images, Labels, Source, build_source, in_order, load_images
from common.distributed import world
from common.encoders.base import Encoder
from common.errors import UserError, together
from common.images import to_float
from common.precision import autocast, resolve_precision
from common.run import check_out, open_run
from finetune.config import EmbedConfig
from finetune.features import layer_shapes
from finetune.pooling import Space, build_spaces, concatenate, pool

log = logging.getLogger("retouch")

GROUP_ROWS = 8192  # rows a row group: large enough to compress, small enough to stream


def command(path: str, overrides: Sequence[str]) -> Path:
    """``retouch embed CONFIG [key.sub=value ...]``."""
    return embed(load_config(EmbedConfig, path, overrides))


def embed(config: EmbedConfig) -> Path:
    """Write ``OUT/features.parquet`` and return its path.

    Columns: ``path`` (string), ``label`` (the class name; null without labels), ``features`` (list of float32).

    Raises:
        UserError: encoder, data or run folder cannot serve; nothing has been written then.
    """
    with world() as here:
        if here.size > 1:
            raise UserError("embed runs in one process: start it without torchrun")
        _, encoder, (source, task) = together(
            lambda: check_out(config), lambda: load_encoder(config.encoder), lambda: _open(config)
        )
        size = config.data.image_size or encoder.image_size
        spaces, _ = build_spaces(layer_shapes(encoder, size), [config.layer], [config.pooling], max_width=1 << 30)
        if len(spaces) != 1:
            raise UserError(f"layer: {config.layer!r} names several features; give a number, all, or lastN")
        with open_run(config, here, job_type="embed") as run:
            data = config.data
            images = load_images(source, size, limit=data.limit, workers=data.workers, cache="none", seed=config.seed)
            labels = None if task is None else images.labels(task)
            path = run.folder / "features.parquet"
            precision = resolve_precision(config.precision, here.device)
            _write(path, encoder.to(here.device), images, labels, spaces[0], config, precision)
            log.info("%s: %s rows of %d features", path, f"{len(images):,}", spaces[0].width)
            if run.tracker:
                run.tracker.summary({"rows": len(images), "features": spaces[0].width})
            return path


def _open(config: EmbedConfig) -> tuple[Source, str | None]:
    """The source, and the task whose labels go along: the one asked for, or the default one if there is any."""
    data = config.data
    source = build_source(data.source, image=data.image, label=data.label, root=data.root, seed=config.seed)
    if data.task is None and not source.tasks:
        return source, None
    return source, source.resolve(data.task)


def _write(
    path: Path,
    encoder: Encoder,
    images: Images,
    labels: Labels | None,
    space: Space,
    config: EmbedConfig,
    precision: torch.dtype,
) -> None:
    """Row groups as they come, beside the final place; renamed when whole."""
    schema = pa.schema([("path", pa.string()), ("label", pa.string()), ("features", pa.list_(pa.float32()))])
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    waiting: list[pa.RecordBatch] = []
    try:
        with pq.ParquetWriter(beside, schema, compression="zstd") as writer:
            for batch in in_order(images, config.batch_size, config.data.workers):
                vectors = _vectors(encoder, batch.images, space, precision)
                waiting.append(_rows(schema, images, labels, batch.index, vectors))
                if sum(map(len, waiting)) >= GROUP_ROWS:
                    writer.write_table(pa.Table.from_batches(waiting))
                    waiting = []
            if waiting:
                writer.write_table(pa.Table.from_batches(waiting))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _vectors(encoder: Encoder, images: Tensor, space: Space, precision: torch.dtype) -> Tensor:
    """Images uint8 ``[B 3 S S]`` -> features float32 ``[B F]`` on the CPU."""
    device = encoder.mean.device
    with torch.inference_mode():
        with autocast(device, precision):
            maps = encoder.layers(to_float(images.to(device)))
        return concatenate([pool(maps[part.layer], part.pooling) for part in space.parts]).cpu()


def _rows(schema: pa.Schema, images: Images, labels: Labels | None, index: Tensor, vectors: Tensor) -> pa.RecordBatch:
    rows = index.tolist()
    names = [None] * len(rows) if labels is None else [labels.names[labels.values[row]] for row in rows]
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * vectors.shape[1]
    features = pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.contiguous().numpy().reshape(-1)))
    return pa.RecordBatch.from_arrays(
        [pa.array([images.where(row) for row in rows]), pa.array(names, pa.string()), features], schema=schema
    )

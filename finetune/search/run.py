"""The stage: find the images most like each query."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from common.data import Images, Source, build_source, load_images
from common.data.images import some_readable
from common.data.levels import levels_of_training
from common.encoders.base import Encoder
from common.encoders.load import load_encoder, read_encoder_card
from common.encoders.provenance import warn_of_levels
from common.errors import UserError, check_all
from common.files import as_utf8, in_full, replacing, write_json
from common.machine.cache import cache_folder
from common.machine.distributed import world
from common.machine.precision import resolve_precision
from common.machine.room import check_pass_batch
from common.pixels import save_png
from common.runs.folder import check_run_folder, numbered, open_run, with_group
from common.runs.logs import early_log
from common.runs.results import RESULTS, Record
from common.words import counted
from finetune.features import Extraction, Features, cached_features, extract, feature_key, layer_shapes
from finetune.pooling import Space, one_space
from finetune.search.config import NEIGHBORS, SHEET, SearchConfig
from finetune.search.nearest import nearest
from finetune.search.sheet import COLUMNS, ROWS, SIDE, SheetRow, contact_sheet
from finetune.solvers.gram import column_mean
from finetune.solvers.whitening import Whitening

log = logging.getLogger("retouch")

MOST_QUERIES = 10_000


class Neighbor(Record):
    """An image that was found."""

    path: str
    similarity: float  # cosine, in [-1, 1]


class Found(Record):
    """A query and the images most like it, nearest first."""

    query: str
    neighbors: tuple[Neighbor, ...]


class SearchResult(Record):
    """What ``retouch search`` found and wrote."""

    table: Path  # query, rank, path, similarity
    sheet: Path  # the first queries with their neighbors
    images: int  # that were searched
    found: tuple[Found, ...]


def search(config: SearchConfig) -> SearchResult:
    """Write ``OUT/neighbors.csv`` and the contact sheet ``OUT/neighbors.png``.

    Images are compared by the cosine of their features, minus the mean of those searched, so that what all images
    have in common does not count. A query that is itself among the images does not find itself.

    Raises:
        UserError: the encoder, images or run folder cannot be used, or no query has another image to be compared with;
            nothing has been written.
    """
    with world() as here, numbered(config, here) as config, early_log() as early:
        if here.size > 1:
            raise UserError("search runs in one process: start it without torchrun")
        # everything the user can get wrong is checked before anything is written
        _, (encoder, space), source, asked = check_all(
            lambda: check_run_folder(config),
            lambda: _encoder(config),
            lambda: _source(config),
            lambda: _queries(config),
        )
        data, card = config.data, read_encoder_card(config.run)
        size = data.image_size or encoder.image_size
        levels = levels_of_training(source, data.levels, card.provenance.levels)
        images = load_images(
            source, size, limit=data.limit, workers=data.workers, cache="none", check=False, levels=levels
        )
        check_pass_batch(config.batch_size, len(images), size, here)
        images = some_readable(images, data.workers)
        queries = some_readable(load_images(asked, size, cache="none", check=False, levels=images.levels), 0)
        _check_others(images, queries, config.data.limit)
        warn_of_levels(card.provenance, images.levels, source.spec)
        with open_run(with_group(config, card.provenance.group), here, early) as run:
            run.tracker.use_encoder(config.run, card.sha256, card.provenance.artifact)
            precision = resolve_precision(config.precision, here.device)
            how = Extraction(here.device, precision, config.batch_size, data.workers)
            known = _features(config, encoder, card.sha256, images, space, how)
            wanted = extract(encoder, queries, space.parts, how)
            rows, wishes = _compared(known.matrix(space), wanted.matrix(space), config.components)
            found = _found(images, known.index, rows, queries, wanted.index, wishes, config.top)
            result = SearchResult(
                table=_write_table(run.folder / NEIGHBORS, found.said),
                sheet=save_png(_sheet(found, images, queries), run.folder / SHEET),
                images=len(known),
                found=found.said,
            )
            write_json(run.folder / RESULTS, result.model_dump(mode="json", exclude={"table", "sheet"}))
            log.info(
                "%s in %s: %s, %s",
                *(counted(len(result.found), "query", "queries"), counted(result.images, "image")),
                *(result.table, result.sheet),
            )
            if lonely := [one.query for one in result.found if not one.neighbors]:
                log.warning(
                    "no other image could be compared with %s: the table has no row of it",
                    lonely[0] if len(lonely) == 1 else f"{len(lonely):,} queries, such as {lonely[0]}",
                )
            run.tracker.image("neighbors", result.sheet, 0, "queries and their nearest images")
            return result


def _encoder(config: SearchConfig) -> tuple[Encoder, Space]:
    encoder = load_encoder(config.run)
    shapes = layer_shapes(encoder, config.data.image_size or encoder.image_size)
    return encoder, one_space(shapes, config.layer, config.pooling)


def _source(config: SearchConfig) -> Source:
    data = config.data
    return build_source(data.source, image=data.image, root=data.root, levels=data.levels, single=True)


def _queries(config: SearchConfig) -> Source:
    source = build_source(config.query, single=True)
    if len(source) > MOST_QUERIES:
        raise UserError(f"query: {source.spec} has {len(source):,} images; give at most {MOST_QUERIES:,}")
    return source


def _check_others(images: Images, queries: Images, limit: int | None) -> None:
    """Refuse a search in which no query has another image to be compared with.

    Raises:
        UserError: there is none.
    """
    rows = range(len(images))
    own = [os.path.realpath(queries.where(row)) for row in range(len(queries))]
    # one other image is enough, and mostly the first: not all paths are resolved
    if all(all(os.path.realpath(images.where(row)) == name for row in rows) for name in own):
        more = "" if limit is None else " or a larger data.limit"
        raise UserError(
            f"data: {images.source.spec} has no image besides the query itself, so there is nothing to search among; "
            f"name more images{more}, or another query"
        )


def _features(
    config: SearchConfig, encoder: Encoder, sha256: str, images: Images, space: Space, how: Extraction
) -> Features:
    if not config.feature_cache:
        return extract(encoder, images, space.parts, how)
    key = feature_key(encoder, sha256, images, "search", config.data.limit, space.parts, how)
    folder = in_full(config.cache_folder or cache_folder())
    return cached_features(folder, key, encoder, images, space.parts, how)


def _compared(rows: Tensor, queries: Tensor, components: int | None) -> tuple[Tensor, Tensor]:
    """Features ``[n F]`` and ``[m F]`` as they are compared: minus the mean of the first, or whitened by them."""
    if components is not None:
        whitening = Whitening.of(rows, components)
        return whitening.apply(rows), whitening.apply(queries)
    mean = column_mean(rows).to(rows.dtype)
    return rows - mean, queries - mean


class _Places(Record):
    """Where the queries and the images found for them are in their sources."""

    said: tuple[Found, ...]
    queries: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]


def _found(
    images: Images, index: Tensor, rows: Tensor, queries: Images, asked: Tensor, wishes: Tensor, top: int
) -> _Places:
    similar, places = nearest(wishes, rows, top + 1)  # one more, as a query may find itself
    said, kept = [], []
    for number, query in enumerate(asked.tolist()):
        name = queries.where(query)
        own = os.path.realpath(name)
        pairs = [
            (int(index[place]), value)
            for value, place in zip(similar[number].tolist(), places[number].tolist(), strict=True)
        ]
        pairs = [(row, value) for row, value in pairs if os.path.realpath(images.where(row)) != own][:top]
        said.append(
            Found(
                query=as_utf8(name),
                neighbors=tuple(
                    Neighbor(path=as_utf8(images.where(row)), similarity=round(value, 6)) for row, value in pairs
                ),
            )
        )
        kept.append(tuple(row for row, _ in pairs))
    return _Places(said=tuple(said), queries=tuple(asked.tolist()), rows=tuple(kept))


def _write_table(path: Path, found: Sequence[Found]) -> Path:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["query", "rank", "path", "similarity"])
    for one in found:
        writer.writerows(
            [one.query, rank, near.path, near.similarity] for rank, near in enumerate(one.neighbors, start=1)
        )
    with replacing(path) as unfinished:
        unfinished.write_text(text.getvalue(), encoding="utf-8")
    return path


def _sheet(found: _Places, images: Images, queries: Images) -> Image.Image:
    """The contact sheet of the first queries."""
    rows = []
    for one, query, near in list(zip(found.said, found.queries, found.rows, strict=True))[:ROWS]:
        [shown] = _thumbnails(queries, [query])
        similar = [neighbor.similarity for neighbor in one.neighbors[:COLUMNS]]
        rows.append(SheetRow(shown, _thumbnails(images, near[:COLUMNS]), similar))
    return contact_sheet(rows)


def _thumbnails(images: Images, rows: Sequence[int]) -> Tensor:
    """uint8 ``[n 3 SIDE SIDE]``, in this order."""
    small = Images(images.source.at(SIDE), SIDE, images.kept, levels=images.levels)
    found = [batch.images for batch in small.batches([torch.tensor([row]) for row in rows])]
    return torch.cat(found) if found else torch.empty(0, 3, SIDE, SIDE, dtype=torch.uint8)

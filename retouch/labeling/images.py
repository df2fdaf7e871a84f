"""The content of a labeling page: for each image, its path, a few features, and a thumbnail in a sheet of many."""

from __future__ import annotations

import base64
import io
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from common.data import Images, Source, build_source, load_images
from common.data.build import OF_FILES
from common.data.levels import levels_of_training
from common.encoders.base import Encoder
from common.encoders.load import load_encoder, read_encoder_card
from common.encoders.provenance import warn_of_levels
from common.errors import UserError, check_all
from common.machine.distributed import world
from common.machine.precision import resolve_precision
from common.machine.room import check_pass_batch
from common.pixels import to_pil
from common.words import counted
from finetune.embedding import principal_components
from finetune.features import Extraction, extract, layer_shapes
from finetune.pooling import build_spaces
from retouch.labeling.settings import LabelConfig
from retouch.reporting.places import FEWEST, layout

log = logging.getLogger("retouch")

SIDE = 48  # of a thumbnail, in pixels
ACROSS = 10  # thumbnails per row of a sheet, and rows per sheet
QUALITY = 75  # of JPEG: a thumbnail takes about 700 bytes


@dataclass(frozen=True)
class Shown:
    """The images of a page, in random order."""

    paths: tuple[str, ...]  # absolute
    features: Tensor  # float16 [n K]
    sheets: tuple[str, ...]  # data URIs of JPEGs, ACROSS x ACROSS thumbnails each
    places: tuple[tuple[int, int], ...] = ()  # positions of the first images on the map: x, y in 0..1000


def read_images(config: LabelConfig) -> Shown:
    """Features and thumbnails of the images.

    Raises:
        UserError: with every problem: no such encoder or source, images that are not files, or none that can be read.
    """
    encoder, source = check_all(lambda: _encoder(config), lambda: _source(config.data.source))
    data = config.data
    size = data.image_size or encoder.image_size
    trained_on = read_encoder_card(config.encoder).provenance
    levels = levels_of_training(source, None, trained_on.levels)
    images = load_images(source, size, limit=data.limit, workers=data.workers, cache="none", check=False, levels=levels)
    warn_of_levels(trained_on, images.levels, source.spec)
    with world() as here:
        check_pass_batch(config.batch_size, len(images), size, here)
        how = Extraction(here.device, resolve_precision(config.precision, here.device), config.batch_size, data.workers)
        [space], _ = build_spaces(layer_shapes(encoder, size), ["all"], ["avg"], max_width=1 << 30)
        found = extract(encoder, images, space.parts, how)
    features = principal_components(found.matrix(space))
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    places = _named(images, found.index[order])
    rows = {int(row): place for place, row in enumerate(found.index)}
    chosen = torch.tensor([rows[int(row)] for row in places])
    if len(places) < 2:
        raise UserError(
            f"{source.spec}: fewer than two images can be labeled; the others cannot be read, or have names that are "
            "not UTF-8"
        )
    small = load_images(
        source, SIDE, limit=data.limit, workers=data.workers, cache="none", check=False, levels=images.levels
    )
    paths = tuple(str(Path(images.where(int(row))).absolute()) for row in places)
    features = features[chosen]
    return Shown(paths, features.half(), tuple(_sheets(small, places, data.workers)), _mapped(features))


def _mapped(features: Tensor) -> tuple[tuple[int, int], ...]:
    """Positions of the first images on the map; empty if there are too few images."""
    if len(features) < FEWEST or not features.shape[1]:
        return ()
    return tuple((round(1000 * float(x)), round(1000 * float(y))) for x, y in layout(features))


def _encoder(config: LabelConfig) -> Encoder:
    encoder = load_encoder(config.encoder)
    layer_shapes(encoder, config.data.image_size or encoder.image_size)
    return encoder


def _source(spec: str) -> Source:
    source = build_source(spec)
    scheme = source.spec.partition(":")[0]
    if scheme not in OF_FILES:
        raise UserError(
            f"data: the images of {source.spec} are not separate files, which labels.csv needs; give a folder of "
            "images, or a CSV or text file that lists them"
        )
    return source


def _named(images: Images, rows: Tensor) -> Tensor:
    """The rows whose paths can be written to a CSV file in UTF-8."""
    odd = [row for row in rows.tolist() if not _is_utf8(images.where(row))]
    if odd:
        first = images.where(odd[0])
        count = counted(len(odd), "image")
        log.warning("left out: %s whose names are not UTF-8, such as %r; rename them", count, first)
    return rows[~torch.isin(rows, torch.tensor(odd, dtype=torch.int64))]


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sheets(images: Images, rows: Tensor, workers: int) -> list[str]:
    """The thumbnails of these rows, sheet by sheet."""
    sheets, parts = [], torch.split(rows, ACROSS**2)
    for batch, asked in zip(images.batches(parts, workers), parts, strict=True):
        sheet = Image.new("RGB", (ACROSS * SIDE, ACROSS * SIDE))
        place = {row: number for number, row in enumerate(asked.tolist())}
        for pixels, row in zip(batch.images, batch.index.tolist(), strict=True):
            y, x = divmod(place[row], ACROSS)
            sheet.paste(to_pil(pixels), (SIDE * x, SIDE * y))
        written = io.BytesIO()
        sheet.save(written, format="JPEG", quality=QUALITY, optimize=True)
        sheets.append(f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}")
    return sheets

"""Features of a frozen encoder: every layer and pooling from one pass over the images, cached on disk.

Maps are pooled batch by batch, so the maps of a whole data set are never in memory. Features are float32, also on disk.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.data import Images, in_order
from common.encoders.base import Encoder
from common.engine.schedule import seed_step
from common.errors import UserError, one_line
from common.files import replacing
from common.machine.layout import channels_last
from common.machine.memory import readable_size
from common.machine.precision import autocast
from common.pixels import to_float
from finetune.pooling import Part, Shape, Space, concatenate, pool

log = logging.getLogger("retouch")

FORMAT = 3  # increase it whenever the same key would give different features


@dataclass(frozen=True)
class FeatureKey:
    """Everything that determines the features of a set of images. Keys that differ in any field have separate files."""

    encoder: str  # sha256 of the exported encoder, or the identity of a baseline
    view: str
    source: str  # fingerprint
    split: str
    limit: int | None
    rows: str  # digest of the source rows that are used
    size: int
    layers: tuple[str, ...]  # parts, as layer.pooling
    precision: str
    device: str
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """sha256, hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Extraction:
    """How features are computed."""

    device: torch.device
    precision: torch.dtype  # of autocast
    batch_size: int
    workers: int


class Features:
    """Pooled features of n images, by part.

    Attributes:
        parts: float32 ``[n F]`` each.
        index: int64 ``[n]``, ascending: the image that each feature row was computed from. Images that turn out to be
            unreadable have no row, so labels must be selected by this index.
    """

    def __init__(self, parts: dict[Part, Tensor], index: Tensor) -> None:
        self.parts, self.index = parts, index

    def __len__(self) -> int:
        return len(self.index)

    def only(self, rows: Tensor) -> Features:
        """Rows ``[m]`` of these features, a copy."""
        return Features({part: values[rows] for part, values in self.parts.items()}, self.index[rows])

    def matrix(self, space: Space, rows: Tensor | None = None) -> Tensor:
        """Features of ``rows`` (all by default) in a space: a new float32 tensor ``[n F]``."""
        chosen = [self.parts[part] if rows is None else self.parts[part][rows] for part in space.parts]
        return concatenate(chosen)


def feature_key(
    encoder: Encoder,
    sha256: str,
    images: Images,
    split: str,
    limit: int | None,
    parts: Sequence[Part],
    how: Extraction,
) -> FeatureKey:
    """The key of these images' features."""
    return FeatureKey(
        encoder=sha256,
        view=encoder.view,
        source=images.fingerprint,
        split=f"{split} {images.source.spec}",
        limit=limit,
        rows=hashlib.sha256(images.kept.numpy().tobytes()).hexdigest(),
        size=images.size,
        layers=tuple(part.name for part in parts),
        precision=str(how.precision).removeprefix("torch."),
        device=how.device.type,
    )


def cached_features(
    folder: Path, key: FeatureKey, encoder: Encoder, images: Images, parts: Sequence[Part], how: Extraction
) -> Features:
    """Read features from the cache, or compute and cache them. A damaged file is recomputed and replaced."""
    path = folder / "features" / f"{key.digest}.safetensors"
    found = _read(path, key, parts, len(images))
    if found is not None:
        check_finite(found, images, encoder.name)
        log.debug("%s: features of %s images read from %s", images.source.spec, f"{len(images):,}", path)
        return found
    features = extract(encoder, images, parts, how)
    if len(features) == len(images):  # an unreadable image may be readable next time
        _write(path, key, features)
    return features


def extract(
    encoder: Encoder,
    images: Images,
    parts: Sequence[Part],
    how: Extraction,
    damage: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
) -> Features:
    """One pass of the encoder, in eval and inference mode, over all readable images in order.

    Args:
        encoder: on any device; it is moved to ``how.device``, to channels_last, and set to eval mode.
        parts: layers and poolings to keep.
        damage: applied first, to each batch ``[B 3 S S]``, RGB in [0, 1]; its random numbers depend only on
            ``seed`` and the batch number.

    Raises:
        UserError: no image is readable.
    """
    started = time.monotonic()
    channels_last(encoder.eval(), how.device)
    kept: dict[Part, Tensor] = {}
    index = torch.empty(len(images), dtype=torch.int64)
    done = 0
    with torch.inference_mode():
        for number, batch in enumerate(in_order(images, how.batch_size, how.workers)):
            pixels = to_float(batch.images.to(how.device))  # uint8 0..255 -> float 0..1
            if damage is not None:
                seed_step(seed, number)
                pixels = damage(pixels)
            with autocast(how.device, how.precision):
                maps = encoder.layers(pixels)
            for part in parts:
                vectors = pool(maps[part.layer], part.pooling)
                if part not in kept:
                    kept[part] = torch.empty(len(images), vectors.shape[1])
                kept[part][done : done + len(vectors)] = vectors.cpu()
            index[done : done + len(pixels)] = batch.index
            done += len(pixels)
    kept, index = {part: tensor[:done] for part, tensor in kept.items()}, index[:done]
    features = Features(kept, index)
    check_finite(features, images, encoder.name)
    seconds = time.monotonic() - started
    if damage is None:
        log.debug(
            "%s: features of %s images in %.1f s (%s images/s), %s float32",
            *(images.source.spec, f"{done:,}", seconds, f"{done / max(seconds, 1e-9):,.0f}"),
            readable_size(sum(tensor.numel() * 4 for tensor in kept.values())),
        )
    return features


def check_finite(features: Features, images: Images, name: str) -> None:
    """Refuse NaN and infinite features, which would spoil a classifier without a trace.

    Raises:
        UserError: names each layer and pooling, how many images, and the first of them.
    """
    problems = []
    for part, values in features.parts.items():
        if bool(values.sum().isfinite()):  # the cheapest proof
            continue
        rows = (~values.isfinite()).any(1).nonzero().squeeze(1)
        if len(rows):
            first = images.where(int(features.index[rows[0]]))
            count = f"{len(rows):,} of {len(values):,} images"
            problems.append(f"layer {part.layer}, {part.pooling}: {count}, first {first}")
    if problems:
        title = f"{name} gives NaN or infinite features for some images; set precision=float32 or use another encoder:"
        raise UserError(*problems, title=title)


def layer_shapes(encoder: Encoder, size: int) -> list[Shape]:
    """Map shapes at ``size`` pixels, which may differ from the size the encoder was built for.

    Raises:
        UserError: the encoder does not accept images of this size.
    """
    if size == encoder.image_size:
        return list(encoder.layer_shapes)
    try:
        with torch.inference_mode():
            maps = encoder.eval().layers(torch.full((1, 3, size, size), 0.5, device=encoder.mean.device))
    except Exception as error:  # third-party networks raise anything; the user needs the reason
        reason = one_line(error).rstrip(".")
        raise UserError(
            f"data.image_size={size}: {encoder.name} does not support this size: {reason}; remove data.image_size"
        ) from None
    log.warning(
        "data.image_size=%d, but %s was built for images of %d px; it sees objects at a scale it was not trained on",
        *(size, encoder.name, encoder.image_size),
    )
    return [(tensor.shape[1], tensor.shape[2], tensor.shape[3]) for tensor in maps]


def _read(path: Path, key: FeatureKey, parts: Sequence[Part], rows: int) -> Features | None:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key.text:
                raise ValueError("it belongs to another key")
            found = {part: file.get_tensor(part.name) for part in parts}
            index = file.get_tensor("index")
        if len(index) != rows or any(len(tensor) != rows for tensor in found.values()):
            raise ValueError("its tensors have the wrong length")
    except FileNotFoundError:
        return None
    except (SafetensorError, ValueError, OSError) as error:
        log.warning("%s cannot be used (%s): recomputing features", path, one_line(error))
        return None
    return Features(found, index)


def _write(path: Path, key: FeatureKey, features: Features) -> None:
    """A cache that cannot be written only costs time later."""
    tensors = {part.name: tensor for part, tensor in features.parts.items()} | {"index": features.index}
    try:
        with replacing(path) as unfinished:
            save_file(tensors, unfinished, metadata={"key": key.text})
    except (OSError, SafetensorError) as error:
        log.warning(
            "features are not cached: %s cannot be written (%s); set RETOUCH_CACHE or cache_folder to another folder",
            *(path, one_line(error)),
        )

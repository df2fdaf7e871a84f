"""What a probe measures, the encoder, its untrained twin and raw pixels, and their features."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from common.data import Images
from common.encoders.base import Encoder
from common.encoders.card import EncoderCard
from common.encoders.load import read_encoder_card
from common.engine.schedule import position_seed
from common.errors import check_all
from common.files import in_full
from common.machine.cache import cache_folder
from finetune.baselines import Pixels, untrained
from finetune.config import ProbeConfig
from finetune.features import Extraction, Features, cached_features, extract, feature_key, layer_shapes
from finetune.pooling import Part, Shape, Space, build_spaces
from finetune.records import EncoderFacts

log = logging.getLogger("retouch")

ITSELF = "encoder"  # the key of the encoder in results; the other subjects are its baselines


class Spaces(NamedTuple):
    """The feature spaces of an encoder."""

    searched: list[Space]  # that all probes choose from
    own: dict[str, list[Space]]  # those of probes that have others, by name


@dataclass(frozen=True)
class Subject:
    """What is evaluated: the encoder or a baseline."""

    name: str  # its key in results
    encoder: Encoder
    identity: str | None  # identifies its features in the cache; None: not cached
    spaces: list[Space]  # these two as above
    own: dict[str, list[Space]]

    @property
    def is_encoder(self) -> bool:
        """Whether it is the encoder itself, and no baseline."""
        return self.name == ITSELF

    @property
    def parts(self) -> list[Part]:
        spaces = [*self.spaces, *(space for some in self.own.values() for space in some)]
        return sorted({part for space in spaces for part in space.parts})


def spaces_of(config: ProbeConfig, image_size: int | None, encoder: Encoder) -> Spaces:
    """The feature spaces to choose from, of images of ``image_size`` pixels or the encoder's.

    Raises:
        UserError: the encoder has no such layers, or supports no images of that size.
    """
    shapes = layer_shapes(encoder, image_size or encoder.image_size)
    spaces, skipped = build_spaces(shapes, config.probe.layers, config.probe.poolings, config.probe.max_width)
    if skipped:
        log.debug("skipped in the search: %s", "; ".join(skipped))
    return Spaces(spaces, _own(config, shapes, spaces))


def _own(config: ProbeConfig, shapes: Sequence[Shape], searched: list[Space]) -> dict[str, list[Space]]:
    """The spaces of probes that do not choose from those that are searched for all."""
    width = config.probe.max_width
    found = check_all(*(lambda one=one: one.spaces(shapes, searched, width) for one in config.probes.values()))
    return {name: spaces for name, spaces in zip(config.probes, found, strict=True) if spaces is not searched}


def twin_of(config: ProbeConfig, itself: Subject, images: Images, how: Extraction) -> Subject:
    """The baseline of the untrained twin, with the statistics of the training ``images``.

    It is drawn with the seed of the first training, if that is recorded: then it is the network before that training
    (but for mask channels, which no export has), and another seed of the probe does not change it.
    """
    first = read_encoder_card(config.encoder).provenance.chain[0].seed
    seed = config.seed if first is None else position_seed(first, 0)
    twin = untrained(config.encoder, seed, images, how.device)
    data = f"{images.source.fingerprint} {images.size} {len(images)}"
    identity = f"untrained {itself.identity} seed {seed} torch {torch.__version__} {data}"
    return Subject("random_init", twin, identity, itself.spaces, itself.own)


def pixels_of(config: ProbeConfig, images: Images) -> Subject:
    """The baseline of raw pixels: the whole image as one vector."""
    pixels = Pixels(images.size)
    flat, _ = build_spaces(pixels.layer_shapes, [0], ["flatten"], max_width=1 << 30)
    return Subject("pixels", pixels, None, flat, _own(config, pixels.layer_shapes, flat))


def features_of(
    config: ProbeConfig, subject: Subject, images: Images, split: str, limit: int | None, how: Extraction
) -> Features:
    """A subject's features of one split, read from the cache if they are there.

    Args:
        limit: the number that the split was cut to; part of the key.
    """
    if subject.identity is None or not config.feature_cache:
        return extract(subject.encoder, images, subject.parts, how)
    key = feature_key(subject.encoder, subject.identity, images, split, limit, subject.parts, how)
    folder = in_full(config.cache_folder or cache_folder())
    return cached_features(folder, key, subject.encoder, images, subject.parts, how)


def encoder_facts(config: ProbeConfig, card: EncoderCard) -> EncoderFacts:
    """What results say of the encoder."""
    return EncoderFacts(
        path=str(config.encoder),
        name=card.name,
        view=card.view,
        pretext=card.provenance.kind,
        method=card.provenance.method,
        sha256=card.sha256,
    )

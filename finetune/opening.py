"""What a probe opens and checks before it computes: the encoder, what to choose from, and the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from common.encoders.base import Encoder
from common.encoders.card import EncoderCard
from common.encoders.load import load_encoder, read_encoder_card
from common.errors import UserError, check_all
from common.machine.distributed import World
from common.runs.folder import check_run_folder
from finetune.config import ProbeConfig
from finetune.data import LabeledImages, Sources, check_enough, load_labeled, open_sources
from finetune.dense.data import MaskedImages, MaskedSources, load_masked, open_masked
from finetune.dense.passes import build_parts
from finetune.dense.probing import map_layers
from finetune.multilabel.data import MultiLabelImages, ProbeData, load_multilabel, open_multilabel
from finetune.multilabel.task import build_multilabel_task
from finetune.subjects import Spaces, spaces_of


class ReadyImages(NamedTuple):
    """Labeled images, and the feature spaces to choose from."""

    data: ProbeData
    sources: Sources
    spaces: Spaces


class ReadyMasks(NamedTuple):
    """Images with masks, and the layers to choose from."""

    data: ProbeData
    sources: MaskedSources
    layers: tuple[int, ...]


Ready = ReadyImages | ReadyMasks


def prepare(config: ProbeConfig, here: World) -> tuple[Encoder, list[Ready]]:
    """Open what a run needs, and check its folder, before an image is decoded or anything is written.

    Raises:
        UserError: with every problem.
    """
    if here.size > 1:
        raise UserError("probe runs in one process: start it without torchrun")
    _, (encoder, choices), sources = check_all(
        lambda: check_run_folder(config),
        lambda: open_encoder(config),
        lambda: open_images(config),
    )
    all_data = (config.data, *config.more_data)
    return encoder, [_ready(*one) for one in zip(all_data, sources, choices, strict=True)]


def _ready(data: ProbeData, sources: Sources | MaskedSources, choice: Spaces | tuple[int, ...]) -> Ready:
    if isinstance(sources, MaskedSources):
        assert not isinstance(choice, Spaces)
        return ReadyMasks(data, sources, choice)
    assert isinstance(choice, Spaces)
    return ReadyImages(data, sources, choice)


def open_images(config: ProbeConfig) -> list[Sources | MaskedSources]:
    """Open the images of each data set, and check their labels.

    Raises:
        UserError: with every problem.
    """
    return [*check_all(*(lambda data=data: _open(config, data) for data in (config.data, *config.more_data)))]


def _open(config: ProbeConfig, data: ProbeData) -> Sources | MaskedSources:
    if data.masks is not None:
        size = data.image_size or read_encoder_card(config.encoder).image_size
        return open_masked(data, size, config.seed)
    if data.labels:
        return open_multilabel(data, config.seed)
    return open_sources(data, config.seed, config.probe.validation)


def inputs(sources: Sequence[Sources | MaskedSources]) -> dict[str, str]:
    """The fingerprints of the images of each data set, by the setting that names them."""
    keys = ["data", *(f"more_data.{place}" for place in range(len(sources) - 1))]
    found: dict[str, str] = {}
    for key, one in zip(keys, sources, strict=True):
        found |= one.inputs(key)
    return found


def drawn_by_seed(ready: Sequence[Ready]) -> bool:
    """Whether the seed decides which images are those of training or of the test."""
    split = (one.sources.images.split if isinstance(one, ReadyMasks) else one.sources.split for one in ready)
    return any(one.data.limit is not None for one in ready) or any(split)


def open_encoder(config: ProbeConfig) -> tuple[Encoder, list[Spaces | tuple[int, ...]]]:
    """The encoder, and the feature spaces to choose from for each data set; of one with masks, the layers.

    Raises:
        UserError: there is no such encoder, or it has no such layers or supports no images of a size.
    """

    def choices(data: ProbeData) -> Spaces | tuple[int, ...]:
        find = spaces_of if data.masks is None else map_layers
        return find(config, data.image_size, encoder)

    encoder = load_encoder(config.encoder)
    all_data = (config.data, *config.more_data)
    _, *found = check_all(
        lambda: _check_damage(config, [data.image_size or encoder.image_size for data in all_data]),
        *(lambda data=data: choices(data) for data in all_data),
    )
    return encoder, found


def _check_damage(config: ProbeConfig, sizes: Sequence[int]) -> None:
    problems = [
        f"damage.{place}: {problem}"
        for place, corruption in enumerate(config.damage)
        for problem in corruption.check(min(sizes))
    ]
    if problems:
        raise UserError(*problems)


def load(
    config: ProbeConfig, ready: Ready, encoder: Encoder, card: EncoderCard
) -> LabeledImages | MultiLabelImages | MaskedImages:
    """Decode the images of a data set.

    Raises:
        UserError: too few of them can be read.
    """
    data, size = ready.data, ready.data.image_size or encoder.image_size
    if isinstance(ready, ReadyMasks):
        masked = load_masked(ready.sources, data, size, config.seed, card.provenance)
        build_parts(masked.present, config.probe, config.seed)  # refuses too few images
        return masked
    if data.labels:
        found = load_multilabel(ready.sources, data, size, config.seed, card.provenance)
        build_multilabel_task(found.labels[0], config.probe, config.seed)  # refuses too few images
        return found
    images = load_labeled(ready.sources, data, size, config.seed, card.provenance)
    check_enough(images, config.probe.validation, config.seed)
    return images

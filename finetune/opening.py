"""What a probe opens and checks before it computes: the encoder, what to choose from, and the images."""

from __future__ import annotations

from collections.abc import Sequence

from common.encoders.base import Encoder
from common.encoders.card import EncoderCard
from common.encoders.load import load_encoder
from common.errors import UserError, check_all
from common.machine.distributed import World
from common.runs.folder import check_run_folder
from finetune.config import ProbeConfig
from finetune.kinds import AnyKind, AnyReady, Ready, kind_of
from finetune.kinds.base import Opened
from finetune.subjects import Spaces


def prepare(config: ProbeConfig, here: World) -> tuple[Encoder, list[AnyReady]]:
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
    return encoder, [
        Ready(kind_of(data), data, opened, spaces)
        for data, opened, spaces in zip(config.all_data, sources, choices, strict=True)
    ]


def open_images(config: ProbeConfig) -> list[Opened]:
    """Open the images of each data set, and check their labels.

    Raises:
        UserError: with every problem.
    """
    return [*check_all(*(lambda data=data: kind_of(data).open(config, data) for data in config.all_data))]


def inputs(sources: Sequence[Opened]) -> dict[str, str]:
    """The fingerprints of the images of each data set, by the setting that names them."""
    keys = ["data", *(f"more_data.{place}" for place in range(len(sources) - 1))]
    found: dict[str, str] = {}
    for key, one in zip(keys, sources, strict=True):
        found |= one.inputs(key)
    return found


def drawn_by_seed(ready: Sequence[AnyReady]) -> bool:
    """Whether the seed decides which images are those of training or of the test."""
    return any(one.data.limit is not None or one.sources.split for one in ready)


def open_encoder(config: ProbeConfig) -> tuple[Encoder, list[Spaces]]:
    """The encoder, and the feature spaces to choose from for each data set.

    Raises:
        UserError: there is no such encoder, or it has no such layers or supports no images of a size.
    """
    encoder = load_encoder(config.encoder)
    _, *found = check_all(
        lambda: _check_damage(config, [data.image_size or encoder.image_size for data in config.all_data]),
        *(lambda data=data: kind_of(data).choices(config, data.image_size, encoder) for data in config.all_data),
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


def load(config: ProbeConfig, ready: AnyReady, encoder: Encoder, card: EncoderCard) -> AnyKind:
    """Decode the images of a data set.

    Raises:
        UserError: too few of them can be read.
    """
    return ready.kind.load(config, ready, ready.data.image_size or encoder.image_size, card.provenance)

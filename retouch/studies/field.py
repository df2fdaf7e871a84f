"""Who competes: all contestants of a study are prepared, and those that cannot learn from its images are left out."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from common.data import Images
from common.data.rows import even_rows
from common.encoders import Encoder, EncoderConfig, build_encoder
from common.encoders.statistics import share_statistics
from common.errors import UserError
from common.machine.distributed import World
from common.pixels import in_chunks, to_float
from common.waiting import within
from finetune.baselines import STATISTICS_IMAGES
from pretrain.config import GradientPretraining
from pretrain.method import MethodLearner
from retouch.studies.config import StudyConfig
from retouch.studies.contestants import (
    Contestant,
    Pretrained,
    RawPixels,
    Restoring,
    Simple,
    Untrained,
    recipe_of,
    settled,
    title_of,
)
from retouch.studies.results import SCRATCH

log = logging.getLogger("retouch")

DOWNLOAD_SHARE = 0.05  # of the budget, for downloading pretrained weights


@dataclass(frozen=True)
class Field:
    """All contestants except the network trained on the labels alone, and a line about each that was left out."""

    ready: tuple[Contestant, ...]  # raw pixels, untrained and pretrained networks
    simple: tuple[Simple, ...]
    restoring: tuple[Restoring, ...]
    left_out: tuple[str, ...]

    @property
    def all(self) -> tuple[Contestant, ...]:
        """All of them, baselines first."""
        return (*self.ready, *self.simple, *self.restoring)

    def named(self, name: str) -> Contestant:
        """The contestant of this name."""
        return next(one for one in self.all if one.name == name)


def line_up(config: StudyConfig, pool: Images, size: int, here: World) -> Field:
    """Prepare all contestants; those that cannot learn from these images are left out, with the reason."""
    ready: list[Contestant] = [RawPixels("pixels", size)]
    twins: dict[tuple[str, str], Encoder] = {}
    simple, waiting, left_out = [], [], []
    for name in config.contestants:
        if name == SCRATCH:
            continue
        title = title_of(name)
        settings = settled(config, recipe_of(name, config), pool, size, title)
        try:
            if problems := settings.method.check(size, len(pool)):
                raise UserError(*problems)
            learner = settings.method.build(size, settings.augment, here, config.seed)
            learner.attach(pool)
        except UserError as error:
            left_out.append(f"{title}: {' '.join(line.strip() for line in error.lines)}")
            continue
        if not isinstance(settings, GradientPretraining):
            simple.append(Simple(title, settings, pool, here))
            continue
        key = (learner.encoder.config.model_dump_json(), learner.encoder.view)
        if key not in twins:
            twins[key] = before_training(learner, pool, here)
        waiting.append((title, settings, key))
    names = dict(zip(twins, _twin_names(list(twins.values())), strict=True))
    ready += [Untrained(names[key], twin) for key, twin in twins.items()]
    restoring = [Restoring(title, settings, pool, here, names[key]) for title, settings, key in waiting]
    if config.pretrained is not None:
        found = _pretrained(config.pretrained, size, DOWNLOAD_SHARE * config.seconds)
        if isinstance(found, str):
            left_out.append(found)
        else:
            ready.append(Pretrained(config.pretrained.removeprefix("timm/"), found))
    for line in left_out:
        log.info("left out: %s", line)
    return Field(tuple(ready), tuple(simple), tuple(restoring), tuple(left_out))


def before_training(learner: MethodLearner, pool: Images, here: World) -> Encoder:
    """The network before its first step, frozen, with the statistics of the pool.

    A mean image, or another statistic that is not a learned weight, is measured when the learner starts.
    """
    images = to_float(pool.rows(even_rows(len(pool), STATISTICS_IMAGES)))
    encoder = learner.encoder.to(here.device)
    twin = copy.deepcopy(encoder)
    if encoder.statistics:
        learner.start()
    share_statistics(twin, encoder, (some.to(here.device) for some in in_chunks(images)))
    return twin.freeze()


def _twin_names(twins: Sequence[Encoder]) -> list[str]:
    """``untrained``, plus view and number where there are several untrained networks."""
    views = {twin.view for twin in twins}
    networks = [twin.config.model_dump_json() for twin in twins]
    several = list(dict.fromkeys(networks))
    names = []
    for twin, network in zip(twins, networks, strict=True):
        view = f"_{twin.view}" if len(views) > 1 else ""
        number = f"_{several.index(network) + 1}" if len(several) > 1 else ""
        names.append(f"untrained{view}{number}")
    return names


def _pretrained(name: str, size: int, seconds: float) -> Encoder | str:
    """The model with its weights, or why it is left out: downloading them may take this many seconds at most."""
    title = name.removeprefix("timm/")
    try:
        return within(
            seconds, lambda: build_encoder(EncoderConfig(name=name, pretrained=True), image_size=size)
        ).freeze()
    except UserError as error:
        return f"{title}: {' '.join(line.strip() for line in error.lines)}"
    except TimeoutError:
        # its thread goes on, and would print its retries
        logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
        return f"{title}: its weights could not be downloaded within {seconds:.0f} s; check the internet connection"

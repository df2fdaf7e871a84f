"""What pretraining opens and checks before it learns: the encoder that it starts from, the images, the method."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from common.data import Images, Source, build_source, load_images, paired
from common.data.images import kept_rows
from common.data.levels import Levels, levels_of_training
from common.encoders.card import EncoderCard
from common.encoders.load import ENCODER
from common.encoders.start import pinned, unknown_settings
from common.encoders.written import check_written
from common.engine.settings import GradientConfig
from common.errors import UserError, check_all
from common.files import is_group
from common.machine.distributed import World
from common.machine.room import check_training_batch
from common.runs.folder import Run, check_run_folder, with_group
from common.runs.made import ENCODER_INPUT
from common.words import counted
from pretrain.config import PretrainConfig
from pretrain.gradient.kept import check_kept
from pretrain.method import DECODER, MethodLearner
from pretrain.ruler.watch import Watched, open_watched

log = logging.getLogger("retouch")

FEW = 30  # images; of fewer, a warning says that little can be learned


@dataclass(frozen=True)
class Opened:
    """What a run needs, opened and checked.

    Attributes:
        config: its settings, as ``started`` returns them.
        began: the card of the encoder that training starts from; None for a new network.
        sources: the images, and the second source if there is one.
        images: decoded images that take the place of ``sources``; None if they are still to be loaded.
        watched: labeled images on which an accuracy is measured while it learns; None if there are none.
        learner: has no images until ``load``.
    """

    config: PretrainConfig
    began: EncoderCard | None
    sources: list[Source]
    images: Images | None
    watched: Watched | None
    learner: MethodLearner

    def load(self) -> None:
        """Decode the images, and give the readable ones to the learner.

        Raises:
            UserError: there are too few for the method, or it cannot learn from them.
        """
        images = _load(self.sources, self.config) if self.images is None else [self.images]
        if problems := self.config.method.check(self.config.data.image_size, min(map(len, images))):
            raise UserError(*problems)
        self.learner.attach(*images)

    @property
    def inputs(self) -> dict[str, str]:
        """The fingerprints of what the run reads, by the setting that names it."""
        return inputs(self.sources) | ({} if self.began is None else {ENCODER_INPUT: self.began.sha256})

    def describe(self, run: Run) -> None:
        """Log the images, the encoder, what trains it, and what it learned before."""
        learner = self.learner
        held = "" if learner.held is None else f" and {len(learner.held):,} held out"
        spec = learner.images.source.spec
        log.info("%s unlabeled images%s from %s; %s", f"{len(learner.images):,}", held, spec, learner.description)
        if (count := len(learner.images)) < FEW:
            log.warning("%s to learn from: very few, expect little", counted(count, "image"))
        if self.began is not None:
            _describe_start(self.config, self.began, run)


def _describe_start(config: PretrainConfig, began: EncoderCard, run: Run) -> None:
    """What the encoder learned before, and whether the images that are held out now are new to it."""
    earlier = began.provenance
    assert config.start is not None
    assert config.start.path is not None
    run.tracker.use_encoder(config.start.path, began.sha256, earlier.artifact)
    log.info("before, it learned by %s", earlier.story)
    seeds = [one.seed for one in earlier.chain if one.source == config.data.source and one.seed is not None]
    if others := [seed for seed in seeds if seed != config.seed]:
        log.warning(
            "it learned from %s with seed=%d before, and so it may know images that are held out now: the same seed "
            "holds out the same",
            *(config.data.source, others[-1]),
        )


def started(config: PretrainConfig) -> tuple[PretrainConfig, EncoderCard | None]:
    """The settings of a run, and the card of the encoder that it starts from; ``None`` for a new network.

    The settings hold the sha256 of this encoder, and the W&B group of its run unless they name another. An encoder that
    cannot be used has no card either: ``prepare`` reports it with all other problems.
    """
    if config.start is None:
        return with_group(config), None
    start, card = pinned(config.start)
    config = config.model_copy(update={"encoder": start})
    return with_group(config, None if card is None else card.provenance.group), card


def prepare(config: PretrainConfig, here: World, images: Images | None = None) -> Opened:
    """Open what a run needs, and check its folder, before an image is decoded or anything is written.

    Args:
        images: decoded images that take the place of those that ``config.data`` names.

    Raises:
        UserError: with every problem.
    """
    config, began = started(config)
    sources, watched, learner, *_ = check_all(
        lambda: open_images(config, here) if images is None else [images.source],
        lambda: _open_watched(config, here),
        lambda: _build(config, here),
        lambda: check_folder(config),
        lambda: _check_room(config, here),
    )
    return Opened(config, began, sources, images, watched, learner)


def inputs(sources: Sequence[Source]) -> dict[str, str]:
    """The fingerprints of opened images, by the setting that names them."""
    return {key: source.fingerprint for key, source in zip(("data.source", "data.other"), sources, strict=False)}


def open_images(config: PretrainConfig, here: World) -> list[Source]:
    """Open the images, and the second source if there is one; check that the method can learn from them.

    Raises:
        UserError: with every problem, before anything is decoded.
    """
    data, method = config.data, config.method
    asked = [(data.source, data.levels)] if data.other is None else [(data.source, data.levels), (data.other, None)]

    def opened(spec: str, levels: tuple[float, float] | None) -> Source:
        return build_source(spec, image=data.image, root=data.root, levels=levels)

    try:
        with here.main_first():
            sources = [*check_all(*(lambda one=one: opened(*one) for one in asked))]
    except UserError as error:
        raise UserError(*error.lines, *method.check(data.image_size, sys.maxsize)) from None
    check_sources(config, sources)
    return sources


def check_sources(config: PretrainConfig, sources: Sequence[Source]) -> None:
    """Check that the method can learn from these sources, before anything is decoded or written.

    Raises:
        UserError: with every problem.
    """
    method = config.method
    rows = [kept_rows(source, config.data.limit) for source in sources]
    problems = method.check(config.data.image_size, min(map(len, rows)))
    if method.second == "view" and not torch.equal(*rows):
        first, second = sources  # with a limit, two lengths give equally many rows, but not the same ones
        problems.append(
            f"{method.key} pairs images by row, but {first.spec} has {len(first):,} rows and {second.spec} has "
            f"{len(second):,}"
        )
    if problems:
        raise UserError(*problems)


def check_folder(config: PretrainConfig) -> None:
    """Check the run folder, and what an earlier run has exported there.

    Raises:
        UserError: with every problem.
    """
    unknown = frozenset[str]() if config.start is None else unknown_settings(config.start)
    if check_run_folder(config, unknown):
        # of a group, runs that have finished are not started again
        lost = config.out if is_group(config.out.parent) else None
        check_all(lambda: check_written(config.out / ENCODER, lost), lambda: check_kept(config.out / DECODER, lost))


def _check_room(config: PretrainConfig, here: World) -> None:
    """Refuse a batch that cannot fit in memory; methods that do not stream take no batches."""
    accumulate = config.accumulate if isinstance(config, GradientConfig) else 1
    if config.method.streams:
        check_training_batch(config.batch_size, config.data.image_size, here, accumulate)


def _open_watched(config: PretrainConfig, here: World) -> Watched | None:
    if config.watch is None:
        return None
    with here.main_first():
        return open_watched(config.watch, root=config.data.root, seed=config.seed)


def _build(config: PretrainConfig, here: World) -> MethodLearner:
    with here.main_first():  # weights may be downloaded
        return config.method.build(config.data.image_size, config.augment, here, config.seed)


def _load(sources: Sequence[Source], config: PretrainConfig) -> list[Images]:
    """The readable images of each source; of two views, those that both can give."""
    data, method = config.data, config.method
    size = method.loaded_size(data.image_size)

    def loaded(source: Source, levels: Levels | None = None) -> Images:
        return load_images(source, size, limit=data.limit, workers=data.workers, cache=data.cache, levels=levels)

    images = [loaded(sources[0])]
    for source in sources[1:]:
        # one encoder sees both domains, as it will see the images of transfer; a second view has an encoder of its own
        shared = levels_of_training(source, None, images[0].levels) if method.second == "domain" else None
        images.append(loaded(source, shared))
    return list(paired(*images)) if method.second == "view" else images

"""The pretraining stage: unlabeled images in, an encoder folder out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from common.data import Images, Loader, Source, build_source, load_images, paired
from common.data.images import kept_rows
from common.data.levels import Levels, levels_of_training
from common.encoders.card import EncoderCard
from common.encoders.export import export_encoder
from common.encoders.start import pinned
from common.engine.loop import Periodic, Trained, learn
from common.errors import UserError, check_all
from common.files import write_json
from common.machine.distributed import World, world
from common.runs.folder import (
    Run,
    check_run_folder,
    numbered,
    open_run,
    run_name,
    say_how_to_continue,
    with_group,
)
from common.runs.logs import early_log
from common.runs.made import ENCODER, Made, made
from pretrain.config import PretrainConfig
from pretrain.method import DECODER, MethodLearner
from pretrain.report.card import about
from pretrain.report.dictionary import show_dictionary
from pretrain.report.panels import Panels
from pretrain.results import Pretrained, PretrainResults, code_storage
from pretrain.ruler.measured import Measured
from pretrain.ruler.ruler import Ruler
from pretrain.ruler.watch import Watch, Watched, open_watched
from pretrain.sample import sample

log = logging.getLogger("retouch")

P = TypeVar("P", bound=PretrainConfig)


def pretrain(config: PretrainConfig, images: Images | None = None) -> Pretrained:
    """Fit an encoder on unlabeled images; write ``config.out`` with checkpoints, panels and ``encoder/``.

    Args:
        images: those to learn from, already decoded, in place of those that ``config.data`` names.

    Raises:
        UserError: the data, the encoder or the run folder cannot be used; nothing has been written.
    """
    with world() as here, numbered(config, here) as config, early_log() as early:
        config, began = started(config)
        config = with_group(config, None if began is None else began.provenance.group)
        # everything the user can get wrong is checked before anything is written
        sources, watched, learner = prepare(config, here, images)
        learner.attach(*(_load(sources, config) if images is None else _enough([images], config)))
        with open_run(config, here, early) as run:
            log.info("%s from %s; %s", _counted(learner), learner.images.source.spec, learner.description)
            if began is not None:
                _say_start(config, began, run)
            loader = _loader(learner.images, config, here)
            # images from one panel to the next
            learned = config.batch_size * min(config.panels_every, config.total_steps(loader.steps_per_epoch))
            panels, ruler = Panels(learner, config.method.title, run), Ruler(learner, learned)
            periodic = [Periodic(config.panels_every, panels.show, at_end=False)]
            if learner.restorers:
                periodic.append(Periodic(config.panels_every, ruler.show, curve=ruler.curve, enough=ruler.flat))
            if watched is not None:
                watch = Watch(
                    learner.encoder,
                    watched,
                    learned=learned,
                    workers=config.data.workers,
                    seed=config.seed,
                    levels=learner.images.levels,
                )
                periodic.append(Periodic(config.panels_every, watch.show))
            training = learn(
                learner,
                loader,
                config,
                run,
                title=f"pretrain {config.method.title}",
                periodic=periodic,
                until=learner.stop.at,
            )
            if not training.finished:
                say_how_to_continue(config)
            if not training.finished or not here.is_main:
                return Pretrained(training)
            learner.model.eval()
            panels.show(training.step)
            found = ruler.result(training.step) if learner.restorers else None
            sha256 = _export(learner, config, began, run, training, found)
            shown = sample(learner.images, size=config.data.image_size)
            read = inputs(sources) | ({} if began is None else {ENCODER: began.sha256})
            results = _results(learner, shown, run, training, sha256, found, made(read))
            return Pretrained(training, config.out / "encoder", results)


def started(config: P) -> tuple[P, EncoderCard | None]:
    """The settings with the sha256 of the encoder that training starts from, and its card; ``None`` of a new network.

    Also ``None`` of one that cannot be used: ``prepare`` says so, with all other problems.
    """
    if config.start is None:
        return config, None
    start, card = pinned(config.start)
    return config.model_copy(update={"encoder": start}), card


def _say_start(config: PretrainConfig, began: EncoderCard, run: Run) -> None:
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


def prepare(
    config: PretrainConfig, here: World, images: Images | None = None
) -> tuple[list[Source], Watched | None, MethodLearner]:
    """Open what a run needs, and check its folder, before an image is decoded or anything is written.

    Raises:
        UserError: with every problem.
    """
    sources, watched, learner, _ = check_all(
        lambda: open_images(config, here) if images is None else [images.source],
        lambda: _open_watched(config, here),
        lambda: _build(config, here),
        lambda: check_run_folder(config),
    )
    return sources, watched, learner


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
            sources = check_all(*(lambda one=one: opened(*one) for one in asked))
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


def _open_watched(config: PretrainConfig, here: World) -> Watched | None:
    if config.watch is None:
        return None
    with here.main_first():
        return open_watched(config.watch, root=config.data.root, seed=config.seed)


def _build(config: PretrainConfig, here: World) -> MethodLearner:
    with here.main_first():  # weights may be downloaded
        return config.method.build(config.data.image_size, config.augment, here, config.seed)


def _load(sources: Sequence[Source], config: PretrainConfig) -> list[Images]:
    """The readable images of each source.

    Raises:
        UserError: they are too few for the method.
    """
    data, method = config.data, config.method
    size = method.loaded_size(data.image_size)

    def loaded(source: Source, levels: Levels | None = None) -> Images:
        return load_images(source, size, limit=data.limit, workers=data.workers, cache=data.cache, levels=levels)

    images = [loaded(sources[0])]
    for source in sources[1:]:
        # one encoder sees both domains, as it will see the images of transfer; a second view has an encoder of its own
        shared = levels_of_training(source, None, images[0].levels) if method.second == "domain" else None
        images.append(loaded(source, shared))
    return _enough(list(paired(*images)) if method.second == "view" else images, config)


def _enough(images: list[Images], config: PretrainConfig) -> list[Images]:
    """The images of each source.

    Raises:
        UserError: they are too few for the method.
    """
    if problems := config.method.check(config.data.image_size, min(map(len, images))):
        raise UserError(*problems)
    return images


def _loader(images: Images, config: PretrainConfig, here: World) -> Loader:
    return Loader(
        images,
        batch_size=config.batch_size,
        seed=config.seed,
        rank=here.rank,
        world=here.size,
        workers=config.data.workers,
    )


def _counted(learner: MethodLearner) -> str:
    held = "" if learner.held is None else f" and {len(learner.held):,} held out"
    return f"{len(learner.images):,} unlabeled images{held}"


def _export(
    learner: MethodLearner,
    config: PretrainConfig,
    began: EncoderCard | None,
    run: Run,
    training: Trained,
    ruler: Measured | None,
) -> str:
    """Write ``encoder/`` with a model card, and ``decoder/`` where there is one; returns the encoder's sha256."""
    folder, artifact = config.out / "encoder", f"encoder-{run_name(config.out)}"
    provenance = config.method.provenance.model_copy(
        update={
            "source": config.data.source,
            "levels": learner.images.levels,
            "steps": training.step,
            "batch_size": config.batch_size,
            "seed": config.seed,
            "seconds": round(training.seconds, 1),
            "group": config.wandb.group,
            "artifact": artifact,
        }
    )
    if began is not None and config.start is not None:
        provenance = provenance.starting(str(config.start.path), began.sha256, began.provenance)
    known = about(config, learner.images, learner.title, training, ruler, provenance)
    sha256 = export_encoder(learner.encoder, folder, provenance, known)
    log.info("encoder written to %s", folder)
    if learner.keep(config.out / DECODER, source=config.data.source, encoder_sha256=sha256):
        log.debug("decoder written to %s", config.out / DECODER)
    log.debug("sha256 of the encoder: %s", sha256)
    run.tracker.artifact(artifact, folder, "encoder", {"sha256": sha256, **provenance.model_dump(mode="json")})
    return sha256


def _results(
    learner: MethodLearner,
    images: Tensor,
    run: Run,
    training: Trained,
    sha256: str,
    ruler: Measured | None,
    made_with: Made,
) -> PretrainResults:
    """Measure the encoder on a sample of training images ``[N 3 S S]``; writes ``results.json``."""
    explained = learner.explain(images)
    results = PretrainResults(
        method=learner.title,
        steps=training.step,
        seconds=round(training.seconds, 1),
        encoder_sha256=sha256,
        code=code_storage(learner.encoder, images),
        relative_reconstruction_error=learner.reconstruction_error(images),
        atoms=None if explained is None else explained.codes.shape[1],
        unused_atoms=None if explained is None else show_dictionary(run, training.step, explained),
        maximum_mean_discrepancy=learner.discrepancy,
        ruler=ruler,
        originals=learner.images.originals,
        notes=tuple(learner.notes(images)),
        made=made_with,
    )
    if results.atoms is not None:
        log.info("%d atoms, %d unused", results.atoms, results.unused_atoms)
    log.debug("%s", results.code.text)
    for note in results.notes:
        log.warning("%s", note)
    log.info("all of this run: %s", run.folder)
    write_json(run.folder / "results.json", results.model_dump(mode="json"))
    run.tracker.summary(results.model_dump(mode="json", exclude_none=True))
    return results

"""Fitting the linear family: the same data, loop, checkpoints and panels, with a method's own rule as the step."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.data import Batch, Images, Loader, Source
from common.data.images import kept_rows
from common.encoders.base import Encoder
from common.encoders.vector import VectorEncoder
from common.engine.loop import Periodic, Trained, learn
from common.errors import UserError
from common.pixels import to_float
from common.runs.folder import Run
from pretrain.config import PretrainConfig
from pretrain.gradient.example import Example
from pretrain.linear import Cca, Fit, FitLearner
from pretrain.linear.transfer import TcaLearner, second_domain, spread
from pretrain.report.storage import relative_error, save_report, show_panel

log = logging.getLogger("retouch")

REPORT_IMAGES = 2048
PANEL_IMAGES = 8


def fit_encoder(encoder: Encoder, images: list[Images], config: PretrainConfig, run: Run) -> Trained:
    """Fit ``encoder``, in place, on one set of images, or on two: views (CCA) or domains (TCA).

    Raises:
        UserError: the settings do not fit the data.
    """
    fit, device = config.fit, run.world.device
    assert fit is not None
    own = images[0]
    if isinstance(fit, Cca) and fit.views == "other":
        _check_pairs(*images)
    learner = fit.learner(encoder, config.seed, len(own))
    learner.to(device)
    log.info("%s unlabeled images of %s; %s by %s", f"{len(own):,}", own.source.spec, encoder.name, fit.kind)

    # a bounded sample: all that methods without a stream look at
    started = time.perf_counter()
    sample = _sample(own, fit, config, device)
    other = second_domain(fit, _sample(images[-1], fit, config, device), config.seed)
    if not fit.streams:
        log.info("%s is fitted on a sample of %s of them (seed %d)", fit.title, f"{len(sample):,}", config.seed)
    with torch.no_grad():
        learner.start(sample, other)

    shown = sample[:: max(1, len(sample) // PANEL_IMAGES)][:PANEL_IMAGES]

    def panel(step: int) -> dict[str, float]:
        restored = learner.reconstruct(shown)
        if restored is not None:
            example = Example(input=shown, clean=shown, target=shown)
            show_panel(run, step, example, restored, title=f"{fit.kind}, step {step}")
        return {}

    if fit.streams:
        training = _stream(learner, images, config, run, fit, panel)
    else:
        training = Trained(0, 0, True, time.perf_counter() - started, None, None)
        panel(0)
    if training.finished:
        _report(learner, sample, run, training.step)
    return training


def check_fit(config: PretrainConfig, sources: Sequence[Source]) -> None:
    """Refuse what cannot be fitted on these sources, before anything is decoded or written.

    Raises:
        UserError: with every problem.
    """
    fit, limit = config.fit, config.data.limit
    if fit is None:
        return
    rows = [kept_rows(source, limit) for source in sources]
    problems = fit.check(config.data.image_size, min(map(len, rows)))
    if isinstance(fit, Cca) and fit.views == "other" and not torch.equal(*rows):
        first, second = sources  # two lengths under one limit give equally many rows, but not the same
        problems.append(
            f"fit.views=other pairs rows, but {first.spec} has {len(first):,} and {second.spec} {len(second):,}"
        )
    if problems:
        raise UserError(*problems)


def _stream(
    learner: FitLearner,
    images: list[Images],
    config: PretrainConfig,
    run: Run,
    fit: Fit,
    panel: Callable[[int], dict[str, float]],
) -> Trained:
    device = run.world.device
    loader = Loader(images[0], batch_size=config.batch_size, seed=config.seed, workers=config.data.workers)
    second = images[1] if len(images) > 1 else None

    def prepare(batch: Batch) -> Tensor:
        pixels = config.augment(batch.images.to(device, non_blocking=True))  # uint8 0..255 -> float 0..1
        if second is None:
            return pixels
        partners = second.rows(batch.index)
        _check_pairs(images[0], second)  # images that are decoded only now
        return torch.cat([pixels, to_float(partners.to(device))], dim=1)

    every = config.panels_every
    # a method of one pass has nothing to show before its end
    periodic = [] if fit.one_pass else [Periodic(every, panel)]
    with torch.no_grad():
        training = learn(learner, prepare, loader, config, run, title=f"fit {fit.kind}", periodic=periodic)
    if training.finished and fit.one_pass:
        panel(training.step)
    return training


def _check_pairs(first: Images, second: Images) -> None:
    """Refuse pairs of which an image, as far as known, cannot be read: another would take its place."""
    if first.unreadable or second.unreadable:
        raise UserError(
            f"fit.views=other pairs rows, but an image of {first.source.spec} or {second.source.spec} cannot be read: "
            "remove it and its partner"
        )


def _sample(images: Images, fit: Fit, config: PretrainConfig, device: torch.device) -> Tensor:
    """The images that ``fit`` asks for first, ``[N 3 S S]`` in [0, 1], at the encoder's size."""
    rows, size = fit.sample_rows(len(images), config.seed), config.data.image_size
    return to_float(images.rows(rows).to(device))[:, :, :size, :size]


@torch.no_grad()
def _report(learner: FitLearner, sample: Tensor, run: Run, step: int) -> None:
    encoder, images = learner.encoder.eval(), spread(sample, REPORT_IMAGES)
    restored = learner.reconstruct(images)
    error = None
    if restored is not None and isinstance(encoder, VectorEncoder):
        error = relative_error(images, restored, encoder.vectors(images))
    facts = {"maximum_mean_discrepancy": learner.discrepancy} if isinstance(learner, TcaLearner) else {}
    save_report(run, step, learner.explain(images), error, facts)

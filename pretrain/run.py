"""The pretraining stage, from a config to an exported encoder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from common.artifact import export_encoder
from common.config import load_config
from common.data import Batch, Loader, Source, build_source, load_images
from common.distributed import World, world
from common.encoders import build_encoder
from common.encoders.base import Encoder, TokenEncoder
from common.errors import UserError, together
from common.images import to_float
from common.loop import Periodic, Trained, train
from common.run import Run, check_out, open_run
from common.schedule import seed_step
from pretrain.autoencoder import Autoencoder
from pretrain.config import PretrainConfig
from pretrain.example import Example
from pretrain.panels import save_panel

log = logging.getLogger("retouch")

FIT_IMAGES = 2048  # a sample for what a pretext learns from data (colour bins), bounded for any number of images
PANEL_IMAGES = 8


@dataclass(frozen=True)
class Pretrained:
    """What pretraining leaves. ``encoder`` is the exported folder, None while the run waits to be resumed."""

    encoder: Path | None
    sha256: str | None
    training: Trained


def command(path: str, overrides: Sequence[str]) -> Pretrained:
    """``retouch pretrain CONFIG [key.sub=value ...]``."""
    return pretrain(load_config(PretrainConfig, path, overrides))


def pretrain(config: PretrainConfig) -> Pretrained:
    """Fit an encoder on unlabeled images; write ``config.out`` with checkpoints, panels and ``encoder/``.

    Raises:
        UserError: the data, the encoder or the run folder cannot serve; nothing has been written then.
    """
    with world() as here:
        # everything a user can get wrong is looked at before anything is written
        source, model, _ = together(
            lambda: _open_source(config, here), lambda: _build_model(config), lambda: check_out(config)
        )
        encoder = model.encoder
        with open_run(config, here, job_type="pretrain") as run:
            # data
            data = config.data
            images = load_images(source, data.image_size, limit=data.limit, workers=data.workers, cache=data.cache)
            loader = Loader(
                images,
                batch_size=config.batch_size,
                seed=config.seed,
                rank=here.rank,
                world=here.size,
                workers=data.workers,
            )

            # model
            sample = to_float(images.rows(_spread(len(images), FIT_IMAGES)))
            model.fit(sample)
            model.to(here.device)
            log.info("%s", _describe(model, len(images), source.spec))

            def prepare(batch: Batch) -> Example:
                images = config.augment(batch.images.to(here.device, non_blocking=True))  # uint8 0..255 -> float 0..1
                return config.pretext.corrupt(images, encoder)

            # train
            shown = sample[:: max(1, len(sample) // PANEL_IMAGES)][:PANEL_IMAGES].to(here.device)
            panels = Periodic(config.panels_every, lambda step: _panel(model, shown, run, config, step))
            training = train(
                model, prepare, loader, config, run, title=f"pretrain {config.pretext.kind}", periodic=[panels]
            )

            # export
            if not training.finished or not here.is_main:
                return Pretrained(None, None, training)
            return _export(encoder, config, source, run, training, here)


def _open_source(config: PretrainConfig, here: World) -> Source:
    data = config.data

    def open_it() -> Source:
        return build_source(data.source, image=data.image, root=data.root)

    if not here.is_main:
        here.barrier()  # rank 0 opens first: what has to be downloaded or unpacked is so once
        return open_it()
    try:
        return open_it()
    finally:
        here.barrier()


def _build_model(config: PretrainConfig) -> Autoencoder:
    """Weights start from the seed, the same in every process; a pretext that cannot use the encoder says why."""
    pretext, size = config.pretext, config.data.image_size
    seed_step(config.seed, 0)
    encoder = build_encoder(config.encoder, image_size=size, view=pretext.view)
    if pretext.needs_mask_channel(isinstance(encoder, TokenEncoder)):
        seed_step(config.seed, 0)
        encoder = build_encoder(config.encoder, image_size=size, view=pretext.view, mask_channel=True)
    problems = pretext.check(encoder)
    if problems:
        raise UserError(*problems, title=f"{config.encoder.name} cannot be pretrained by {pretext.kind}:")
    return Autoencoder(encoder, config.decoder, pretext)


def _spread(length: int, count: int) -> torch.Tensor:
    """At most ``count`` rows, evenly spread."""
    return torch.linspace(0, length - 1, min(length, count)).round().long()


def _describe(model: Autoencoder, images: int, source: str) -> str:
    def millions(module: torch.nn.Module) -> float:
        return sum(parameter.numel() for parameter in module.parameters()) / 1e6

    channels, height, width = model.encoder.map_shape
    return (
        f"{images:,} unlabeled images of {source}; {model.encoder.name} {millions(model.encoder):.2f}M parameters, "
        f"last map {channels}x{height}x{width}; decoder {millions(model.decoder):.2f}M"
    )


def _panel(model: Autoencoder, images: torch.Tensor, run: Run, config: PretrainConfig, step: int) -> dict[str, float]:
    """The same images with the same damage at every step, so that panels can be compared."""
    seed_step(config.seed, 0)
    path = run.folder / "panels" / f"step-{step:07d}.png"
    example, restored = model.restore(images)
    save_panel(path, example, restored, title=f"{config.pretext.kind}, step {step}")
    run.image("panel", path, step)
    return {}


def _export(
    encoder: Encoder, config: PretrainConfig, source: Source, run: Run, training: Trained, here: World
) -> Pretrained:
    folder = config.out / "encoder"
    provenance = {
        "pretext": config.pretext.model_dump(mode="json"),
        "source": source.spec,
        "steps": training.steps,
        "batch_size": config.batch_size,
        "base_lr": config.base_lr,
        "seed": config.seed,
        "seconds": round(training.seconds, 1),
    }
    sha256 = export_encoder(encoder, folder, provenance)
    log.info("encoder written to %s (sha256 %s)", folder, sha256[:12])
    if run.tracker:
        run.tracker.summary({"encoder_sha256": sha256, "seconds": training.seconds, "steps": training.step})
        run.tracker.artifact(f"encoder-{config.out.name}", folder, "encoder", {"sha256": sha256, **provenance})
    return Pretrained(folder, sha256, training)

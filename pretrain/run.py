"""The pretraining stage: unlabeled images in, an encoder folder out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.config import load_config
from common.data import Batch, Images, Loader, Source, build_source, load_images
from common.encoders import build_encoder
from common.encoders.base import Encoder, TokenEncoder
from common.encoders.folder import export_encoder
from common.engine.loop import Periodic, Trained, train
from common.engine.schedule import seed_step
from common.errors import UserError, check_all
from common.machine.distributed import World, world
from common.pixels import to_float
from common.runs.folder import Run, check_run_folder, open_run, with_group
from pretrain.config import PretrainConfig
from pretrain.fitting import check_fit, fit_encoder
from pretrain.gradient.example import Example
from pretrain.gradient.objective import Autoencoder
from pretrain.report.storage import add_storage, relative_error, save_report, show_panel

log = logging.getLogger("retouch")

# A sample for what is learned from data before the first step (colour bins, principal components), and for the report:
# so many images, or fewer where their floats would take more than SAMPLE_BYTES. To fit on, more where they are small.
SAMPLE_IMAGES, SAMPLE_BYTES = 2048, 1 << 28
SMALL_BYTES = 24 << 20  # what 2,048 images of 32 px take
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
    config = with_group(config)
    with world() as here:
        # everything a user can get wrong is looked at before anything is written
        sources, model, _ = check_all(
            lambda: _open_sources(config, here), lambda: _build_model(config, here), lambda: check_run_folder(config)
        )
        check_fit(config, sources)
        encoder = model.encoder if isinstance(model, Autoencoder) else model

        # data: first, since images that cannot be read must not leave a run folder behind
        images = [_load(source, config) for source in sources]
        with open_run(config, here) as run:
            # train
            if isinstance(model, Autoencoder):
                training = _train(model, images[0], config, run)
            else:
                training = fit_encoder(model, images, config, run)

            if not training.finished or not here.is_main:
                return Pretrained(None, None, training)

            # report
            model.eval()
            size = config.data.image_size  # some fits load larger images, and cut them
            sample = _sample(images[0], SAMPLE_IMAGES)[:, :, :size, :size]
            if isinstance(model, Autoencoder):
                _report(model, sample, run, training.step)
            add_storage(run, encoder, sample)

            # export
            return _export(encoder, config, sources, run, training)


def _train(model: Autoencoder, images: Images, config: PretrainConfig, run: Run) -> Trained:
    """By gradient: an autoencoder and its pretext."""
    here = run.world
    loader = Loader(
        images,
        batch_size=config.batch_size,
        seed=config.seed,
        rank=here.rank,
        world=here.size,
        workers=config.data.workers,
    )
    if model.fits:
        model.fit(_sample(images, max(SAMPLE_IMAGES, SMALL_BYTES // _image_bytes(images.size))))
    model.to(here.device)
    log.info("%s", _describe(model, len(images), images.source.spec))

    def prepare(batch: Batch) -> Example:
        pixels = config.augment(batch.images.to(here.device, non_blocking=True))  # uint8 0..255 -> float 0..1
        return config.pretext.corrupt(pixels, model.encoder)

    kind = config.pretext.kind
    rows = _sample_rows(images, SAMPLE_IMAGES)
    shown = to_float(images.rows(rows[:: max(1, len(rows) // PANEL_IMAGES)][:PANEL_IMAGES]).to(here.device))

    def panel(step: int) -> dict[str, float]:
        """The same images with the same damage at every step, so that panels can be compared."""
        seed_step(config.seed, 0)
        show_panel(run, step, *model.restore(shown), title=f"{kind}, step {step}")
        return {}

    return train(
        model, prepare, loader, config, run, title=f"pretrain {kind}", periodic=[Periodic(config.panels_every, panel)]
    )


def _report(model: Autoencoder, images: Tensor, run: Run, step: int) -> None:
    """Of an autoencoder: its atoms, and how well the decoder gives undamaged images ``[N 3 S S]`` back."""
    restored = model.reconstruct(images)
    error = None if restored is None else relative_error(images, restored, images - images.mean(0))
    save_report(run, step, model.explain(images), error, {})


def _open_sources(config: PretrainConfig, here: World) -> list[Source]:
    """The images, and the second source where there is one."""
    data = config.data

    def open_them() -> list[Source]:
        specs = [data.source] if data.other is None else [data.source, data.other]
        return [build_source(spec, image=data.image, root=data.root) for spec in specs]

    if not here.is_main:
        here.barrier()  # rank 0 opens first: what has to be downloaded or unpacked is so once
        return open_them()
    try:
        return open_them()
    finally:
        here.barrier()


def _load(source: Source, config: PretrainConfig) -> Images:
    data = config.data
    size = data.image_size if config.fit is None else config.fit.loaded_size(data.image_size)
    return load_images(source, size, limit=data.limit, workers=data.workers, cache=data.cache)


def _build_model(config: PretrainConfig, here: World) -> Autoencoder | Encoder:
    """Weights start from the seed, the same in every process; a pretext that cannot use the encoder says why."""
    pretext, size = config.pretext, config.data.image_size
    seed_step(config.seed, 0)
    if config.fit is not None:
        if here.size > 1:
            raise UserError(f"fit.kind={config.fit.kind} runs in one process: start it without torchrun")
        return config.fit.build(size)
    encoder = build_encoder(config.encoder, image_size=size, view=pretext.view)
    if pretext.needs_mask_channel(isinstance(encoder, TokenEncoder)):
        seed_step(config.seed, 0)
        encoder = build_encoder(config.encoder, image_size=size, view=pretext.view, mask_channel=True)
    sparse = bool(config.penalty.l1) or encoder.code_kept is not None
    # nothing is damaged: the code must be narrow, or sparse
    problems = [] if pretext.narrow_code and sparse else pretext.check(encoder)
    if problems:
        raise UserError(*problems, title=f"{config.encoder.name} cannot be pretrained by {pretext.kind}:")
    return Autoencoder(encoder, config.decoder, pretext, penalty=config.penalty)


def _sample(images: Images, count: int) -> Tensor:
    """At most ``count`` images ``[N 3 S S]`` in [0, 1], evenly spread, and at most ``SAMPLE_BYTES`` of them."""
    return to_float(images.rows(_sample_rows(images, count)))


def _sample_rows(images: Images, count: int) -> Tensor:
    count = min(len(images), count, SAMPLE_BYTES // _image_bytes(images.size))
    return torch.linspace(0, len(images) - 1, count).round().long()


def _image_bytes(size: int) -> int:
    """Of one image of this side as float32."""
    return 4 * 3 * size**2


def _describe(model: Autoencoder, images: int, source: str) -> str:
    def millions(module: torch.nn.Module) -> float:
        return sum(parameter.numel() for parameter in module.parameters()) / 1e6

    channels, height, width = model.encoder.map_shape
    return (
        f"{images:,} unlabeled images of {source}; {model.encoder.name} {millions(model.encoder):.2f}M parameters, "
        f"last map {channels}x{height}x{width}; decoder {millions(model.decoder):.2f}M"
    )


def _export(
    encoder: Encoder, config: PretrainConfig, sources: Sequence[Source], run: Run, training: Trained
) -> Pretrained:
    folder, artifact = config.out / "encoder", f"encoder-{config.out.name}"
    pretext = config.pretext if config.fit is None else config.fit
    provenance = {
        "pretext": pretext.model_dump(mode="json"),
        "source": sources[0].spec,
        "steps": training.steps,
        "batch_size": config.batch_size,
        "base_lr": config.base_lr,
        "seed": config.seed,
        "seconds": round(training.seconds, 1),
        "group": config.wandb.group,
        "artifact": artifact,
    }
    sha256 = export_encoder(encoder, folder, provenance)
    log.info("encoder written to %s (sha256 %s)", folder, sha256[:12])
    run.tracker.summary({"encoder_sha256": sha256, "seconds": training.seconds, "steps": training.step})
    run.tracker.artifact(artifact, folder, "encoder", {"sha256": sha256, **provenance})
    return Pretrained(folder, sha256, training)

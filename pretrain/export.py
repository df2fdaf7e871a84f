"""What a finished run of pretraining leaves: ``encoder/`` with a model card, ``decoder/`` and ``results.json``."""

from __future__ import annotations

import logging

from common.data.split import origin
from common.encoders.export import export_encoder
from common.encoders.load import ENCODER
from common.engine.loop import Trained
from common.files import write_json
from common.runs.folder import Run, run_name
from common.runs.made import made
from common.runs.results import RESULTS
from common.words import counted
from pretrain.method import DECODER
from pretrain.opening import Opened
from pretrain.report.card import about
from pretrain.report.dictionary import show_dictionary
from pretrain.results import PretrainResults, code_storage
from pretrain.ruler.measured import Measured
from pretrain.sample import sample

log = logging.getLogger("retouch")


def export(opened: Opened, run: Run, training: Trained, ruler: Measured | None) -> str:
    """Write ``encoder/`` with a model card, and ``decoder/`` if there is one; returns the encoder's sha256."""
    config, began, learner = opened.config, opened.began, opened.learner
    folder, artifact = config.out / ENCODER, f"encoder-{run_name(config.out)}"
    source, part = origin(learner.images.source)
    came = {"source": config.data.source} if part is None else {"source": source, "part": part}
    provenance = config.method.provenance.model_copy(
        update={
            **came,
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


def report(opened: Opened, run: Run, training: Trained, ruler: Measured | None, sha256: str) -> PretrainResults:
    """Measure the encoder on a sample of training images; write ``results.json`` and log what was found."""
    learner = opened.learner
    images = sample(learner.images, size=opened.config.data.image_size)
    explained = learner.explain(images)
    results = PretrainResults(
        method=learner.title,
        steps=training.step,
        seconds=round(training.seconds, 1),
        encoder_sha256=sha256,
        code=code_storage(learner.encoder, images),
        relative_reconstruction_error=learner.reconstruction_error(images),
        atoms=None if explained is None else explained.number,
        unused_atoms=None if explained is None else show_dictionary(run, training.step, explained),
        maximum_mean_discrepancy=learner.discrepancy,
        ruler=ruler,
        originals=learner.images.originals,
        notes=tuple(learner.notes(images)),
        made=made(opened.inputs),
    )
    if explained is not None:
        mirrored = " (half of them mirror images)" if explained.mirrored else ""
        log.info("%s%s, %s unused", counted(explained.number, "atom"), mirrored, f"{results.unused_atoms or 0:,}")
    log.debug("%s", results.code.text)
    for note in results.notes:
        log.warning("%s", note)
    write_json(run.folder / RESULTS, results.model_dump(mode="json"))
    run.tracker.summary(results.model_dump(mode="json", exclude_none=True))
    return results

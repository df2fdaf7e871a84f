"""The fine-tuning stage: train the whole encoder with a new head, in the same loop as pretraining."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from common.data import Labels, Loader
from common.data.split import origin
from common.encoders import Classifier, build_encoder
from common.encoders.base import Encoder
from common.encoders.card import EncoderCard, resized
from common.encoders.export import export_classifier, export_encoder
from common.encoders.load import ENCODER, load_encoder, random_twin, read_encoder_card
from common.encoders.provenance import Provenance
from common.encoders.start import pinned, read_start, unknown_settings
from common.encoders.written import check_written
from common.engine.gradient import check_shares
from common.engine.loop import Periodic, Trained, learn
from common.engine.schedule import seed_step
from common.engine.settings import StopConfig
from common.errors import UserError, check_all
from common.machine.distributed import World, world
from common.machine.room import check_training_batch
from common.runs.continuing import say_how_to_continue
from common.runs.folder import Run, check_run_folder, numbered, open_run, with_group
from common.runs.logs import early_log
from common.runs.made import ENCODER_INPUT, Made, made
from common.runs.tracking import Tracker
from common.words import counted
from finetune.baselines import share_statistics
from finetune.calibration import calibrated
from finetune.card import write_cards
from finetune.checks import tuned_checks
from finetune.classifier import CLASSIFIER
from finetune.comparisons import Tested, TestedProbe, probe_settings, scratch_settings, with_baselines
from finetune.config import FinetuneConfig
from finetune.data import (
    LabeledImages,
    Sources,
    check_enough,
    hold_out,
    load_labeled,
    open_sources,
)
from finetune.features import layer_shapes
from finetune.head_start import check_start
from finetune.leaks import write_leaks
from finetune.lines import Line, finetune_lines
from finetune.metrics import accuracy, score
from finetune.predictions import Predictions, read_predictions, write_predictions
from finetune.probe import probe
from finetune.results import FinetuneResult, StepChoice, Tuned, write_results
from finetune.summary import finetune_notes, log_finetuned, print_finetuned
from finetune.supervised import FineTuner, Split, Supervised, check_mixing, class_weights, predict, temperature_of
from finetune.tracked import errors_sheet, send

log = logging.getLogger("retouch")


class Ran(NamedTuple):
    """How one training run ended."""

    finished: bool  # not stopped by a signal
    tested: Tested | None = None  # in the first process only


def finetune(
    config: FinetuneConfig,
    images: LabeledImages | None = None,
    *,
    feature_cache: bool = True,
    stop: StopConfig | None = None,
) -> FinetuneResult | None:
    """Train encoder and head, keep the step with the best validation accuracy, test it once.

    Writes ``classifier/``, ``encoder/``, ``results.json`` and ``predictions.parquet``. An exported encoder is compared
    with its linear probe and with the same network from scratch, each in its own folder. From scratch means without the
    learned weights: the statistics of the data (center, whitening, BatchNorm) are the encoder's, as for the probe's
    untrained twin.

    Args:
        images: images of one task, already decoded, used in place of ``config.data``, which baselines would still read:
            they are for settings that compare the network with nothing else.
        feature_cache: whether the linear probe may read its features from disk.
        stop: when training ends before its last step, with the rates of all steps; by default it takes all of them.

    Returns:
        The content of ``results.json``; None if a signal stopped training, and in all processes but the first.

    Raises:
        UserError: the encoder, data or run folder cannot be used; nothing has been written.
    """
    # once: a process group cannot be rejoined after leaving it
    config = config.model_copy(update={"encoder": pinned(config.encoder)[0]})
    with world() as here, numbered(config, here) as config:
        ran = _run(config, here, images, stop)
        if not ran.finished:
            say_how_to_continue(config.out)
            return None

        # baselines, each a separate run in the same group
        config = _with_group(config)
        scratch: Tested | None = None
        linear_probe: TestedProbe | None = None
        if config.encoder.path is not None and not config.encoder.from_scratch:
            if config.compare.from_scratch:
                other = _run(scratch_settings(config), here)
                if not other.finished:
                    say_how_to_continue(config.out)
                    return None
                scratch = other.tested
            if config.compare.linear_probe and here.size == 1:
                probing = probe_settings(config, feature_cache)
                [found] = probe(probing, show=False).results
                linear_probe = TestedProbe(found, read_predictions(probing.out)[0])
            elif config.compare.linear_probe and here.is_main:
                log.info("compare.linear_probe: skipped, a probe runs in one process; run retouch probe instead")
        if ran.tested is None:
            return None
        tested = with_baselines(ran.tested, scratch, linear_probe)
        _write(config, tested)
        if scratch is not None or linear_probe is not None:
            _log_baselines(config, tested.result)
        print_finetuned(config, tested.result)
        return tested.result


@dataclass(frozen=True)
class Opened:
    """What a run reads, opened and checked."""

    config: FinetuneConfig
    encoder: Encoder  # that is trained
    card: EncoderCard | None  # of the exported encoder whose weights it starts from
    images: LabeledImages  # of one task
    made: Made

    @property
    def task(self) -> str:
        [task] = self.images.tasks
        return task

    @property
    def train_labels(self) -> Labels:
        return self.images.tasks[self.task][0]

    @property
    def test(self) -> Split:
        """All test images."""
        labels = self.images.tasks[self.task][1]
        return Split(self.images.test, torch.arange(len(self.images.test)), labels.values)


def _run(
    config: FinetuneConfig, here: World, images: LabeledImages | None = None, stop: StopConfig | None = None
) -> Ran:
    """One training and its test, in ``config.out``."""
    with early_log() as early:
        # everything the user can get wrong is checked before anything is written
        opened = _open(config, here, images)
        with open_run(opened.config, here, early) as run:
            if opened.card is not None and config.encoder.path is not None:
                run.tracker.use_encoder(config.encoder.path, opened.card.sha256, opened.card.provenance.artifact)
            fit = _train(opened, run, stop or StopConfig())
            if not fit.training.finished or not here.is_main:
                return Ran(fit.training.finished)
            temperature = temperature_of(fit.classifier, fit.validation, opened.config, here)
            sha256 = _export(opened, fit, temperature, run.tracker)
            result, predictions = tested = _test(opened, fit, temperature, sha256, here)
            write_leaks(config.out, [(opened.images.train.source.spec, opened.images.leaks)])
            _write(opened.config, tested)
            log_finetuned(run, result)
            if run.tracker.active:
                send(run.tracker, [errors_sheet(opened.images.test, [predictions], "tuned")])
            return Ran(True, tested)


def _write(config: FinetuneConfig, tested: Tested) -> None:
    """Write predictions, cards and results: before the baselines run, and again with them."""
    write_predictions(config.out, [tested.predictions])
    write_cards(config, tested.result)
    write_results(config.out, tested.result)  # last: it marks the run as finished


def _open(config: FinetuneConfig, here: World, images: LabeledImages | None) -> Opened:
    """Open and check all that a run reads, and its folder.

    Raises:
        UserError: with every problem.
    """
    encoder, sources, *_ = check_all(
        lambda: _start(config, here),
        lambda: open_images(config, here) if images is None else Sources(images.train.source, images.test.source),
        lambda: check_shares(config, here),
        lambda: check_mixing(config, here),
        lambda: _check_folder(config),
    )
    start = config.encoder
    card = None if start.path is None or start.from_scratch else read_encoder_card(start.path)
    size = config.data.image_size or encoder.image_size
    check_training_batch(config.batch_size, size, here, config.accumulate)
    trained_on = None if card is None or start.from_scratch else card.provenance
    images = images or load_labeled(sources, config.data, size, config.seed, trained_on)
    check_enough(images, config.validation, config.seed)
    inputs = sources.inputs() | ({} if card is None else {ENCODER_INPUT: card.sha256})
    opened = Opened(_with_group(config), encoder, card, images, made(inputs))
    class_weights(config.class_weights, opened.train_labels)  # refuses names that are not classes
    return opened


def _check_folder(config: FinetuneConfig) -> None:
    """Check the run folder, and what an earlier run has exported there.

    Raises:
        UserError: with every problem.
    """
    if check_run_folder(config, unknown_settings(config.encoder)):
        check_all(*(lambda name=name: check_written(config.out / name) for name in (ENCODER, CLASSIFIER)))


def _with_group(config: FinetuneConfig) -> FinetuneConfig:
    path = config.encoder.path
    return with_group(config, None if path is None else read_encoder_card(path).provenance.group)


def _start(config: FinetuneConfig, here: World) -> Encoder:
    """The exported encoder, or its architecture or a named one at random initialization, at the size of the images.

    Raises:
        UserError: there is no such encoder, it does not accept images of this size, it takes no classifier, or no
            weights of it learn.
    """
    start = config.encoder
    read_start(start)  # refuses an encoder that differs from the one this run began with
    if start.path is None:
        seed_step(config.seed, 0)
        with here.main_first():  # weights may be downloaded
            encoder = build_encoder(start.network, image_size=start.image_size or config.data.image_size or 32)
    else:
        encoder = random_twin(start.path, config.seed) if start.from_scratch else load_encoder(start.path)
    if not any(True for _ in encoder.parameters()):
        raise UserError(
            f"{encoder.name} has no weights that learn by gradient descent, so fine-tuning would train the head alone: "
            "use retouch probe, or another encoder"
        )
    if not encoder.takes_classifier:
        raise UserError(f"{encoder.name} takes no classifier in timm: use retouch probe, or another encoder")
    check_start(encoder, config)
    size = config.data.image_size or encoder.image_size
    layer_shapes(encoder, size)
    return resized(encoder, size)


def open_images(config: FinetuneConfig, here: World) -> Sources:
    """Open the images, and check their labels.

    Raises:
        UserError: with every problem.
    """
    with here.main_first():
        sources = open_sources(config.data, config.seed, config.validation)
    if len(tasks := config.data.tasks(sources.train)) > 1:
        raise UserError(
            f"{sources.train.spec} has the tasks {', '.join(tasks)}, but fine-tuning trains on one: set data.task"
        )
    return sources


class _Fit(NamedTuple):
    """A trained network, with the weights of its best step."""

    classifier: Classifier
    training: Trained
    n_train: int
    validation: Split  # held out of it
    start_converged: bool  # whether the probe at which its classifier started did

    def choice(self, how: str) -> StepChoice:
        """The step whose weights were kept."""
        best, step = self.training.best, self.training.best_step
        assert best is not None
        assert step is not None
        return StepChoice(val_accuracy=best, how=how, step=step, of_steps=self.training.step)


def _train(opened: Opened, run: Run, stop: StopConfig) -> _Fit:
    """Train encoder and head on a part of the training images, and choose the step on the rest."""
    here, config, images, train_labels = run.world, opened.config, opened.images, opened.train_labels

    # data
    fit, held = hold_out(train_labels, config.validation, config.seed)
    validation = Split(images.train, held, train_labels.values[held])
    shown, fitted = images.train.only(fit), train_labels._replace(values=train_labels.values[fit])
    loader = Loader(
        shown,
        labels=fitted.values,
        batch_size=config.batch_size,
        seed=config.seed,
        rank=here.rank,
        world=here.size,
        workers=config.data.workers,
    )

    # model
    start = config.encoder
    if start.from_scratch and start.path is not None:
        share_statistics(opened.encoder, start.path, shown, here.device)
    seed_step(config.seed, 1)  # the new head starts with the same weights in every process
    classifier = Classifier(opened.encoder, train_labels.names)
    if config.frozen_groups:
        classifier.freeze_first(config.frozen_groups)
    weights = class_weights(config.class_weights, fitted)
    model = Supervised(classifier, config.label_smoothing, config.augment, config.mixup, config.cutmix, weights)
    counts = counted(len(fit), "training image"), counted(len(held), "validation image")
    log.info("%s: %s, %s, %s", opened.task, counted(len(train_labels.names), "class", "classes"), *counts)

    def evaluate(step: int) -> dict[str, float]:
        found = predict(classifier, validation, config, here)
        return {"val/accuracy": float(accuracy(found.answers, found.labels))}

    # train, keeping the weights with the best validation accuracy
    tuner = FineTuner(model, config, here, shown, fitted)
    training = learn(
        tuner,
        loader,
        config,
        run,
        title=f"finetune {opened.task}",
        periodic=[Periodic(config.evaluate_every, evaluate, select="val/accuracy")],
        until=stop.at,
        seconds=stop.after,
    )
    if here.is_main and training.finished and training.best is None:  # it ended before its first validation
        training = replace(training, best=evaluate(training.step)["val/accuracy"], best_step=training.step)
    return _Fit(classifier, training, len(fit), validation, tuner.start_converged)


def _export(opened: Opened, fit: _Fit, temperature: float, tracker: Tracker) -> str:
    """Write classifier and encoder; returns the encoder's sha256."""
    config, card, train = opened.config, opened.card, opened.images.train
    out, start = config.out, config.encoder
    source, part = origin(train.source)
    provenance = Provenance(
        stage="finetune",
        task=opened.task,
        source=source,
        **({} if part is None else {"part": part}),
        levels=train.levels,
        steps=fit.training.best_step,
        seed=config.seed,
        started_from="scratch" if start.from_scratch else str(start.path or start.name),
        group=config.wandb.group,
    )
    if card is not None:
        provenance = provenance.starting(str(start.path), card.sha256, card.provenance)
    export_classifier(fit.classifier, out / CLASSIFIER, provenance, temperature)
    artifact = f"encoder-{out.name}"
    sha256 = export_encoder(opened.encoder, out / ENCODER, provenance.model_copy(update={"artifact": artifact}))
    known = provenance.model_dump(mode="json")
    tracker.artifact(f"classifier-{out.name}", out / CLASSIFIER, "classifier", known)
    tracker.artifact(artifact, out / ENCODER, "encoder", {"sha256": sha256, **known})
    return sha256


def _test(opened: Opened, fit: _Fit, temperature: float, sha256: str, here: World) -> Tested:
    """Test the network once; ``sha256`` is that of its encoder."""
    config, task, names = opened.config, opened.task, opened.train_labels.names
    found = predict(fit.classifier, opened.test, config, here, temperature)
    n_val, right = len(fit.validation.rows), found.answers == found.labels
    result = FinetuneResult(
        task=task,
        classes=names,
        data=opened.images.pair.facts,
        protocol=_protocol(config),
        start="scratch" if config.encoder.from_scratch else str(config.encoder.path or config.encoder.name),
        encoder_sha256=sha256,
        tuned=Tuned(
            choice=fit.choice(f"held-out {config.validation:.0%}"),
            n_train=fit.n_train,
            n_val=n_val,
            test=score(found.answers, found.labels, len(names)),
            seconds=round(fit.training.seconds, 1),
        ),
        start_converged=fit.start_converged,
        calibration=calibrated(temperature, n_val, found.confidence, found.calibrated, right),
        made=opened.made,
        checks=tuned_checks(None),
    )
    result = result.model_copy(update={"notes": finetune_notes(result)})
    said = ({"tuned": each} for each in (found.answers, found.confidence, found.calibrated))
    return Tested(result, Predictions.of(opened.images.test, found.index, task, names, found.labels, *said))


def _protocol(config: FinetuneConfig) -> str:
    trained = "whole encoder" if config.freeze is None else f"encoder but for its first layers (freeze={config.freeze})"
    head = "new head" if config.head_start == "random" else "head that started at its linear probe"
    return (
        f"{trained} trained with a {head} on {1 - config.validation:.0%} of the training set; the step with "
        f"the best accuracy on the held-out {config.validation:.0%} (stratified, seed {config.seed}) was kept; tested "
        "once; ci95: Wilson, and of differences the paired bootstrap; p_value: McNemar's exact test"
    )


def _log_baselines(config: FinetuneConfig, result: FinetuneResult) -> None:
    """Add to the W&B run what is known only after the baselines: it continues, as a resumed run does."""
    settings = config.model_dump(mode="json")
    tracker = Tracker(config.wandb, config.out, job_type=config.stage, settings=settings)
    tracker.table("compared", Line._fields, finetune_lines(result))
    tracker.finish()

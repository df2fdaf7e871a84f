"""The fine-tuning stage: the whole encoder with a new head, in the same loop as pretraining."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import load_config
from common.data import Batch, Images, Loader, in_order
from common.encoders import Classifier, build_encoder, layer_decay_groups
from common.encoders.base import Encoder
from common.encoders.folder import export_classifier, export_encoder, load_encoder, random_twin, read_encoder_card
from common.engine.learner import decayed_names
from common.engine.loop import Periodic, Trained, train
from common.engine.schedule import seed_step
from common.errors import check_all
from common.files import write_json
from common.machine.distributed import World, world
from common.machine.precision import autocast, resolve_precision
from common.pixels import to_float
from common.runs.folder import Run, check_run_folder, open_run, with_group
from finetune.config import FinetuneConfig, ProbeConfig
from finetune.data import Sources, check_enough, hold_out, load_labelled, open_sources
from finetune.features import layer_shapes
from finetune.metrics import accuracy, confusion_matrix, per_class_accuracy, wilson_interval
from finetune.probe import probe
from finetune.table import percent

log = logging.getLogger("retouch")

Result = dict[str, Any]


class Split(NamedTuple):
    """Some rows of the images, with their labels."""

    images: Images
    rows: Tensor  # int64 [n]
    labels: Tensor  # int64 [n]


class Supervised(nn.Module):
    """Cross-entropy of a classifier, as the loop wants it."""

    def __init__(self, classifier: Classifier, label_smoothing: float) -> None:
        super().__init__()
        self.classifier, self.label_smoothing = classifier, label_smoothing

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Images ``[B 3 S S]`` in [0, 1] and labels ``[B]`` -> the named loss."""
        images, labels = batch
        logits = self.classifier(images).float()
        return {"cross_entropy": F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)}


def command(path: str, overrides: Sequence[str]) -> Result:
    """``retouch finetune CONFIG [key.sub=value ...]``."""
    return finetune(load_config(FinetuneConfig, path, overrides))


def finetune(config: FinetuneConfig) -> Result:
    """Train encoder and head, keep the step that is best on the validation split, test it once.

    Writes ``classifier/``, ``encoder/`` and ``results.json``; beside an exported encoder's result stand its linear
    probe and the same network from scratch, each in a folder of its own. Stopped early by a signal, it returns ``{}``,
    and so do all processes but the first.

    Raises:
        UserError: encoder, data or run folder cannot serve; nothing has been written then.
    """
    with world() as here:  # once: a group of processes that was left is not joined again
        result = _run(config, here)
        if result is None:
            return {}

        # what it is compared with, each a run of its own, in the same group
        config = _with_group(config)
        baselines: dict[str, Result] = {}
        if config.encoder.path is not None and not config.encoder.from_scratch:
            if config.compare.from_scratch:
                scratch = _run(_from_scratch(config), here)
                if scratch is None:
                    return {}
                if here.is_main:
                    baselines["from_scratch"] = _brief(scratch, "steps", "best_step")
            if config.compare.linear_probe and here.size == 1:
                baselines["linear_probe"] = _brief(_linear_probe(config), "layer", "pooling", "l2")
            elif config.compare.linear_probe and here.is_main:
                log.info(
                    "compare.linear_probe: left out, since a probe runs in one process: start retouch probe for it"
                )
        if not here.is_main:
            return {}
        result["baselines"] = baselines
        write_json(config.out / "results.json", result)
        _tell(config, result)
        return result


def _run(config: FinetuneConfig, here: World) -> Result | None:
    """One training and its test, in ``config.out``: None when stopped, ``{}`` in processes other than the first."""
    # everything a user can get wrong is looked at before anything is written
    encoder, sources, _ = check_all(lambda: _start(config), lambda: _open(config), lambda: check_run_folder(config))
    config = _with_group(config)
    with open_run(config, here) as run:
        start = config.encoder
        if start.path is not None and not start.from_scratch:
            card = read_encoder_card(start.path)
            run.tracker.use_encoder(start.path, card.sha256, card.provenance.get("artifact"))
        result = _train_and_test(config, encoder, sources, run)
        if result and here.is_main:
            write_json(config.out / "results.json", result)
            _log(config, result, run)
        return result


def _with_group(config: FinetuneConfig) -> FinetuneConfig:
    path = config.encoder.path
    return with_group(config, None if path is None else read_encoder_card(path).provenance)


def _start(config: FinetuneConfig) -> Encoder:
    """The exported encoder, or the same or a named architecture at random initialisation.

    Raises:
        UserError: there is no such encoder, or it refuses images of this size.
    """
    start = config.encoder
    if start.path is None:
        seed_step(config.seed, 0)
        encoder = build_encoder(start, image_size=start.image_size or config.data.image_size or 32)
    else:
        encoder = random_twin(start.path, config.seed) if start.from_scratch else load_encoder(start.path)
    layer_shapes(encoder, config.data.image_size or encoder.image_size)
    return encoder


def _open(config: FinetuneConfig) -> Sources:
    sources = open_sources(config.data, config.seed)
    check_enough(sources, config.data, config.validation, config.seed)
    return sources


def _train_and_test(config: FinetuneConfig, encoder: Encoder, sources: Sources, run: Run) -> Result | None:
    here, data = run.world, config.data
    device = here.device

    # data
    images = load_labelled(sources, data, data.image_size or encoder.image_size, config.seed)
    [(task, (train_labels, test_labels))] = images.tasks.items()
    fit, held = hold_out(train_labels, config.validation, config.seed)
    validation = Split(images.train, held, train_labels.values[held])
    loader = Loader(
        _only(images.train, fit),
        labels=train_labels.values[fit],
        batch_size=config.batch_size,
        seed=config.seed,
        rank=here.rank,
        world=here.size,
        workers=data.workers,
    )

    # model
    seed_step(config.seed, 1)  # the new head starts the same in every process
    classifier = Classifier(encoder, train_labels.names)
    model = Supervised(classifier, config.label_smoothing).to(device)
    log.info("%s: %d classes, %d to train on, %d to choose on", task, len(train_labels.names), len(fit), len(held))

    def prepare(batch: Batch) -> tuple[Tensor, Tensor]:
        assert batch.labels is not None
        pixels = config.augment(batch.images.to(device, non_blocking=True))  # uint8 0..255 -> float 0..1
        return pixels, batch.labels.to(device, non_blocking=True)

    def evaluate(step: int) -> dict[str, float]:
        answers, labels = _predict(classifier, validation, config, here)
        return {"val/accuracy": float(accuracy(answers, labels))}

    # train, keeping the weights that validation likes best
    training = train(
        model,
        prepare,
        loader,
        config,
        run,
        title=f"finetune {task}",
        groups=decayed_groups(model, config),
        periodic=[Periodic(config.evaluate_every, evaluate, select="val/accuracy")],
    )
    if not training.finished:
        return None
    if not here.is_main:
        return {}

    # test once, export
    test = Split(images.test, torch.arange(len(images.test)), test_labels.values)
    answers, labels = _predict(classifier, test, config, here)
    provenance = {
        "stage": "finetune",
        "task": task,
        "source": sources.train.spec,
        "steps": training.best_step,
        "seed": config.seed,
        "started_from": "scratch" if config.encoder.from_scratch else str(config.encoder.path),
        "group": config.wandb.group,
    }
    export_classifier(classifier, config.out / "classifier", provenance)
    artifact = f"encoder-{config.out.name}"
    sha256 = export_encoder(encoder, config.out / "encoder", {**provenance, "artifact": artifact})
    run.tracker.artifact(f"classifier-{config.out.name}", config.out / "classifier", "classifier", provenance)
    run.tracker.artifact(artifact, config.out / "encoder", "encoder", {"sha256": sha256, **provenance})
    return _result(
        config, task, training, answers, labels, train_labels.names, len(fit), len(held), sha256, images.duplicates
    )


def decayed_groups(model: Supervised, config: FinetuneConfig) -> list[dict[str, Any]]:
    """AdamW groups with layer-wise learning-rate decay (Bao et al. 2022): ``layer_decay ** (deepest - depth)``."""
    named = {name: p for name, p in model.classifier.named_parameters() if p.requires_grad}
    depths = dict(layer_decay_groups(model.classifier))
    deepest, decayed = max(depths.values()), decayed_names(model.classifier)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in named.items():
        decays = name in decayed
        group = groups.setdefault(
            (depths[name], decays),
            {
                "params": [],
                "lr_scale": config.layer_decay ** (deepest - depths[name]),
                "weight_decay": config.optim.weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def _only(images: Images, rows: Tensor) -> Images:
    """Some rows of the images, as images of their own."""
    pixels = None if images.pixels is None else images.pixels[rows]
    return Images(images.source, images.size, images.kept[rows], pixels)


def _predict(classifier: Classifier, split: Split, config: FinetuneConfig, here: World) -> tuple[Tensor, Tensor]:
    """The class of each readable row of the split, and its label: int64 ``[n]`` each, on the CPU."""
    training = classifier.training
    classifier.eval()
    dtype = resolve_precision(config.precision, here.device)
    answers, index = [], []
    with torch.inference_mode(), autocast(here.device, dtype):
        for batch in in_order(_only(split.images, split.rows), config.batch_size, config.data.workers):
            answers.append(classifier(to_float(batch.images.to(here.device))).argmax(1).cpu())
            index.append(batch.index)
    classifier.train(training)
    return torch.cat(answers), split.labels[torch.cat(index)]


def _result(
    config: FinetuneConfig,
    task: str,
    training: Trained,
    answers: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    n_train: int,
    n_val: int,
    sha256: str,
    duplicates: int,
) -> Result:
    right, total = int((answers == labels).sum()), len(answers)
    confusion = confusion_matrix(answers, labels, len(classes))
    return {
        "task": task,
        "protocol": (
            f"whole encoder trained with a new head on {1 - config.validation:.0%} of the training set; the step with "
            f"the best accuracy on the other {config.validation:.0%} (stratified, seed {config.seed}) was kept; tested "
            "once; ci95: Wilson"
        ),
        "start": "scratch" if config.encoder.from_scratch else str(config.encoder.path or config.encoder.name),
        "encoder_sha256": sha256,
        "n_train": n_train,
        "n_val": n_val,
        "n_test": total,
        "steps": training.steps,
        "best_step": training.best_step,
        "val_accuracy": training.best,
        "test_accuracy": right / total,
        "ci95": list(wilson_interval(right, total)),
        "per_class_accuracy": per_class_accuracy(confusion),
        "confusion": confusion.tolist(),
        "classes": list(classes),
        "duplicates": duplicates,
        "baselines": {},
        "seconds": round(training.seconds, 1),
    }


def _from_scratch(config: FinetuneConfig) -> FinetuneConfig:
    """The same recipe without what pretraining learned; all layers at one rate, since none has anything to keep."""
    started = (config.out / "from_scratch" / "config.yaml").exists()
    return config.model_copy(
        update={
            "out": config.out / "from_scratch",
            "encoder": config.encoder.model_copy(update={"from_scratch": True}),
            "layer_decay": 1.0,
            "resume": config.resume and started,
            "overwrite": config.overwrite,
            "wandb": config.wandb.model_copy(update={"name": f"{config.wandb.name or config.out.name}-from-scratch"}),
        }
    )


def _linear_probe(config: FinetuneConfig) -> Result:
    """The frozen encoder's result on the same images and the same task."""
    assert config.encoder.path is not None
    folder = config.out / "linear_probe"
    report = probe(
        ProbeConfig.model_validate(
            {
                "out": folder,
                "seed": config.seed,
                "encoder": config.encoder.path,
                "data": config.data.model_dump(),
                "precision": config.precision,
                "purposes": False,  # one number is compared; the rest belongs to a probe of its own
                "overwrite": (folder / "config.yaml").exists(),
                "wandb": config.wandb.model_copy(
                    update={"name": f"{config.wandb.name or config.out.name}-probe"}
                ).model_dump(),
            }
        )
    )
    result: Result = report["results"][0]
    return result


def _brief(result: Result, *chosen: str) -> Result:
    """What a comparison needs of a result, and what was chosen on validation."""
    keys = ("test_accuracy", "ci95", "val_accuracy", *chosen, "n_test", "seconds")
    return {key: result[key] for key in keys}


def _log(config: FinetuneConfig, result: Result, run: Run) -> None:
    """To ``metrics.jsonl`` and W&B."""
    task, (low, high) = result["task"], result["ci95"]
    numbers = {f"{task}/{key}": result[key] for key in ("test_accuracy", "val_accuracy")}
    # a step of its own: a finished run that is resumed cuts it back, and tests again
    run.log(numbers, result["steps"] + 1)
    run.tracker.summary(
        {**numbers, "best_step": result["best_step"], "trained_encoder_sha256": result["encoder_sha256"]}
    )
    columns = ("task", "method", "test_accuracy", "low", "high", "chosen", "n_test")
    cells = (task, _method(config), result["test_accuracy"], low, high, _chosen(result), result["n_test"])
    run.tracker.table("results", columns, [cells])


def _method(config: FinetuneConfig) -> str:
    return "trained from scratch" if config.encoder.from_scratch else "fine-tuned"


def _chosen(result: Result) -> str:
    """What validation chose."""
    if "l2" in result:
        return f"layer {result['layer']}, {result['pooling']}, l2 {result['l2']:g}"
    return f"step {result['best_step']:,} of {result['steps']:,}"


def comparison_table(config: FinetuneConfig, result: Result) -> Table:
    """Fine-tuned, linear probe, from scratch: test accuracy in percent with its 95% interval, and what was chosen."""
    names = {"linear_probe": "linear probe of the frozen encoder", "from_scratch": "same network from scratch"}
    baselines = {name: result["baselines"][key] for key, name in names.items() if key in result["baselines"]}
    table = Table(title="Test accuracy, % [95% Wilson interval]", title_justify="left")
    for column in ("method", f"{result['task']}\n{result['n_test']:,} test images", "chosen on validation"):
        table.add_column(column)
    for name, row in {_method(config): result, **baselines}.items():
        table.add_row(name, escape(percent(row["test_accuracy"], row["ci95"])), _chosen(row))
    return table


def _tell(config: FinetuneConfig, result: Result) -> None:
    console = Console(width=None if Console().is_terminal else 100)
    console.print(comparison_table(config, result))
    log.info("classifier written to %s, results to %s", config.out / "classifier", config.out / "results.json")

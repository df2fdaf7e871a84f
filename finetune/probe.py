"""The probe stage: what a frozen encoder's features are worth, said honestly.

Everything is chosen on a validation split of the training set; the test set is looked at once per reported number.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from common.config import load_config
from common.corruptions import Corruption
from common.encoders.base import Encoder
from common.encoders.folder import EncoderCard, load_encoder, read_encoder_card
from common.errors import UserError, check_all
from common.files import write_json
from common.machine.distributed import world
from common.machine.precision import resolve_precision
from common.runs.folder import Run, check_run_folder, open_run, with_group
from finetune.baselines import Pixels, untrained
from finetune.config import NearestConfig, ProbeConfig
from finetune.data import LabelledData, LabelledImages, Sources, check_enough, load_labelled, open_sources
from finetune.features import Extraction, Features, cache_folder, cached_features, extract, feature_key, layer_shapes
from finetune.metrics import confusion_matrix, per_class_accuracy, wilson_interval
from finetune.pooling import Part, Space, build_spaces
from finetune.properties import measure_purposes
from finetune.select import (
    Candidates,
    Choice,
    LinearProbe,
    Task,
    build_task,
    choose_linear,
    choose_nearest,
    predict_nearest,
    refit_linear,
)
from finetune.table import damage_table, data_names, purposes_table, results_table, table_columns, table_rows

log = logging.getLogger("retouch")

Result = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """One thing measured: the encoder, or a baseline."""

    name: str
    encoder: Encoder
    sha256: str | None  # None: not worth keeping its features
    spaces: list[Space]

    @property
    def parts(self) -> list[Part]:
        return sorted({part for space in self.spaces for part in space.parts})


@dataclass(frozen=True)
class Measured:
    """A subject's result on one task, and the classifier behind it."""

    result: Result
    linear: LinearProbe


def command(path: str, overrides: Sequence[str]) -> Result:
    """``retouch probe CONFIG [key.sub=value ...]``."""
    return probe(load_config(ProbeConfig, path, overrides))


def probe(config: ProbeConfig, *, show: bool = True) -> Result:
    """Measure a frozen encoder by linear probes and nearest neighbours, beside baselines; write ``results.json``.

    Args:
        show: print the tables; a caller that gathers several probes prints one of its own.

    Returns:
        What ``results.json`` holds: ``{"results": [one a task and data set], "notes": [...]}``.

    Raises:
        UserError: encoder, data or run folder cannot serve; nothing has been written then.
    """
    with world() as here:
        # everything a user can get wrong is looked at before anything is written
        all_data = [config.data, *config.more_data]
        if here.size > 1:
            raise UserError("probe runs in one process: start it without torchrun")
        _, (card, encoder), *sources = check_all(
            lambda: check_run_folder(config),
            lambda: (read_encoder_card(config.encoder), load_encoder(config.encoder)),
            *(lambda data=data: _open(config, data) for data in all_data),
        )
        config = with_group(config, card.provenance)
        spaces = [_spaces(config, data, encoder) for data in all_data]
        precision = resolve_precision(config.precision, here.device)

        with open_run(config, here) as run:
            run.tracker.use_encoder(config.encoder, card.sha256, card.provenance.get("artifact"))
            results: list[Result] = []
            for data, opened, choices in zip(all_data, sources, spaces, strict=True):
                how = Extraction(here.device, precision, config.batch_size, data.workers)
                results += _probe_data(config, data, opened, choices, encoder, card, how)
            report = {"results": results, "notes": _notes(config, results)}
            write_json(run.folder / "results.json", report)
            if show:
                _print(run, report)
            _log(run, report)
            return report


def _probe_data(
    config: ProbeConfig,
    data: LabelledData,
    sources: Sources,
    spaces: list[Space],
    encoder: Encoder,
    card: EncoderCard,
    how: Extraction,
) -> list[Result]:
    """One result a task of this data set."""
    # data
    images = load_labelled(sources, data, data.image_size or encoder.image_size, config.seed)

    # the encoder itself
    measured = _measure(config, data, Subject("encoder", encoder, card.sha256, spaces), images, how)
    damaged = _damaged(config, measured, encoder, images, how)
    purposes = measure_purposes(encoder, images.test, how, config.seed) if config.purposes else None

    # what it is measured against
    baselines: dict[str, dict[str, Measured]] = {}
    if config.baselines.random_init:
        twin = untrained(config.encoder, config.seed, images.train, how.device)
        identity = f"untrained {card.sha256} seed {config.seed} torch {torch.__version__} {_data_identity(images)}"
        baselines["random_init"] = _measure(config, data, Subject("random init", twin, identity, spaces), images, how)
    if config.baselines.pixels:
        pixels = Pixels(images.train.size)
        flat, _ = build_spaces(pixels.layer_shapes, [0], ["flatten"], max_width=1 << 30)
        baselines["pixels"] = _measure(config, data, Subject("pixels", pixels, None, flat), images, how)

    results = []
    for name, main in measured.items():
        results.append(
            {
                "task": name,
                "data": {"train": sources.train.spec, "test": sources.test.spec, "image_size": images.train.size},
                "protocol": _protocol(config),
                "encoder": {
                    "path": str(config.encoder),
                    "name": card.name,
                    "view": card.view,
                    "pretext": _pretext(card),
                },
                "encoder_sha256": card.sha256,
                **main.result,
                "baselines": {kind: of_task[name].result for kind, of_task in baselines.items()},
                "damaged": damaged[name],
                **({"purposes": purposes | {"abstract": main.result["test_accuracy"]}} if purposes else {}),
                "duplicates": images.duplicates,
            }
        )
    return results


def _measure(
    config: ProbeConfig, data: LabelledData, subject: Subject, images: LabelledImages, how: Extraction
) -> dict[str, Measured]:
    """Features once, then for every task: choose on validation, refit on all of train, test once."""
    train = _features(config, subject, images, "train", data.limit, how)
    test = _features(config, subject, images, "test", data.test_limit, how)
    candidates = Candidates(train, subject.spaces, how.device)
    return {
        name: _measure_task(config, subject.name, _task(config, images, name, train, test), candidates, test)
        for name in images.tasks
    }


def _measure_task(config: ProbeConfig, subject: str, task: Task, candidates: Candidates, test: Features) -> Measured:
    started = time.monotonic()
    choice = choose_linear(candidates, task, config.probe)
    linear = refit_linear(candidates, task, choice, config.probe)
    scores = _scores(linear.predict(test), task)
    nearest = None if config.knn is None else _nearest(config, config.knn, task, candidates, test)
    seconds = time.monotonic() - started
    found = f"{scores['test_accuracy']:.2%} (layer {choice.space.layer}, {choice.space.pooling}, l2 {choice.value:g})"
    if nearest is not None:
        found += ", k-NN {test_accuracy:.2%} (layer {layer}, {pooling}, k {k})".format(**nearest)
    log.info("%s, %s: linear %s, in %.1f s", subject, task.name, found, seconds)
    result = {
        **_chosen(choice),
        "l2": choice.value,
        "l2_at_end_of_grid": choice.at_end,
        "n_train": len(task.train),
        "n_val": len(task.validation),
        "n_test": len(task.test),
        **scores,
        "classes": list(task.classes),
        "knn": nearest,
        "seconds": round(seconds, 2),
    }
    return Measured(result, linear)


def _nearest(config: ProbeConfig, knn: NearestConfig, task: Task, candidates: Candidates, test: Features) -> Result:
    """Nearest neighbours, chosen like the linear probe."""
    choice = choose_nearest(candidates, task, knn, config.probe.finalists)
    scores = _scores(predict_nearest(candidates, test, task, choice, knn), task)
    return {**_chosen(choice), "k": int(choice.value), "temperature": knn.temperature, **scores}


def _damaged(
    config: ProbeConfig, measured: dict[str, Measured], encoder: Encoder, images: LabelledImages, how: Extraction
) -> dict[str, dict[str, Result]]:
    """The chosen classifiers, as they stand, on damaged test images: for each task, results by damage."""
    parts = sorted({part for one in measured.values() for part in one.linear.space.parts})
    results: dict[str, dict[str, Result]] = {name: {} for name in measured}
    for corruption in config.damage:
        features = extract(encoder, images.test, parts, how, damage=corruption, seed=config.seed)
        for name, one in measured.items():
            labels = images.tasks[name][1].values[features.index]
            results[name][damage_name(corruption)] = _accuracy(one.linear.predict(features), labels)
    return results


def damage_name(corruption: Corruption) -> str:
    """``gaussian sigma=0.1``: the kind, and what differs from its defaults."""
    settings = corruption.model_dump(exclude_defaults=True, exclude={"kind"})
    return " ".join([corruption.kind, *(f"{key}={value}" for key, value in settings.items())])


def _open(config: ProbeConfig, data: LabelledData) -> Sources:
    sources = open_sources(data, config.seed)
    check_enough(sources, data, config.probe.validation, config.seed)
    return sources


def _spaces(config: ProbeConfig, data: LabelledData, encoder: Encoder) -> list[Space]:
    shapes = layer_shapes(encoder, data.image_size or encoder.image_size)
    spaces, left_out = build_spaces(shapes, config.probe.layers, config.probe.poolings, config.probe.max_width)
    if left_out:
        log.info("left out of the search: %s", "; ".join(left_out))
    return spaces


def _features(
    config: ProbeConfig, subject: Subject, images: LabelledImages, split: str, limit: int | None, how: Extraction
) -> Features:
    chosen = images.train if split == "train" else images.test
    if subject.sha256 is None or not config.feature_cache:
        return extract(subject.encoder, chosen, subject.parts, how)
    key = feature_key(subject.encoder, subject.sha256, chosen, split, limit, subject.parts, how)
    return cached_features(cache_folder(config.cache_folder), key, subject.encoder, chosen, subject.parts, how)


def _task(config: ProbeConfig, images: LabelledImages, name: str, train: Features, test: Features) -> Task:
    """Labels follow the features' rows."""
    train_labels, test_labels = images.tasks[name]
    return build_task(
        train_labels._replace(values=train_labels.values[train.index]),
        test_labels._replace(values=test_labels.values[test.index]),
        config.probe.validation,
        config.probe.search_images,
        config.seed,
    )


def _chosen(choice: Choice) -> Result:
    return {
        "layer": choice.space.layer,
        "pooling": choice.space.pooling,
        "features": choice.space.width,
        "val_accuracy": choice.val_accuracy,
    }


def _scores(predictions: Tensor, task: Task) -> Result:
    confusion = confusion_matrix(predictions, task.test, len(task.classes))
    return {
        **_accuracy(predictions, task.test),
        "per_class_accuracy": per_class_accuracy(confusion),
        "confusion": confusion.tolist(),
    }


def _accuracy(predictions: Tensor, labels: Tensor) -> Result:
    right, total = int((predictions == labels).sum()), len(labels)
    return {"test_accuracy": right / total, "ci95": list(wilson_interval(right, total))}


def _protocol(config: ProbeConfig) -> str:
    search, finalists = config.probe.search_images, config.probe.finalists
    first = (
        ""
        if search is None
        else f" (layers and poolings first compared on at most {search:,} training images; the best {finalists} of "
        "them and the widest then on all)"
    )
    return (
        f"frozen encoder; features standardised by training statistics; {config.probe.kind} probe; layer, pooling and "
        f"strength chosen on {config.probe.validation:.0%} of the training set, stratified, seed {config.seed}{first}; "
        "refitted on all of it; tested once; ci95: Wilson"
    )


def _pretext(card: EncoderCard) -> str | None:
    pretext = card.provenance.get("pretext")
    kind = pretext.get("kind") if isinstance(pretext, dict) else pretext
    return None if kind is None else str(kind)


def _data_identity(images: LabelledImages) -> str:
    return f"{images.train.source.fingerprint} {images.train.size} {len(images.train)}"


def _notes(config: ProbeConfig, results: list[Result]) -> list[str]:
    notes = []
    if results[0]["encoder"]["view"] == "gray":
        notes.append(
            "this encoder and its random initialisation saw gray only: colour is hidden from them, not from pixels"
        )
    at_end = [result["task"] for result in results if result["l2_at_end_of_grid"]]
    if at_end:
        low, high = min(config.probe.strengths), max(config.probe.strengths)
        notes.append(
            f"the chosen strength is an end of the grid for {', '.join(at_end)}: widen probe.l2, which is a list and "
            f"now goes from {low:g} to {high:g}"
        )
    for result in results:
        if result["duplicates"]:
            notes.append(
                f"{result['task']}: {result['duplicates']} of {result['n_test']} test images are also training images"
            )
    return list(dict.fromkeys(notes))


def _print(run: Run, report: Result) -> None:
    results = report["results"]
    console = Console(width=None if Console().is_terminal else 100)
    console.print(results_table(results))
    if results[0]["damaged"]:
        console.print(damage_table(results))
    if any("purposes" in result for result in results):
        console.print(purposes_table(results))
    for note in report["notes"]:
        console.print(f"  {note}", highlight=False)
    console.print(f"  all of it: {run.folder / 'results.json'}", highlight=False)


def _log(run: Run, report: Result) -> None:
    """To ``metrics.jsonl`` and W&B."""
    results = report["results"]
    # several data sets can have a task of the same name
    prefixes = [
        f"{data}/{r['task']}" if data else r["task"] for data, r in zip(data_names(results), results, strict=True)
    ]
    named = [
        {f"{prefix}/{key}": value for key, value in _numbers(result).items()}
        for prefix, result in zip(prefixes, results, strict=True)
    ]
    for step, numbers in enumerate(named):
        run.log(numbers, step)
    run.tracker.summary({key: value for numbers in named for key, value in numbers.items()})
    run.tracker.table("results", table_columns(), table_rows(results))


def _numbers(result: Result) -> dict[str, float]:
    numbers = {
        "test_accuracy": result["test_accuracy"],
        "val_accuracy": result["val_accuracy"],
    }
    if result["knn"] is not None:
        numbers["knn_test_accuracy"] = result["knn"]["test_accuracy"]
    for kind, baseline in result["baselines"].items():
        numbers[f"{kind}_test_accuracy"] = baseline["test_accuracy"]
    if "purposes" in result:
        for key, value in result["purposes"]["compact"].items():
            numbers[f"compact_{key}"] = value
        for name, value in result["purposes"]["invariant"].items():
            if value is not None:
                numbers[f"invariant_{name}"] = value
    return numbers

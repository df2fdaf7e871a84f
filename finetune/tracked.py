"""What W&B gets of results besides numbers: the tables and curves of the report, and images with their answers.

Everything is a ``Sheet`` (a table), ``Curves`` or a ``Matrix``; ``send`` hands them to a run's tracker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from common.data import Images
from common.pixels import to_pil
from common.runs.tracking import Cell, Tracker
from finetune.embedding import Embedding
from finetune.lines import Line, finetune_lines, probe_lines, subject_name, task_names
from finetune.predictions import Predictions
from finetune.records import DataFacts, setting_text
from finetune.results import FinetuneResult, ProbeReport, Score
from finetune.worth import LabelEfficiency

ERRORS, EMBEDDED = 32, 200  # images of a task's worst errors, and of the embedding
SIDE = 96  # pixels per side of such an image, at most
MOST_CLASSES = 100  # of a confusion matrix: it has a row for each pair of them


class Sheet(NamedTuple):
    """A table."""

    name: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]


class Curves(NamedTuple):
    """Lines over one axis, each with its own points."""

    name: str
    axis: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


class Matrix(NamedTuple):
    """A confusion matrix: counts ``[true answer]``."""

    name: str
    classes: tuple[str, ...]
    counts: Sequence[Sequence[int]]


Shown = Sheet | Curves | Matrix


def send(tracker: Tracker, found: Iterable[Shown]) -> None:
    """Log all of it; what is empty is left out."""
    for one in found:
        match one:
            case Sheet(rows=rows) if rows:
                tracker.table(*one)
            case Curves(lines=lines) if lines:
                tracker.curves(*one)
            case Matrix():
                tracker.confusion(*one)


# ---- results


def probe_shown(report: ProbeReport) -> Iterator[Shown]:
    """Of a probe: results, choices, curves over labels, damage, confusion, data, several labels, and masks."""
    named = list(zip(task_names(report.results), report.results, strict=True))
    yield Sheet("results", Line._fields, probe_lines(report.results))
    yield Sheet(
        "layers",
        ("task", "layer", "pooling", "features", "setting", "val_accuracy", "fitted_on", "chosen"),
        [
            (
                *(task, one.layer, one.pooling, one.features, setting_text(one.setting), one.val_accuracy),
                *(one.fitted_on, (one.layer, one.pooling) == (choice.layer, choice.pooling)),
            )
            for task, result in named
            for choice in [result.linear.choice]
            for one in choice.spaces
        ],
    )
    yield Sheet(
        "damage",
        ("task", "damage", "test_accuracy", "low", "high"),
        [
            (task, damage, one.accuracy, *one.ci95)
            for task, result in named
            for damage, one in result.linear.damaged.items()
        ],
    )
    for task, result in named:
        if result.label_efficiency is not None:
            yield label_curves(task, result.encoder.title, result.label_efficiency)
        yield from confusion_shown(task, result.classes, result.linear.test)
    yield from _labels(report)
    yield from _masks(report)
    facts = {task: result.data for task, result in named} | {many.task: many.data for many in report.multilabel}
    yield from data_shown(facts | {masks.task: masks.data for masks in report.dense})


def finetune_shown(result: FinetuneResult) -> Iterator[Shown]:
    """Of a fine-tuned network: results with its baselines as far as they are known, confusion, data."""
    yield Sheet("results", Line._fields, finetune_lines(result))
    yield from confusion_shown(result.task, result.classes, result.tuned.test)
    yield from data_shown({result.task: result.data})


def label_curves(task: str, encoder: str, found: LabelEfficiency) -> Curves:
    """Mean test accuracy of each subject over the number of labels."""
    lines = {
        subject_name(key, encoder): [(float(point.labels), point.accuracy) for point in curve]
        for key, curve in found.curves.items()
    }
    return Curves(f"label_efficiency/{task}", "labels", lines)


def data_shown(facts: Mapping[str, DataFacts]) -> Iterator[Shown]:
    """The data of each task, and the test images that other images repeat."""
    yield Sheet(
        "data",
        ("task", "train", "test", "image_size", "identical", "near_duplicates", "in_pretraining", "left_out"),
        [
            (
                *(task, one.train, one.test, one.image_size, one.duplicates),
                *(None if near is None else near.test_images for near in (one.near_duplicates, one.in_pretraining)),
                one.left_out,
            )
            for task, one in facts.items()
        ],
    )
    yield Sheet(
        "duplicates",
        ("task", "images", "test", "other", "alike"),
        [
            (task, images, pair.test, pair.other, pair.alike)
            for task, one in facts.items()
            for images, near in (("training", one.near_duplicates), ("pretraining", one.in_pretraining))
            if near is not None
            for pair in near.most_alike
        ],
    )


def confusion_shown(task: str, classes: tuple[str, ...], score: Score) -> Iterator[Matrix]:
    """The confusion matrix of a task, unless it has one class or too many."""
    if 1 < len(classes) <= MOST_CLASSES:
        yield Matrix(f"confusion/{task}", classes, score.confusion)


def _labels(report: ProbeReport) -> Iterator[Sheet]:
    """Of several labels per image: each subject, and each label."""
    each = [
        (many, subject_name(key, many.encoder.title), one)
        for many in report.multilabel
        for key, one in many.subjects.items()
    ]
    yield Sheet(
        "label_results",
        ("task", "method", "mean_average_precision", "low", "high", "macro_f1", "micro_f1", "layer", "pooling"),
        [
            (
                *(many.task, name, one.test.mean_average_precision, *one.test.ci95),
                *(one.test.macro_f1, one.test.micro_f1, one.choice.layer, one.choice.pooling),
            )
            for many, name, one in each
        ],
    )
    yield Sheet(
        "labels",
        ("task", "method", "label", "test_images", "average_precision"),
        [
            (many.task, name, label, count, found)
            for many, name, one in each
            for label, count, found in zip(many.labels, one.test.positives, one.test.per_label, strict=True)
        ],
    )


def _masks(report: ProbeReport) -> Iterator[Sheet]:
    """Of masks: each subject, and each class."""
    each = [
        (masks, subject_name(key, masks.encoder.title), one)
        for masks in report.dense
        for key, one in masks.subjects.items()
    ]
    yield Sheet(
        "mask_results",
        ("task", "method", "mean_iou", "low", "high", "pixel_accuracy", "layer", "cells"),
        [
            (
                *(masks.task, name, one.test.mean_iou, *one.test.ci95),
                *(one.test.pixel_accuracy, one.choice.layer, one.choice.pooling),
            )
            for masks, name, one in each
        ],
    )
    yield Sheet(
        "mask_classes",
        ("task", "method", "class", "test_images", "iou"),
        [
            (masks.task, name, label, count, found)
            for masks, name, one in each
            for label, count, found in zip(masks.classes, one.test.images, one.test.per_class, strict=True)
        ],
    )


# ---- images


def image_sheets(test: Images, embedding: Embedding, answered: Sequence[Predictions]) -> tuple[Sheet, Sheet]:
    """Of one test set and its tasks: the linear probe's errors, and where the encoder puts some of the images."""
    column = "encoder.linear"
    return errors_sheet(test, answered, column), embedding_sheet(test, embedding, answered, column)


def errors_sheet(test: Images, answered: Sequence[Predictions], column: str) -> Sheet:
    """The worst errors of one classifier on each task, the surest first."""
    at = _places(test.kept)
    rows = [row for one in answered for row in _errors(test, at, one, column)]
    return Sheet("errors", ("task", "image", "class", "answer", "sure", "path"), rows)


def _errors(test: Images, at: Mapping[int, int], one: Predictions, column: str) -> Iterator[tuple[Cell, ...]]:
    answers, sure = one.answers[column], one.sure(column)
    wrong = (answers != one.labels).nonzero().flatten()
    if sure is not None:
        wrong = wrong[sure[wrong].argsort(descending=True, stable=True)]
    for place in wrong[:ERRORS].tolist():
        names = (one.classes[int(which[place])] for which in (one.labels, answers))
        image = _image(test, at[int(one.rows[place])])
        yield (one.task, image, *names, None if sure is None else float(sure[place]), one.paths[place])


def embedding_sheet(test: Images, embedding: Embedding, answered: Sequence[Predictions], column: str) -> Sheet:
    """Some test images with their frozen features, of which W&B draws maps (2D projection)."""
    at, known = _places(test.kept), [_places(one.rows) for one in answered]
    rows = []
    for row, features in zip(embedding.rows[:EMBEDDED].tolist(), embedding.features.float().tolist(), strict=False):
        said = [
            one.classes[int(which[places[row]])]
            for one, places in zip(answered, known, strict=True)
            for which in (one.labels, one.answers[column])
        ]
        rows.append((_image(test, at[row]), *said, *features))
    heads = [f"{one.task} {what}" for one in answered for what in ("class", "answer")]
    numbers = range(embedding.features.shape[1])
    return Sheet("embedding", ("image", *heads, *map(str, numbers)), rows)


def _places(rows: Tensor) -> dict[int, int]:
    return {row: place for place, row in enumerate(rows.tolist())}


def _image(test: Images, place: int) -> Image.Image:
    [pixels] = test.rows(torch.tensor([place]))
    image = to_pil(pixels)
    image.thumbnail((SIDE, SIDE))
    return image

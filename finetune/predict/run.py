"""The predict stage: classes, labels or masks of new images, written part by part."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from pydantic import TypeAdapter
from torch import Tensor

from common.data import Images, Source, build_source, load_images
from common.data.images import Fetched, some_readable
from common.data.levels import levels_of_training
from common.encoders.head import Answers
from common.encoders.provenance import Provenance, warn_of_levels
from common.errors import UserError, check_all, one_line
from common.files import remove_folder, write_json
from common.machine.distributed import World, gather, world
from common.machine.layout import channels_last
from common.machine.precision import autocast, resolve_precision
from common.machine.room import check_pass_batch
from common.pixels import to_float
from common.runs.folder import Run, check_run_folder, numbered, open_run, with_group
from common.runs.logs import early_log
from common.runs.made import Made, made
from common.runs.results import RESULTS, SCHEMA_VERSION, Record, load_results
from finetune.applied import Applied
from finetune.classifier import open_classifier
from finetune.dense.cells import in_parts
from finetune.predict import parts
from finetune.predict.columns import ClassColumns, Columns, LabelColumns, MaskColumns
from finetune.predict.config import NewImages, PredictConfig
from finetune.predict.masks import MaskFiles
from finetune.predict.parts import PARTS, TABLES, join_parts, missing_parts, part_rows, write_part

log = logging.getLogger("retouch")

PLAN = "plan.json"  # in the folder of the parts: what they were computed from
SHOWN = 10  # classes in one line
LINE_SECONDS = 10.0  # between lines of progress on the console
THRESHOLD = 0.5  # a label that is more likely than not
NAMES: dict[Answers, str] = {"class": "classes", "labels": "labels", "mask": "classes"}
CLASSIFIER = "classifier"  # the key of a classifier among the inputs


class PredictResult(Record):
    """The table that ``retouch predict`` wrote, and what it holds: ``results.json``.

    It can be given wherever a path is expected: ``pandas.read_csv(retouch.predict(...))``.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    stage: Literal["predict"] = "predict"
    path: Path
    task: str
    answers: Answers = "class"
    classes: tuple[str, ...]  # or the labels
    numbers: tuple[int, ...] = ()  # of the classes in masks
    outside: int | None = None  # in masks: where the network sees nothing of an image
    rows: int  # images, the unreadable ones included
    unreadable: int  # of these: rows without an answer
    counts: dict[str, int]  # images by class or label; of masks, those that show it
    temperature: float  # of the calibrated probabilities
    threshold: float | None = None  # of several labels per image: the minimum probability of a label
    image_size: int
    made: Made  # its inputs are the sha256 of the classifier and the fingerprint of the images

    def __fspath__(self) -> str:
        return str(self.path)


def predict(config: PredictConfig) -> PredictResult:
    """Write ``OUT/predictions.csv``, one row per image; see ``finetune.predict.columns`` for its columns.

    A probe of masks also writes ``OUT/masks/``: a mask at the path of each image, as large as the image.

    Calibrated probabilities are those after the temperature, which was fitted on images that the classifier had not
    learned from. Several processes share the parts, and the first one joins them.

    Raises:
        UserError: the classifier, the images or the run folder cannot be used; nothing has been written.
    """
    with world() as here, numbered(config, here) as config, early_log() as early:
        # everything the user can get wrong is checked before anything is written
        with here.main_first():
            _, classifier, source = check_all(
                lambda: check_run_folder(config), lambda: _classifier(config), lambda: _open(config.data)
            )
        images = _load(config.data, classifier, source)
        check_pass_batch(config.batch_size, min(len(images), parts.PART_ROWS), images.size, here)
        some_readable(images, config.data.workers)
        config = with_group(config, classifier.provenance.group)
        with open_run(config, here, early) as run:
            result = _finished(config, classifier, images, run)
            if result is None:
                batches = _batches(config, images, here)  # workers decode while the plan is checked
                _check_plan(config, classifier, images, run)
                work = _work(config, classifier, images)
                _write_parts(config, work, batches, here)
                here.barrier()
                result = _join(config, work, run) if here.is_main else None
            found = gather(result)[0]
            assert found is not None
            return found


def _classifier(config: PredictConfig) -> Applied:
    """The classifier, for images of the size asked for.

    Raises:
        UserError: there is none, it does not support this size, or it lacks what is asked for.
    """
    classifier = open_classifier(config.run, config.task, config.encoder)
    check_all(
        lambda: _check_settings(config, classifier),
        lambda: _check_size(classifier, config.data.image_size or classifier.image_size),
    )
    return classifier


def _check_settings(config: PredictConfig, classifier: Applied) -> None:
    answers, problems = classifier.answers, []
    if config.top is not None and answers == "mask":
        problems.append("top applies to classifiers of classes or labels, but this one predicts masks: remove top")
    if config.threshold is not None and answers != "labels":
        given = "masks" if answers == "mask" else "one class"
        problems.append(
            f"threshold applies to classifiers of several labels, but this one predicts {given}: remove threshold"
        )
    if problems:
        raise UserError(*problems)


class Work(NamedTuple):
    """The images, and the answers that are written for them."""

    classifier: Applied
    images: Images
    columns: Columns
    masks: MaskFiles | None


def _work(config: PredictConfig, classifier: Applied, images: Images) -> Work:
    names, temperature = classifier.class_names, classifier.temperature
    match classifier.answers:
        case "class":
            return Work(classifier, images, ClassColumns(names, temperature, _top(config, classifier)), None)
        case "labels":
            columns = LabelColumns(names, temperature, _top(config, classifier), config.threshold or THRESHOLD)
            return Work(classifier, images, columns, None)
        case "mask":
            masks = MaskFiles.of(config.out, images, classifier.class_numbers)
            return Work(classifier, images, MaskColumns(names, temperature, masks.files), masks)


def _top(config: PredictConfig, classifier: Applied) -> int | None:
    """How many of the most likely classes or labels are written: no more than there are."""
    count = len(classifier.class_names)
    if config.top is None or config.top <= count:
        return config.top
    log.info("top=%d: the classifier has %d %s; all are written", config.top, count, NAMES[classifier.answers])
    return count


def _check_size(classifier: Applied, size: int) -> None:
    if size == classifier.image_size:
        return
    try:
        with torch.inference_mode():
            classifier(torch.full((1, 3, size, size), 0.5))
    except Exception as error:  # third-party networks raise anything; the user needs the reason
        raise UserError(
            f"data.image_size={size}: the classifier learned from images of {classifier.image_size} px and does not "
            f"support this size: {one_line(error).rstrip('.')}; remove data.image_size"
        ) from None
    log.warning(
        "data.image_size=%d, but the classifier learned from images of %d px; it sees objects at a scale it was not "
        "trained on, and its confidence is not calibrated there",
        *(size, classifier.image_size),
    )


def _open(data: NewImages) -> Source:
    return build_source(data.source, image=data.image, root=data.root, levels=data.levels, single=True)


def _load(data: NewImages, classifier: Applied, source: Source) -> Images:
    """The images; none is decoded yet. Values of more than 8 bits are scaled as in training."""
    size = data.image_size or classifier.image_size
    levels = levels_of_training(source, data.levels, classifier.levels)
    images = load_images(source, size, limit=data.limit, workers=data.workers, cache="none", check=False, levels=levels)
    warn_of_levels(Provenance(levels=classifier.levels), images.levels, source.spec)
    return images


# ---- an interrupted run that goes on


def _finished(config: PredictConfig, classifier: Applied, images: Images, run: Run) -> PredictResult | None:
    """The result of a run that had finished before.

    Raises:
        UserError: it used another classifier, or other images.
    """
    if not run.resumed or not (run.folder / RESULTS).is_file():
        return None
    found = load_results(run.folder, TypeAdapter(PredictResult), ("predict",))
    now = {"classifier": (CLASSIFIER, classifier.sha256), "images": ("data", images.fingerprint)}
    if changed := [name for name, (key, value) in now.items() if found.made.inputs.get(key) != value]:
        raise UserError(
            f"resume=true, but {run.folder} has finished, with {' and '.join(f'other {name}' for name in changed)}: "
            "set overwrite=true to start over, or choose another out"
        )
    if run.world.is_main and (run.folder / PARTS).is_dir():  # it was stopped before it removed them
        remove_folder(run.folder / PARTS)
    log.info("%s: finished before", run.folder)
    return found.model_copy(update={"path": run.folder / TABLES[config.format]})  # the folder may have moved


def _check_plan(config: PredictConfig, classifier: Applied, images: Images, run: Run) -> None:
    """Keep what the parts are computed from; refuse to add to parts that were computed from something else.

    Raises:
        UserError: names what has changed.
    """
    path = run.folder / PARTS / PLAN
    plan = {
        "the classifier": classifier.sha256,
        "its temperature": classifier.temperature,
        "the images": images.fingerprint,
        "precision": str(resolve_precision(config.precision, run.world.device)),
        "the size of a part": parts.PART_ROWS,
    }
    try:
        before = json.loads(path.read_text(encoding="utf-8")) if run.resumed else plan
    except FileNotFoundError:  # it was stopped before it began a part
        before = plan
    except (OSError, ValueError):
        before = {}
    before = before if isinstance(before, dict) else {}
    run.world.barrier()  # all have read it
    if changed := [name for name in plan if before.get(name) != plan[name]]:
        raise UserError(
            f"resume=true, but what {run.folder} was computed from is no longer the same: {', '.join(changed)}; start "
            "over with overwrite=true, or choose another out"
        )
    if run.world.is_main:
        write_json(path, plan)


# ---- the parts


def _batches(config: PredictConfig, images: Images, here: World) -> Iterator[tuple[int, Fetched]]:
    """This process's share of the parts that are missing: each batch, with the number of its part.

    Workers start to decode at once.
    """
    missing = gather(missing_parts(config.out, len(images)))[0]  # those that the first process sees
    mine = missing[here.rank :: here.size]

    def requests() -> Iterator[tuple[int, Tensor]]:
        for part in mine:
            yield from ((part, rows) for rows in torch.split(part_rows(part, len(images)), config.batch_size))

    workers = config.data.workers if len(images) > config.batch_size else 0  # a single batch has nothing to wait for
    fetched = images.batches((rows for _, rows in requests()), workers)
    # the parts come first: after the last, no further batch is waited for
    return zip((part for part, _ in requests()), fetched, strict=False)


def _write_parts(config: PredictConfig, work: Work, batches: Iterator[tuple[int, Fetched]], here: World) -> None:
    """Write the parts: workers decode the next images while the network computes and a thread writes the last part."""
    channels_last(work.classifier, here.device)
    precision = resolve_precision(config.precision, here.device)
    started, done = time.monotonic(), 0
    said = started
    with ThreadPoolExecutor(1, "retouch-parts") as thread:
        written: Future[None] | None = None
        for number, of_part in groupby(batches, key=itemgetter(0)):
            answered, came = [], []
            for _, batch in of_part:
                answered += _answers(work, batch, here.device, precision)
                came.append(batch.index)
            if written is not None:
                written.result()  # raises what its thread met
            written = thread.submit(_write_part, config.out, work, number, answered, torch.cat(came))
            done += len(part_rows(number, len(work.images)))
            now = time.monotonic()
            level = logging.INFO if now - said >= LINE_SECONDS else logging.DEBUG
            said = now if level == logging.INFO else said
            speed = done / max(now - started, 1e-9)
            log.log(level, "part %d: %s images here so far, %s images/s", number + 1, f"{done:,}", f"{speed:,.0f}")
        if written is not None:
            written.result()


def _write_part(out: Path, work: Work, number: int, answered: Sequence[pa.Table], came: Tensor) -> None:
    """Write a part, of which the images ``came`` ``[b]`` could be read and have the answers ``answered``."""
    rows = part_rows(number, len(work.images))
    readable = np.isin(rows.numpy(), came.numpy())
    write_part(out, number, work.columns.table(work.images.places(rows), readable, answered))


@torch.inference_mode()
def _answers(work: Work, batch: Fetched, device: torch.device, precision: torch.dtype) -> list[pa.Table]:
    """The rows of a batch; its masks are written now. Masks take much memory, so the network sees a batch in parts."""
    found = []
    per_image = 1 if work.masks is None else len(work.columns.names) * work.images.size**2
    for some in in_parts(len(batch.index), per_image):
        index = batch.index[some]
        with autocast(device, precision):
            logits = work.classifier(to_float(batch.images[some].to(device)))  # uint8 0..255 -> float 0..1
        wrong = (~logits.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        if wrong:
            raise UserError(
                f"the classifier gives NaN or infinite numbers for {work.images.where(int(index[wrong[0]]))}; set "
                "precision=float32"
            )
        found.append(work.columns.answers(logits, index))
        if work.masks is not None:
            work.masks.write(logits.argmax(1), index)
    return found


def _join(config: PredictConfig, work: Work, run: Run) -> PredictResult:
    """One file of all parts, and ``results.json``."""
    classifier, images, columns, masks = work
    counts = join_parts(run.folder, len(images), columns, config.format)
    result = PredictResult(
        path=run.folder / TABLES[config.format],
        task=classifier.task,
        answers=classifier.answers,
        classes=classifier.class_names,
        numbers=classifier.class_numbers,
        outside=None if masks is None else masks.outside,
        rows=len(images),
        unreadable=counts.unreadable,
        counts=counts.classes,
        temperature=classifier.temperature,
        threshold=columns.threshold if isinstance(columns, LabelColumns) else None,
        image_size=images.size,
        made=made({CLASSIFIER: classifier.sha256, "data": images.fingerprint}),
    )
    write_json(run.folder / RESULTS, result.model_dump(mode="json"))
    remove_folder(run.folder / PARTS)
    log.info("%s: %s", result.path, ", ".join(_said(result)))
    run.tracker.summary(
        {"images": result.rows, "unreadable": result.unreadable, "classifier_sha256": classifier.sha256}
        | {f"images/{name}": count for name, count in result.counts.items()}
    )
    return result


def _said(result: PredictResult) -> Iterator[str]:
    """The content of a table in short, the most frequent classes first."""
    yield f"{result.rows:,} image{'' if result.rows == 1 else 's'}"
    found = sorted(((name, count) for name, count in result.counts.items() if count), key=itemgetter(1), reverse=True)
    yield from (f"{name} {count:,}" for name, count in found[:SHOWN])
    if len(found) > SHOWN:
        yield f"and {len(found) - SHOWN} more {NAMES[result.answers]}"
    if result.unreadable:
        yield f"{result.unreadable:,} unreadable"

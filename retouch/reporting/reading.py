"""Facts, read from the folders of finished runs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TypeGuard

from pydantic import ValidationError

from common.encoders.card import EncoderCard
from common.encoders.load import read_encoder_card
from common.errors import UserError, check_all
from common.files import in_full, is_group, run_stage
from common.runs.results import RESULTS
from common.runs.seeds import finished_runs
from common.settings import read_yaml
from finetune.classifier import CLASSIFIER
from finetune.data import LabeledData
from finetune.embedding import EMBEDDING, read_embeddings
from finetune.multilabel.data import ProbeData
from finetune.multilabel.scores import LABEL_SCORES, read_scores
from finetune.predictions import PREDICTIONS, read_predictions
from finetune.results import ProbeReport
from finetune.results import read_results as read_transfer
from pretrain.results import read_results as read_pretraining
from pretrain.results import read_seeds
from retouch.reporting.facts import Facts
from retouch.reporting.folders import distinct_names, find_runs
from retouch.reporting.logs import read_log
from retouch.reporting.runs import (
    Curve,
    Curves,
    FineTuning,
    Group,
    Origin,
    Pretraining,
    Probing,
    Settings,
    Studied,
)
from retouch.studies.results import read_results as read_study

ATOMS = ("atoms.png", "exciting.png")  # below panels/
LABELED = {"probe": "data", "finetune": "data", "study": "labels"}  # the setting of labeled images, by stage


def read_facts(folders: Sequence[str | Path]) -> Facts:
    """Read finished runs, or folders of runs, such as that of the demo.

    Raises:
        UserError: with every folder that cannot be reported because it is not a run, has not finished, or is given
            twice.
    """
    runs, left_out = find_runs(list(map(in_full, folders)))
    names = distinct_names(runs)
    read = check_all(
        *(lambda folder=folder, name=name: _read(folder, name) for folder, name in zip(runs, names, strict=True))
    )
    return Facts(
        pretraining=tuple(run for run in read if isinstance(run, Pretraining)),
        probes=tuple(run for run in read if isinstance(run, Probing)),
        finetuning=tuple(run for run in read if isinstance(run, FineTuning)),
        studies=tuple(run for run in read if isinstance(run, Studied)),
        groups=tuple(read_groups(runs)),
        left_out=tuple(left_out),
    )


def read_groups(runs: Sequence[Path]) -> list[Group]:
    """The groups whose runs are all among these."""
    whole = [group for group in dict.fromkeys(run.parent for run in runs) if is_group(group)]
    whole = [group for group in whole if (group / RESULTS).is_file() and set(finished_runs(group)) <= set(runs)]
    found = []
    for group, name in zip(whole, distinct_names(whole), strict=True):
        if run_stage(group / finished_runs(group)[0].name) == "pretrain":
            found.append(Group(group, name, pretraining=read_seeds(group)))
        elif isinstance(report := read_transfer(group), ProbeReport):
            found.append(Group(group, name, probing=report))
    return found


def _read(folder: Path, name: str) -> Pretraining | Probing | FineTuning | Studied:
    stage = run_stage(folder)
    assert stage is not None
    tree = read_yaml(Settings, folder / "config.yaml")
    try:
        settings = Settings.model_validate(tree)
    except ValidationError:  # the report then only lacks these settings
        settings = Settings()
    of = LABELED.get(stage)
    labeled = () if of is None else _labeled([tree.get(of), *(tree.get(f"more_{of}") or [])])
    origin = Origin(folder, name, stage, settings, labeled, read_log(folder))
    if stage == "pretrain":
        return Pretraining(
            origin=origin,
            results=read_pretraining(folder),
            curves=_read_curves(folder),
            card=_read_card(folder),
            panel=max((folder / "panels").glob("step-*.png"), default=None),
            atoms=tuple(filter(Path.is_file, (folder / "panels" / name for name in ATOMS))),
        )
    predictions = tuple(read_predictions(folder)) if (folder / PREDICTIONS).is_file() else ()
    embeddings = tuple(read_embeddings(folder)) if (folder / EMBEDDING).is_file() else ()
    if stage == "study":
        return Studied(origin, read_study(folder), predictions, embeddings)
    results = read_transfer(folder)
    if isinstance(results, ProbeReport):
        scores = tuple(read_scores(folder)) if (folder / LABEL_SCORES).is_file() else ()
        return Probing(origin, results, predictions, embeddings, scores)
    return FineTuning(origin, results, _read_curves(folder), predictions, _read_card(folder / CLASSIFIER))


def _labeled(blocks: Sequence[object]) -> tuple[LabeledData, ...]:
    try:
        return tuple(one for one in map(ProbeData.model_validate, blocks) if not one.labels and one.masks is None)
    except ValidationError:  # of another version
        return ()


def _read_card(folder: Path) -> EncoderCard | None:
    try:
        return read_encoder_card(folder)
    except UserError:  # moved or removed since
        return None


def _is_number(value: object) -> TypeGuard[float]:
    """Whether a value of a line is a finite number, like all numbers that runs write."""
    return isinstance(value, int | float) and math.isfinite(value)


def _read_curves(folder: Path) -> Curves:
    try:
        text = (folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Curves()
    lines: list[dict[str, object]] = []
    for line in text.splitlines():
        try:
            lines.append(dict(json.loads(line)))
        except (ValueError, TypeError):  # an incomplete line of a run that was killed
            continue

    def curve(name: str) -> Curve:
        pairs = [(line.get("step"), line.get(name)) for line in lines]
        points = [(int(step), float(value)) for step, value in pairs if _is_number(step) and _is_number(value)]
        return Curve(tuple(step for step, _ in points), tuple(value for _, value in points))

    speeds, memory = curve("images_per_second").values, curve("memory_gb").values
    return Curves(
        loss=curve("loss"),
        held_out=curve("held_out/loss"),
        rate=curve("lr"),
        accuracy=curve("val/accuracy"),
        psnr=curve("psnr/network"),
        speed=median(speeds) if speeds else None,
        memory_gb=max(memory, default=None),
    )

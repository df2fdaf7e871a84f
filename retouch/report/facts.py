"""What a report says, read from run folders into frozen types. Names and paths are UTF-8."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from common.encoders.card import EncoderCard
from common.encoders.load import read_encoder_card
from common.errors import UserError, check_all, one_line
from common.files import as_utf8, run_stage
from common.runs.results import RESULTS
from common.settings import read_yaml
from finetune.data import LabeledData
from finetune.embedding import EMBEDDING, Embedding, read_embeddings
from finetune.multilabel.data import ProbeData
from finetune.predictions import PREDICTIONS, Predictions, read_predictions
from finetune.results import EncoderFacts, FinetuneResult, LabelResult, ProbeReport, ProbeResult
from finetune.results import read_results as read_transfer
from finetune.table import task_names
from pretrain.results import PretrainResults
from pretrain.results import read_results as read_pretraining
from retouch.studies.results import CONTESTANTS, StudyReport
from retouch.studies.results import read_results as read_study

REPORTED = ("pretrain", "probe", "finetune", "study")  # stages that leave results.json
LOG_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) ([A-Z]+) +(.*)")
UNLABELED = re.compile(r"([\d,]+) unlabeled images\b")
VERSIONS = "versions: "
ATOMS = ("atoms.png", "exciting.png")  # below panels/


# ---- what is read of one run


class Images(BaseModel):
    """The images of a run, as its ``config.yaml`` names them: ``source`` of pretraining, ``train`` of other stages."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    source: str = ""
    train: str = ""
    image_size: int | None = None


class Settings(BaseModel):
    """The settings that a report states. The others are in ``config.yaml``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    seed: int = 0
    batch_size: int = 0
    resume: bool = False
    overwrite: bool = False
    data: Images = Images()


@dataclass(frozen=True)
class Log:
    """What ``train.log`` says: when the run started, of which versions, and what it warned of."""

    started: str = ""  # 2026-01-31 12:00:00
    versions: str = ""
    unlabeled: int | None = None  # images that pretraining learned from
    warnings: tuple[str, ...] = ()


class Curve(NamedTuple):
    """A metric along training; may be empty."""

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()


EMPTY = Curve()


@dataclass(frozen=True)
class Curves:
    """What ``metrics.jsonl`` says of training."""

    loss: Curve = EMPTY
    held_out: Curve = EMPTY  # loss on held-out images
    rate: Curve = EMPTY  # learning rate
    accuracy: Curve = EMPTY  # on held-out images, in [0, 1]
    speed: float | None = None  # images per second, median over the logged lines
    memory_gb: float | None = None  # the largest


@dataclass(frozen=True)
class Origin:
    """A finished run."""

    folder: Path
    name: str  # differs from those of the other runs
    stage: str  # pretrain, probe or finetune
    settings: Settings
    labeled: tuple[LabeledData, ...]  # images of one label each; empty if the settings cannot be read
    log: Log


@dataclass(frozen=True)
class Pretraining:
    """``retouch pretrain``."""

    origin: Origin
    results: PretrainResults
    curves: Curves
    card: EncoderCard | None  # of the exported encoder; None if it was removed
    panel: Path | None  # the last picture of original, damaged and restored images
    atoms: tuple[Path, ...]  # pictures of a dictionary


@dataclass(frozen=True)
class Probing:
    """``retouch probe``."""

    origin: Origin
    report: ProbeReport
    predictions: tuple[Predictions, ...]  # by result; empty if there are none
    embeddings: tuple[Embedding, ...] = ()  # likewise


@dataclass(frozen=True)
class FineTuning:
    """``retouch finetune``."""

    origin: Origin
    result: FinetuneResult
    curves: Curves
    predictions: tuple[Predictions, ...]


@dataclass(frozen=True)
class Studied:
    """``retouch study``; the pretraining runs of its contestants are reported next to it."""

    origin: Origin
    report: StudyReport


# ---- what is known of all


@dataclass(frozen=True)
class Entry:
    """One encoder on one task."""

    encoder: str  # its name, which no other encoder has
    task: str  # its name, which no other task has
    result: ProbeResult
    origin: Origin
    predictions: Predictions | None
    embedding: Embedding | None = None


@dataclass(frozen=True)
class LabelEntry:
    """One encoder on one task with several labels per image."""

    encoder: str
    task: str
    result: LabelResult
    origin: Origin


@dataclass(frozen=True)
class Facts:
    """All that a report says."""

    pretraining: tuple[Pretraining, ...] = ()
    probes: tuple[Probing, ...] = ()
    finetuning: tuple[FineTuning, ...] = ()
    studies: tuple[Studied, ...] = ()
    left_out: tuple[str, ...] = ()  # what was found in a folder of runs but is not reported, and why

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Every run, in the order of the pipeline."""
        kinds = (self.studies, self.pretraining, self.probes, self.finetuning)
        return tuple(run.origin for runs in kinds for run in runs)

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every encoder on every task that it was probed on."""
        found = [(run, number) for run in self.probes for number in range(len(run.report.results))]
        results = [run.report.results[number] for run, number in found]
        tasks, titles = task_names(results), self._titles(results)
        twice = Counter((result.encoder.sha256, task) for result, task in zip(results, tasks, strict=True))
        entries = []
        for (run, number), result, task in zip(found, results, tasks, strict=True):
            again = twice[result.encoder.sha256, task] > 1
            title = titles[result.encoder.sha256]
            entries.append(
                Entry(
                    encoder=f"{title}, {run.origin.name}" if again else title,
                    task=task,
                    result=result,
                    origin=run.origin,
                    predictions=run.predictions[number] if run.predictions else None,
                    embedding=run.embeddings[number] if run.embeddings else None,
                )
            )
        return tuple(entries)

    @cached_property
    def label_entries(self) -> tuple[LabelEntry, ...]:
        """Every encoder on every task with several labels per image."""
        found = [(run.origin, result) for run in self.probes for result in run.report.multilabel]
        titles = self._titles([*(entry.result for entry in self.entries), *(result for _, result in found)])
        data = {result.task: {one.data.train for _, one in found if one.task == result.task} for _, result in found}
        return tuple(
            LabelEntry(
                encoder=titles[result.encoder.sha256],
                task=result.task if len(data[result.task]) == 1 else f"{result.task} ({result.data.train})",
                result=result,
                origin=origin,
            )
            for origin, result in found
        )

    @property
    def encoders(self) -> tuple[str, ...]:
        """The encoders that were probed, by name; one that was probed twice appears once."""
        results: list[ProbeResult | LabelResult] = [entry.result for entry in self.entries]
        results += [entry.result for entry in self.label_entries]
        return tuple(self._titles(results).values())

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.task for entry in self.entries))

    def of_task(self, task: str) -> tuple[Entry, ...]:
        """The encoders that were probed on a task."""
        return tuple(entry for entry in self.entries if entry.task == task)

    def _titles(self, results: Sequence[ProbeResult | LabelResult]) -> dict[str, str]:
        """A name for each encoder, by its sha256: short, and longer where two would have the same."""
        encoders = {result.encoder.sha256: result.encoder for result in results}
        trained = {run.results.encoder_sha256: run.origin.name for run in self.pretraining}
        ways: list[Callable[[EncoderFacts], str]] = [
            lambda encoder: encoder.title,
            lambda encoder: _named(encoder.title, trained.get(encoder.sha256) or _run_of(encoder.path)),
            lambda encoder: f"{encoder.title} ({encoder.sha256[:8]})",
        ]
        for way in ways:
            named = {sha: way(encoder) for sha, encoder in encoders.items()}
            if len(set(named.values())) == len(named):
                break
        return named


def read_facts(folders: Sequence[str | Path]) -> Facts:
    """Read finished runs, or folders of runs, such as that of the demo.

    Raises:
        UserError: with every folder that cannot be reported: it is no run, has not finished, or is given twice.
    """
    runs, left_out = find_runs(list(map(Path, folders)))
    names = distinct_names(runs)
    read: list[Pretraining | Probing | FineTuning | Studied] = check_all(
        *(lambda folder=folder, name=name: _read(folder, name) for folder, name in zip(runs, names, strict=True))
    )
    return Facts(
        pretraining=tuple(run for run in read if isinstance(run, Pretraining)),
        probes=tuple(run for run in read if isinstance(run, Probing)),
        finetuning=tuple(run for run in read if isinstance(run, FineTuning)),
        studies=tuple(run for run in read if isinstance(run, Studied)),
        left_out=tuple(left_out),
    )


# ---- folders


def find_runs(folders: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The folders of finished runs that are meant, and what else was found in folders of runs.

    Raises:
        UserError: with every folder that is no run, has not finished, or is given twice.
    """
    left_out: list[str] = []
    found: list[list[Path]] = check_all(*(lambda folder=folder: _expand(folder, left_out) for folder in folders))
    runs = [run for some in found for run in some]
    again = [run for run, count in Counter(run.resolve() for run in runs).items() if count > 1]
    if again:
        shown = [next(str(run) for run in runs if run.resolve() == one) for one in again]
        raise UserError(*(f"{run}: given twice; name it once" for run in shown))
    return runs, left_out


def _expand(folder: Path, left_out: list[str]) -> list[Path]:
    """The run, or the runs in a folder of runs in the order in which they started."""
    folder = folder.parent if folder.name == RESULTS else folder
    if not folder.is_dir():
        what = "this is a file" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {what}; give the folder of a run, such as runs/denoise-1, or a folder of runs")
    stage = run_stage(folder)
    if stage in REPORTED:
        if not (folder / RESULTS).is_file():
            raise UserError(
                f"{folder}: this run of retouch {stage} has not finished; continue it, or leave it out of the report"
            )
        return [folder, *_contestants(folder)] if stage == "study" else [folder]
    if stage == "embed":
        raise UserError(f"{folder}: retouch embed leaves features, and no results to report; give the runs around it")
    if run_stage(folder.parent) is not None:
        raise UserError(f"{folder}: this is a part of a run; give the run: {folder.parent}")
    try:
        inside = sorted(path for path in folder.iterdir() if run_stage(path) is not None)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror or one_line(error)}") from None
    runs = []
    for inner in inside:
        if run_stage(inner) in REPORTED and (inner / RESULTS).is_file():
            runs.append(inner)
        elif run_stage(inner) in REPORTED:
            left_out.append(f"{as_utf8(str(inner))} has not finished")
        else:
            left_out.append(f"{as_utf8(str(inner))} is a run of retouch {run_stage(inner)}, which leaves no results")
    if not runs:
        raise UserError(
            f"{folder}: neither a run nor a folder of finished runs; give what retouch pretrain, probe, finetune, "
            "study or demo wrote"
        )
    return sorted(runs, key=lambda run: (_read_log(run).started, run.name))


def _contestants(study: Path) -> list[Path]:
    """The finished pretraining runs of a study."""
    inside = sorted((study / CONTESTANTS).glob("*"))
    return [run for run in inside if run_stage(run) == "pretrain" and (run / RESULTS).is_file()]


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of their paths by which all of them differ."""
    paths = [folder.resolve().parts for folder in folders]
    for parts in range(1, max(map(len, paths), default=0) + 1):
        names = ["/".join(path[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return [as_utf8(name) for name in names] if paths else []


def _named(title: str, run: str) -> str:
    """The run, which often is called after what it does; otherwise both."""
    return run if title in run else f"{title} ({run})"


def _run_of(encoder: str) -> str:
    """The name of the run that an encoder's path lies in."""
    path = Path(encoder)
    return path.parent.name if path.name == "encoder" else path.name


# ---- files


def _read(folder: Path, name: str) -> Pretraining | Probing | FineTuning | Studied:
    stage = run_stage(folder)
    assert stage is not None
    tree = read_yaml(Settings, folder / "config.yaml")
    try:
        settings = Settings.model_validate(tree)
    except ValidationError:  # only what the report states of them is lost
        settings = Settings()
    labeled = _labeled([tree.get("data"), *(tree.get("more_data") or [])]) if stage in ("probe", "finetune") else ()
    origin = Origin(folder, name, stage, settings, labeled, _read_log(folder))
    if stage == "pretrain":
        return Pretraining(
            origin=origin,
            results=read_pretraining(folder),
            curves=_read_curves(folder),
            card=_read_card(folder),
            panel=max((folder / "panels").glob("step-*.png"), default=None),
            atoms=tuple(filter(Path.is_file, (folder / "panels" / name for name in ATOMS))),
        )
    if stage == "study":
        return Studied(origin, read_study(folder))
    predictions = tuple(read_predictions(folder)) if (folder / PREDICTIONS).is_file() else ()
    results = read_transfer(folder)
    if isinstance(results, ProbeReport):
        embeddings = tuple(read_embeddings(folder)) if (folder / EMBEDDING).is_file() else ()
        return Probing(origin, results, predictions, embeddings)
    return FineTuning(origin, results, _read_curves(folder), predictions)


def _labeled(blocks: Sequence[object]) -> tuple[LabeledData, ...]:
    try:
        return tuple(one for one in map(ProbeData.model_validate, blocks) if not one.labels)
    except ValidationError:  # of another version
        return ()


def _read_card(folder: Path) -> EncoderCard | None:
    try:
        return read_encoder_card(folder)
    except UserError:  # moved or removed since
        return None


def _read_log(folder: Path) -> Log:
    """Of a run that was resumed, the log goes on: its start is the first line, its versions are the last."""
    try:
        text = (folder / "train.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Log()
    lines = [found.groups() for found in map(LOG_LINE.match, text.splitlines()) if found]
    counts = [found[1] for _, _, said in lines if (found := UNLABELED.match(said))]
    versions = [said.removeprefix(VERSIONS) for _, _, said in lines if said.startswith(VERSIONS)]
    return Log(
        started=lines[0][0] if lines else "",
        versions=versions[-1] if versions else "",
        unlabeled=int(counts[-1].replace(",", "")) if counts else None,
        warnings=tuple(dict.fromkeys(said for _, level, said in lines if level == "WARNING")),
    )


def _read_curves(folder: Path) -> Curves:
    try:
        text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    except OSError:
        return Curves()
    lines: list[dict[str, float]] = []
    for line in text.splitlines():
        try:
            lines.append(dict(json.loads(line)))
        except (ValueError, TypeError):  # half a line, left by a kill
            continue

    def curve(name: str) -> Curve:
        points = [(int(line["step"]), float(line[name])) for line in lines if name in line and "step" in line]
        return Curve(tuple(step for step, _ in points), tuple(value for _, value in points))

    speeds, memory = curve("images_per_second").values, curve("memory_gb").values
    return Curves(
        loss=curve("loss"),
        held_out=curve("held_out/loss"),
        rate=curve("lr"),
        accuracy=curve("val/accuracy"),
        speed=median(speeds) if speeds else None,
        memory_gb=max(memory, default=None),
    )

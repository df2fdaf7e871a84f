"""Run folders below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field

from common.config import Config
from common.errors import UserError
from common.files import as_utf8, in_full, is_group, run_recipe, run_stage
from common.runs.lock import is_used
from retouch.listing.headlines import Headline, Measure, read_headline
from retouch.reporting.logs import read_log

State = Literal["running", "stopped", "finished"]
Order = Literal["name", "started", "stage", "state", "result", "size"]
NONE = Headline("")
# the last file that stages wrote which had no results.json in earlier versions
LAST = {"embed": "features.parquet", "search": "neighbors.png"}


class RunFacts(Config):
    """One run, or one group of runs with several seeds.

    Attributes:
        path: its folder.
        stage: the one that wrote it, such as ``pretrain``; ``pretrain_seeds`` for a group.
        recipe: the recipe or settings file that it was started with; empty if it was started with neither.
        subject: the method of pretraining; for other stages, the encoder, run or data that it used.
        state: ``running`` while a process uses the folder; ``stopped`` if it has not finished.
        step: where training would continue; None for stages that do not train.
        steps: of the whole training; None for stages that do not train.
        result: its headline in words; empty without results.
        value: its headline as a number, larger is better among runs of the same measure: accuracies in [0, 1], PSNR
            in dB, a reconstruction error with a minus.
        measure: what this number is; None without a number.
        on_training: whether it was measured on the images that were learned from, which the network may have memorized.
        started: local time, ``2026-01-31 12:00:00``; empty if unknown.
        bytes: total size of its files.
    """

    path: Path
    stage: str
    recipe: str
    subject: str
    state: State
    step: int | None = None
    steps: int | None = None
    result: str = ""
    value: float | None = None
    measure: Measure | None = None
    on_training: bool = False
    started: str = ""
    bytes: int

    @property
    def recipe_text(self) -> str:
        """``linear (runs/mine)``; only one of the two if the other is unknown or the same."""
        if not self.subject or self.subject == self.recipe:
            return self.recipe
        return f"{self.recipe} ({self.subject})" if self.recipe else self.subject

    @property
    def result_text(self) -> str:
        """``PSNR 31.2, a median filter 24.0, on training images``."""
        return f"{self.result}, on training images" if self.on_training else self.result

    @property
    def state_text(self) -> str:
        """``stopped at step 400 of 1,500``."""
        if self.step is None or (self.state == "finished" and self.step == (self.steps or self.step)):
            return self.state
        of = "" if self.steps is None else f" of {self.steps:,}"
        return f"{self.state} at step {self.step:,}{of}"


def find_runs(folder: str | Path = "runs", sort: Order = "started") -> tuple[RunFacts, ...]:
    """All runs in a folder and below; runs inside a run, such as contestants of a study, are part of it.

    Args:
        sort: ``name`` and ``stage`` in alphabetical order; ``started`` and ``size`` with the last and the largest
            first; ``state`` with running runs first; ``result`` measure by measure (accuracy, mean average precision,
            mean IoU, PSNR, reconstruction error), the best first, and runs without a number last.

    Raises:
        UserError: there is no such folder or order, or the folder cannot be read.
    """
    if sort not in get_args(Order):
        raise UserError(f"sort={sort}: give {', '.join(get_args(Order)[:-1])} or {get_args(Order)[-1]}")
    folder = in_full(folder)
    if not folder.is_dir():
        what = "this is a file" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {what}; give a folder of runs")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"{folder}: no permission to read it; change its permissions, or give another folder")
    found = [facts_of(one) for one in _runs_in(folder)]
    keys = {
        "name": lambda run: (str(run.path),),
        "started": lambda run: (_descending(run.started), str(run.path)),
        "stage": lambda run: (run.stage, str(run.path)),
        "state": lambda run: (("running", "stopped", "finished").index(run.state), str(run.path)),
        "result": lambda run: (_place(run.measure), -(run.value or 0.0), str(run.path)),
        "size": lambda run: (-run.bytes, str(run.path)),
    }
    return tuple(sorted(found, key=keys[sort]))


def facts_of(folder: Path) -> RunFacts:
    """Read the facts about a run from its folder."""
    mark = run_stage(folder) or ""
    asked, headline = _asked(folder), read_headline(folder, mark)
    finished = headline is not None or (mark in LAST and (folder / LAST[mark]).is_file())
    running = is_used(folder) or (is_group(folder) and any(map(is_used, folder.glob("seed-*"))))
    trains = mark in ("pretrain", "finetune")
    return RunFacts(
        path=folder,
        stage=mark,
        recipe=run_recipe(folder),
        subject=as_utf8(asked.what),
        state="running" if running else "finished" if finished else "stopped",
        step=_last_step(folder) if trains else None,
        steps=asked.steps if trains else None,
        result=(headline or NONE).text,
        value=(headline or NONE).value,
        measure=(headline or NONE).measure,
        on_training=(headline or NONE).on_training,
        started=read_log(folder).started,
        bytes=_size(folder),
    )


def _runs_in(folder: Path) -> Iterator[Path]:
    """The folder itself if it is a run, else those below it; links are not followed, hidden folders not entered."""
    if run_stage(folder) is not None:
        yield folder
        return
    for above, names, _ in os.walk(folder):
        runs = [name for name in names if run_stage(Path(above) / name) is not None]
        yield from (Path(above) / name for name in sorted(runs))
        names[:] = sorted(name for name in names if name not in runs and not name.startswith("."))


class _Kind(BaseModel):
    """A block of settings with a kind."""

    model_config = ConfigDict(extra="ignore")

    kind: str = ""


class _Encoder(BaseModel):
    model_config = ConfigDict(extra="ignore")

    path: str | None = None
    name: str = ""


class _Data(BaseModel):
    model_config = ConfigDict(extra="ignore")

    source: str | None = None
    train: str | None = None


class _Asked(BaseModel):
    """The settings from which the subject of a run is read."""

    model_config = ConfigDict(extra="ignore")

    pretext: _Kind | None = None
    fit: _Kind | None = None
    encoder: _Encoder | str | None = None
    run: str | None = None
    data: _Data | str = Field(default_factory=_Data)
    steps: int | None = None

    @property
    def what(self) -> str:
        method = self.fit or self.pretext
        if method is not None:
            return method.kind
        if isinstance(self.encoder, str):
            return self.encoder
        if self.encoder is not None:
            return self.encoder.path or self.encoder.name
        if self.run is not None:
            return self.run
        return self.data if isinstance(self.data, str) else self.data.source or self.data.train or ""


def _asked(folder: Path) -> _Asked:
    try:
        found = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        return _Asked.model_validate(found if isinstance(found, dict) else {})
    except (OSError, ValueError, RecursionError, yaml.YAMLError):  # ValueError: also a date that is none
        return _Asked()


def _last_step(folder: Path) -> int | None:
    """Where training would continue: the last checkpoint."""
    steps = [path.name.removeprefix("step-") for path in (folder / "checkpoints").glob("step-*")]
    return max((int(step) for step in steps if step.isdecimal()), default=None)


def _size(folder: Path) -> int:
    """Bytes of all files, each link counted as itself."""
    total = 0
    for above, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(above) / name).lstat().st_size
            except OSError:  # gone, or not readable
                continue
    return total


def _place(measure: Measure | None) -> int:
    """Of a measure among all; a sort key."""
    return len(get_args(Measure)) if measure is None else get_args(Measure).index(measure)


def _descending(text: str) -> tuple[int, ...]:
    """A sort key: later texts come first, and an empty one last."""
    return tuple(-ord(letter) for letter in text) if text else (1,)

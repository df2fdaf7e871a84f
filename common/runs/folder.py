"""A stage's run folder: refused if something is in it, resumed only with the same config, written by rank 0."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import Field

from common.config import Config, dump_config
from common.errors import UserError
from common.files import leftover, remove_folder, write_text
from common.machine.distributed import World
from common.runs.logs import add_log_file
from common.runs.tracking import Tracker, WandbConfig

log = logging.getLogger("retouch")

# What a stage writes; `overwrite=true` removes these and nothing else. Checkpoints go first: while there is one, a run
# that is resumed needs the rest.
OWN_ENTRIES = (
    "checkpoints", "metrics.jsonl", "train.log", "panels", "encoder", "classifier", "wandb", "results.json",
    "features.parquet", "linear_probe", "from_scratch", "config.yaml",
)  # fmt: skip


class StageConfig(Config):
    """Keys that mean the same in every stage."""

    # keys that may differ between a run and its resumption, because they change no number
    free_keys: ClassVar[frozenset[str]] = frozenset(
        {"out", "resume", "overwrite", "wandb", "log_seconds", "checkpoint", "data.workers", "data.cache"}
    )

    out: Path
    seed: int = Field(default=0, ge=0)
    batch_size: int = Field(default=256, gt=0)  # global: over all processes and accumulated micro-batches
    resume: bool = False
    overwrite: bool = False
    wandb: WandbConfig = WandbConfig()


S = TypeVar("S", bound=StageConfig)


def in_group(config: S, provenance: Mapping[str, Any] | None = None) -> S:
    """``config`` with a W&B group, so that the stages of one experiment stand together.

    Where none is set, it is the group of the encoder that the stage is given (``provenance``); a stage that begins an
    experiment, or whose encoder has no group, takes the name of its run folder.
    """
    inherited = (provenance or {}).get("group")
    group = config.wandb.group or (str(inherited) if inherited else config.out.absolute().name)
    return config.model_copy(update={"wandb": config.wandb.model_copy(update={"group": group})})


class Run:
    """An opened run folder with its tracker and metrics file. Ranks other than 0 hold it too, and write nothing.

    Attributes:
        recorded: whether it leaves checkpoints, logs and metrics, and listens to the signals that stop it.
    """

    recorded: ClassVar[bool] = True

    def __init__(self, folder: Path, world: World, tracker: Tracker | None, resumed: bool) -> None:
        self.folder, self.world, self.tracker, self.resumed = folder, world, tracker, resumed
        self.metrics_path = folder / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """One line of ``metrics.jsonl`` and the same to W&B.

        Raises:
            UserError: a metric is not a finite number, which JSON does not have.
        """
        if not self.world.is_main:
            return
        lost = [f"{name} is {value} at step {step}" for name, value in metrics.items() if not math.isfinite(value)]
        if lost:
            raise UserError(*lost, title=f"not written to {self.metrics_path}, which holds finite numbers only:")
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}, allow_nan=False) + "\n")
        if self.tracker:
            self.tracker.log(metrics, step)

    def image(self, name: str, path: Path, step: int, caption: str = "") -> None:
        """Tell W&B of a picture in this folder."""
        if self.tracker:
            self.tracker.image(name, path, step, caption)

    def cut_back(self, step: int) -> None:
        """Drop metrics after ``step``: they will be computed again. A half-written last line is dropped too."""
        if not self.world.is_main or not self.metrics_path.is_file():
            return
        kept = []
        for line in self.metrics_path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
        write_text(self.metrics_path, "".join(f"{line}\n" for line in kept))


@contextmanager
def open_run(
    config: StageConfig, world: World, *, job_type: str, settings: Mapping[str, Any] | None = None
) -> Iterator[Run]:
    """Open ``config.out`` for a stage, and close its log and W&B run at the end.

    Raises:
        UserError: the folder is not empty and neither ``resume`` nor ``overwrite`` is set; or it is resumed with a
            config that differs in a key that matters; or ``overwrite`` meets a folder that no stage has written.
    """
    resumed = _claim(config, world)
    if not world.is_main:
        yield Run(config.out, world, None, resumed)
        return
    handler = add_log_file(config.out / "train.log")
    tracker = Tracker(config.wandb, config.out, job_type=job_type, settings=settings or config.model_dump(mode="json"))
    exit_code = 1
    try:
        yield Run(config.out, world, tracker, resumed)
        exit_code = 0
    finally:
        tracker.finish(exit_code)
        log.removeHandler(handler)
        handler.close()


def _claim(config: StageConfig, world: World) -> bool:
    """Decide new, resumed or overwritten, the same in every process; rank 0 alone changes the disk."""
    out = config.out
    problem: UserError | None = None
    resumed = False
    try:
        resumed = check_out(config)
    except UserError as error:
        problem = error
    world.barrier()  # every rank has looked before rank 0 writes
    if problem is not None:
        raise problem
    if world.is_main:
        for entry in _leftovers(out):
            _remove(entry)
    if world.is_main and not resumed:
        for name in OWN_ENTRIES:
            # replaced below: without it, a folder that was emptied half could be neither resumed nor overwritten
            if name != "config.yaml":
                _remove(out / name)
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_text(out / "config.yaml", dump_config(config))
        except OSError as error:
            raise UserError(f"out: {out} cannot be written: {error.strerror}; choose another out") from None
    world.barrier()
    return resumed


def _leftovers(out: Path) -> list[Path]:
    """What killed runs left beside their entries and checkpoints, half written or half removed."""
    return [
        *(path for path in out.glob(".*") if leftover(path) in OWN_ENTRIES),
        *(path for path in (out / "checkpoints").glob(".*") if leftover(path)),
    ]


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        remove_folder(entry)
    elif entry.exists() or entry.is_symlink():
        entry.unlink()


def check_out(config: StageConfig) -> bool:
    """Whether this run continues an old one. Changes nothing on disk; raises what ``open_run`` would."""
    out = config.out
    if config.resume and config.overwrite:
        raise UserError("resume=true and overwrite=true exclude each other: choose one")
    if out.exists() and not out.is_dir():
        raise UserError(f"out: {out} is a file; choose a folder")
    if not out.exists():
        above = next(parent for parent in out.absolute().parents if parent.exists())
        if not above.is_dir():
            raise UserError(f"out: {out} cannot be made: {above} is a file; choose another out")
        if not os.access(above, os.W_OK | os.X_OK):
            raise UserError(f"out: {out} cannot be made: this user may not write to {above}; choose another out")
        return False
    if not os.access(out, os.R_OK | os.W_OK | os.X_OK):
        raise UserError(f"out: this user may not write to {out}; choose another out")
    if not set(out.iterdir()) - set(_leftovers(out)):
        return False
    saved = out / "config.yaml"
    if config.overwrite:
        if not saved.is_file():
            raise UserError(
                f"out: {out} holds files that no stage has written; overwrite=true will not touch it; choose another"
            )
        return False
    if not config.resume:
        raise UserError(
            f"out: {out} is not empty; use resume=true to go on, overwrite=true to start anew, or another out"
        )
    if not saved.is_file():
        raise UserError(f"out: {out} has no config.yaml, so it cannot be resumed; choose another out")
    old = _flat(yaml.safe_load(saved.read_text(encoding="utf-8")) or {})
    new = _flat(config.model_dump(mode="json"))
    differing = [
        f"{key}: was {old.get(key)!r}, now {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not _is_free(key, config.free_keys)
    ]
    if differing:
        raise UserError(*differing, title=f"resume=true, but the config differs from the one in {saved}:")
    return True


def _is_free(key: str, free: frozenset[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in free)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat

"""A stage's run folder: one run at a time, refused if it is not empty, resumed only with the same config.

Rank 0 alone writes, but for the parts of ``predict``.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import Field

from common.config import MANY, Config, OutPath, dump_config
from common.errors import UserError
from common.files import check_place, command, in_full, is_group, leftover, remove_folder, run_stage, write_text
from common.machine.distributed import World, gather
from common.runs.continuing import OPEN, how_to_continue
from common.runs.lock import LOCK, check_unused, locked
from common.runs.logs import EarlyLog, add_log_file, log_versions
from common.runs.tracking import Tracker, WandbConfig
from common.settings import read_yaml

log = logging.getLogger("retouch")


class StageConfig(Config):
    """Keys that mean the same in every stage."""

    stage: ClassVar[str] = "stage"  # its name: `retouch STAGE`, and the job type of its W&B runs
    takes_run: ClassVar[bool] = False  # `retouch STAGE RUN`, the setting `run`, in place of a recipe
    # What a stage writes into its folder; `overwrite=true` removes these entries, in this order, and nothing else.
    writes: ClassVar[tuple[str, ...]] = ("metrics.jsonl", "train.log", "results.json", "wandb", "config.yaml")
    # Those of them that are folders of folders, in which a killed run may leave half-written files anywhere.
    trees: ClassVar[tuple[str, ...]] = ()
    # Keys that may differ between a run and its resumption, because they change no number.
    free_keys: ClassVar[frozenset[str]] = frozenset({"out", "resume", "overwrite", "wandb"})

    out: OutPath
    """The run folder. `{n}` in its name is the first number that no other run has."""
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    """Seed of every random number; the same seed gives the same result."""
    batch_size: int = Field(default=256, gt=0, le=MANY)
    """Images per batch, over all processes and micro-batches."""
    resume: bool = False
    """Continue the run in the folder `out`."""
    overwrite: bool = False
    """Replace the run in the folder `out`."""
    wandb: WandbConfig = WandbConfig()

    @property
    def mark(self) -> str:
        """What the first line of the folder's ``config.yaml`` says of it: the stage that writes there."""
        return self.stage

    @cached_property
    def recipe(self) -> str:
        """The recipe or settings file that these settings are from, as ``stage_config`` notes it; else empty.

        It is not a setting: the same settings from another file are equal.
        """
        return ""

    @property
    def heading(self) -> str:
        """That line: the command, and the recipe if it is known."""
        return f"# retouch {self.mark} {self.recipe}".rstrip()

    @property
    def entries(self) -> tuple[str, ...]:
        """What ``overwrite=true`` removes from the folder, in this order."""
        return self.writes


S = TypeVar("S", bound=StageConfig)

NUMBER = "{n}"  # in the name of `out`: the number of the run
SHOWN_RUNS = 5  # in one message


def with_group(config: S, encoder_group: str | None = None) -> S:
    """``config`` with a W&B group, which the stages of one experiment share.

    A group set by the user, here or as WANDB_RUN_GROUP, stays. Otherwise the stage joins the group of the encoder it
    reads; a stage without an encoder, or whose encoder has no group, takes the name of its run folder.
    """
    asked = config.wandb.group or os.environ.get("WANDB_RUN_GROUP")
    group = asked or encoder_group or config.out.absolute().name
    return config.model_copy(update={"wandb": config.wandb.model_copy(update={"group": group})})


def run_name(folder: Path) -> str:
    """A run's name outside its folder; a run of a group is named after its group too."""
    return f"{folder.parent.name}-{folder.name}" if is_group(folder.parent) else folder.name


# ---- numbered run folders


@contextmanager
def numbered(config: S, world: World) -> Iterator[S]:
    """``config`` with the next number for ``{n}`` in the name of its run folder, the same in all processes.

    The folder is made at once, so that two runs that start together have one each. It is removed at the end if
    nothing was written.
    """
    if NUMBER not in config.out.name or config.resume or config.overwrite:  # `check_run_folder` refuses the last two
        yield config
        return
    made: list[Path] = []
    out = gather(_next_folder(config.out, made) if world.is_main else config.out)[0]
    try:
        yield config.model_copy(update={"out": out})
    finally:
        with suppress(OSError):  # not empty
            for folder in made:
                folder.rmdir()


def _next_folder(pattern: Path, made: list[Path]) -> Path:
    """Make the folder after the last one of the pattern; ``made`` gets all folders that were made, the inner first.

    Where it cannot be made, ``check_run_folder`` will say why.
    """
    above = [folder for folder in pattern.parents if not folder.exists()]
    number = max((number for number, _ in _numbered_folders(pattern)), default=0) + 1
    try:
        pattern.parent.mkdir(parents=True, exist_ok=True)
        while True:
            out = pattern.with_name(pattern.name.replace(NUMBER, str(number)))
            try:
                out.mkdir()
            except FileExistsError:  # another run was faster
                number += 1
                continue
            made += [out, *above]
            return out
    except OSError:
        return pattern.with_name(pattern.name.replace(NUMBER, str(number)))


def _numbered_folders(pattern: Path) -> list[tuple[int, Path]]:
    """The folders and files whose names fit the pattern, with their numbers."""
    before, _, after = pattern.name.partition(NUMBER)
    form = re.compile(f"{re.escape(before)}([0-9]+){re.escape(after)}")
    entries = pattern.parent.iterdir() if pattern.parent.is_dir() else ()
    return sorted((int(found[1]), entry) for entry in entries if (found := form.fullmatch(entry.name)))


def _which_run(config: StageConfig) -> UserError:
    """Ask for ``out``, with the runs that may be meant, latest first."""
    asked = "resume" if config.resume else "overwrite"
    runs = [folder for folder in config.out.parent.glob("*") if run_stage(folder) == config.mark]
    like = {folder for _, folder in _numbered_folders(config.out)}
    meant = sorted(like.intersection(runs) or runs, key=lambda run: run.stat().st_mtime, reverse=True)[:SHOWN_RUNS]
    hint = f"say which run: {' or '.join(f'out={run}' for run in meant)}" if meant else "say which run: out=FOLDER"
    return UserError(f"{asked}=true, but no run is named; {hint}")


class Run:
    """An open run folder with its tracker and metrics file. Ranks other than 0 hold one too, which writes nothing.

    Attributes:
        recorded: whether it leaves checkpoints, logs and metrics, and listens to the signals that stop it.
    """

    recorded: ClassVar[bool] = True

    def __init__(self, folder: Path, world: World, tracker: Tracker, resumed: bool) -> None:
        self.folder, self.world, self.tracker, self.resumed = folder, world, tracker, resumed
        self.metrics_path = folder / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Append a line to ``metrics.jsonl`` and send the same numbers to W&B.

        Raises:
            UserError: a metric is not finite; JSON has no such numbers.
        """
        if not self.world.is_main:
            return
        invalid = [f"{name} is {value} at step {step}" for name, value in metrics.items() if not math.isfinite(value)]
        if invalid:
            raise UserError(*invalid, title=f"not written to {self.metrics_path}, which takes finite numbers only:")
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}, allow_nan=False) + "\n")
        self.tracker.log(metrics, step)

    def image(self, name: str, path: Path, step: int, caption: str = "") -> None:
        """Send an image file of this folder to W&B."""
        self.tracker.image(name, path, step, caption)

    def cut_back(self, step: int) -> None:
        """Drop metrics after ``step``, which will be computed again, and a half-written last line."""
        if not self.world.is_main or not self.metrics_path.is_file():
            return
        kept = []
        for line in self.metrics_path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
        write_text(self.metrics_path, "".join(f"{line}\n" for line in kept))


@contextmanager
def open_run(config: StageConfig, world: World, early: EarlyLog | None = None) -> Iterator[Run]:
    """Open ``config.out`` for a stage; at the end, close its log and its W&B run.

    Everything that a user can get wrong is found before: settings, encoder, images. A stage does so in ``early_log``,
    so that ``train.log`` has what was said of them.

    Raises:
        UserError: the folder is not empty and neither ``resume`` nor ``overwrite`` is set; it is to be resumed with a
            config that differs in a key that matters; this stage did not write what is to be overwritten; or another
            process uses the folder.
    """
    with ExitStack() as held:  # the lock
        resumed = claim(config, world, held)
        if not world.is_main:
            yield Run(config.out, world, Tracker.disabled(config.out), resumed)
            return
        log_file = add_log_file(config.out / "train.log", early)
        log.info("run folder: %s", config.out)
        log_versions()
        settings = config.model_dump(mode="json")
        tracker = Tracker(config.wandb, config.out, job_type=config.stage, settings=settings)
        exit_code = 1
        outermost = OPEN.get()
        token = OPEN.set(outermost or config.out)
        try:
            yield Run(config.out, world, tracker, resumed)
            exit_code = 0
        except BaseException as stopped:
            if not isinstance(stopped, Exception) and outermost is None and not is_group(config.out.parent):
                stopped.add_note(how_to_continue(config.out))  # for the command line, which knows no folder
            raise
        finally:
            OPEN.reset(token)
            tracker.finish(exit_code)
            log_file.close()


def claim(config: StageConfig, world: World, held: ExitStack) -> bool:
    """Decide between new, resumed and overwritten, alike in every process; rank 0 alone locks and changes the disk.

    Returns:
        Whether an earlier run goes on. ``held`` keeps the lock.

    Raises:
        UserError: as ``open_run``.
    """
    out = config.out
    problem: UserError | None = None
    resumed = False
    try:
        resumed = check_run_folder(config)
    except UserError as error:
        problem = error
    world.barrier()  # every rank has looked before rank 0 writes
    if problem is not None:
        raise problem
    if world.is_main:
        try:
            out.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(out))
            _check_contents(config)  # another process may have used it since
            for entry in (*_leftovers(config), *_inner_leftovers(config)):
                _remove(entry)
            if not resumed:
                _start_over(config)
        except OSError as error:
            raise UserError(f"out: {out} cannot be written: {error.strerror}; choose another out") from None
    world.barrier()
    return resumed


def _start_over(config: StageConfig) -> None:
    for name in config.entries:
        # replaced below: without it, a half-emptied folder could be neither resumed nor overwritten
        if name != "config.yaml":
            _remove(config.out / name)
    write_settings(config)


def write_settings(config: StageConfig) -> None:
    """Write ``config.yaml`` in the run folder: what a run that is resumed is compared with."""
    write_text(config.out / "config.yaml", f"{config.heading}\n{dump_config(config)}")


def _leftovers(config: StageConfig) -> list[Path]:
    """What killed runs left next to their entries: half-written or half-removed."""
    return [path for path in config.out.glob(".*") if leftover(path) in config.entries]


def _inner_leftovers(config: StageConfig) -> list[Path]:
    """The same for what is inside entries that are folders."""
    below = [(config.out / name).glob("**/.*" if name in config.trees else ".*") for name in config.entries]
    return [path for found in below for path in found if leftover(path)]


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        remove_folder(entry)
    elif entry.exists() or entry.is_symlink():
        entry.unlink()


def check_run_folder(config: StageConfig, unknown: frozenset[str] = frozenset()) -> bool:
    """Whether this run continues an earlier one; raises what ``open_run`` would raise, and changes nothing on disk.

    Args:
        unknown: settings that are not known now, because of a problem that is reported elsewhere.
    """
    out = config.out
    if config.resume and config.overwrite:
        raise UserError("resume=true and overwrite=true exclude each other; set one of them")
    if NUMBER in out.name:
        raise _which_run(config)
    check_place(out, "out")
    if any(NUMBER in part for part in out.parts[:-1]):
        raise UserError(f"out: {out}: {NUMBER} is replaced by a number in the last part alone; write it there")
    if not out.exists():
        return False
    check_unused(out)
    return _check_contents(config, unknown)


def _check_contents(config: StageConfig, unknown: frozenset[str] = frozenset()) -> bool:
    """Whether this run continues what is in the folder; raises where it may neither continue nor replace it."""
    out = config.out
    if not set(out.iterdir()) - {out / LOCK, *_leftovers(config)}:
        return False
    saved = out / "config.yaml"
    if not (config.resume or config.overwrite):
        raise UserError(
            f"out: {out} is not empty; use resume=true to continue, overwrite=true to start over, or another out"
        )
    if not saved.is_file():
        if config.overwrite:
            raise UserError(
                f"out: {out} holds files that no stage wrote, so it cannot be overwritten; choose another out"
            )
        raise UserError(f"out: {out} has no config.yaml, so it cannot be resumed; choose another out")
    _check_writer(config, saved)
    if config.overwrite:
        return False
    if changed := changes(config, config.free_keys | unknown):
        raise UserError(*changed, title=f"resume=true, but the config differs from the one in {saved}:")
    return True


def changes(config: StageConfig, free: frozenset[str]) -> list[str]:
    """The settings that differ from those of the run in ``config.out``, except ``free`` ones."""
    old = _flat(read_yaml(type(config), config.out / "config.yaml"))
    new = _flat(config.model_dump(mode="json"))
    return [
        f"{key}: was {old.get(key)!r}, now {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if not _same(old.get(key), new.get(key)) and not _is_free(key, free)
    ]


def _same(old: object, new: object) -> bool:
    """Whether a setting is the same as before; the home folder may have been written short then."""
    return old == new or (isinstance(old, str) and str(in_full(old)) == new)


def _check_writer(config: StageConfig, saved: Path) -> None:
    """Refuse a run of another stage, named on the first line of its ``config.yaml``: nothing of it may be lost.

    Without such a line, it is a run of an earlier version, which wrote all settings, or a file of the user.
    """
    stage = run_stage(config.out)
    if stage is not None:
        writer = command(stage)
    else:
        found = read_yaml(type(config), saved).keys()
        if unknown := found - type(config).model_fields.keys():
            writer = f"another stage or version (its config.yaml has {', '.join(sorted(unknown))})"
        elif config.overwrite and not {"out", "seed"} <= found:
            raise UserError(
                f"out: {config.out} has a config.yaml that no stage wrote, so it cannot be overwritten; choose another "
                "out"
            )
        else:
            return
    if writer != command(config.mark):
        verb = "overwrite" if config.overwrite else "resume"
        raise UserError(
            f"out: {config.out} holds a run of {writer}, and {verb}=true of {command(config.mark)} applies "
            "to its own runs only; choose another out"
        )


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

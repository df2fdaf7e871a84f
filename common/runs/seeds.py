"""A stage repeated with several seeds: a group of runs, each in a folder of its own in that of the group.

runs/mine/config.yaml  results.json  seed-0/  seed-1/  ...
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from common.errors import UserError
from common.files import GROUP, leftover, run_stage
from common.machine.distributed import World
from common.runs.folder import StageConfig, changes, check_run_folder, claim
from common.runs.results import RESULTS, load_results
from common.settings import read_yaml

LAST_SEED = (1 << 32) - 1
RUN = re.compile(r"seed-[0-9]+")  # the folder of a run in that of its group


class Repeated(StageConfig):
    """Keys of the stages that can be repeated with several seeds."""

    free_keys: ClassVar[frozenset[str]] = StageConfig.free_keys | {"seeds"}  # more seeds may be added to a group

    seeds: int = Field(default=1, ge=1, le=1000)
    """Number of seeds, starting at `seed`, each run in its own folder in `out`: mean, deviation and interval."""

    @model_validator(mode="after")
    def _seeds_exist(self) -> Self:
        if self.seed + self.seeds - 1 > LAST_SEED:
            raise ValueError(
                f"seeds: the last one would be {self.seed + self.seeds - 1}, above {LAST_SEED}; lower seed"
            )
        return self

    @property
    def mark(self) -> str:
        return self.stage if self.seeds == 1 else f"{self.stage}{GROUP}"

    @property
    def entries(self) -> tuple[str, ...]:
        if self.seeds == 1:
            return self.writes
        half_removed = {leftover(path) or "" for path in self.out.glob(".seed-*")}
        runs = [*(run.name for run in group_runs(self.out)), *filter(RUN.fullmatch, half_removed)]
        return (RESULTS, *dict.fromkeys(runs), "config.yaml")


R = TypeVar("R", bound=Repeated)


def group_runs(group: Path) -> list[Path]:
    """The folders of the runs in that of a group, by seed, whether they have finished or not."""
    runs = (run for run in group.glob("seed-*") if RUN.fullmatch(run.name) and run_stage(run) is not None)
    return sorted(runs, key=seed_of)


def seed_of(run: Path) -> int:
    """The seed of a run of a group, by the name of its folder."""
    return int(run.name.removeprefix("seed-"))


class _Runs(BaseModel):
    model_config = ConfigDict(extra="ignore")

    runs: tuple[str, ...]


class _Summary(BaseModel):
    """What the results of a group say of its runs: their seeds, or their folders."""

    model_config = ConfigDict(extra="ignore")

    seeds: tuple[int, ...] | _Runs


def summarized_runs(group: Path) -> list[Path]:
    """The folders of the runs that the results of a finished group summarize, in their order.

    Raises:
        UserError: it has not finished, or its results are damaged.
    """
    if not (group / RESULTS).is_file():
        raise UserError(f"{group}: these runs have not all finished; continue them: {_to_continue(group)}")
    found = load_results(group, TypeAdapter(_Summary), (f"pretrain{GROUP}", "probe")).seeds
    names = found.runs if isinstance(found, _Runs) else [f"seed-{seed}" for seed in found]
    return [group / name for name in names]


def finished_runs(group: Path) -> list[Path]:
    """The same folders, after checking that all of them still exist.

    Raises:
        UserError: it has not finished, or a run was removed since.
    """
    runs = summarized_runs(group)
    gone = [run.name for run in runs if run_stage(run) is None or not (run / RESULTS).is_file()]
    if gone:
        raise UserError(f"{group}: {', '.join(gone)} is gone; put it back, or make it again: {_to_continue(group)}")
    return runs


def _to_continue(group: Path) -> str:
    """The command that continues a group, with as many seeds as it was last asked for, as far as that is known."""
    asked = read_yaml(Repeated, group / "config.yaml").get("seeds")
    seeds = max(asked if isinstance(asked, int) else 2, len(group_runs(group)))
    stage, settings = (run_stage(group) or "").removesuffix(GROUP), str(group / "config.yaml")
    return shlex.join(["retouch", stage, settings, f"out={group}", "resume=true", f"seeds={seeds}"])


def one_of(config: R, name: str, seed: int) -> R:
    """The settings of one run of a group."""
    wandb = config.wandb.model_copy(update={"name": f"{config.wandb.name_of(config.out)}-{name}"})
    return config.model_copy(update={"seed": seed, "seeds": 1, "out": config.out / name, "wandb": wandb})


def with_each_seed(config: R) -> list[R]:
    """The settings of each run of a group, as if it had been started alone."""
    seeds = range(config.seed, config.seed + config.seeds)
    return [one_of(config, f"seed-{seed}", seed) for seed in seeds]


def has_finished(config: Repeated) -> bool:
    """Whether this very run has finished, so that a group that goes on need not repeat it."""
    there = config.resume and run_stage(config.out) == config.mark and (config.out / RESULTS).is_file()
    return there and not changes(config, Repeated.free_keys)


def check_group(config: Repeated, runs: Sequence[Repeated]) -> None:
    """Check the folder of a group of these runs, as ``check_run_folder`` does.

    Raises:
        UserError: it cannot be used, or it holds more runs, which a summary of these would leave out.
    """
    known = {one.out.name for one in runs}
    if check_run_folder(config) and (more := [run.name for run in group_runs(config.out) if run.name not in known]):
        raise UserError(
            f"seeds: {config.out} holds more runs than {len(runs)}, such as {more[0]}: to continue it, set "
            f"seeds={len(runs) + len(more)}; or choose another out"
        )


@contextmanager
def open_group(config: Repeated, here: World) -> Iterator[None]:
    """Open the folder of a group for its runs. If none has started by the end, nothing is left of it.

    A group that goes on has no results until all of its runs have: results of fewer seeds are removed.

    Raises:
        UserError: as ``open_run``.
    """
    new = not config.out.exists()
    try:
        with ExitStack() as held:  # the lock
            claim(config, here, held)
            if here.is_main:
                (config.out / RESULTS).unlink(missing_ok=True)
            try:
                yield
            finally:
                if here.is_main and not group_runs(config.out):
                    (config.out / "config.yaml").unlink()
    finally:
        if here.is_main and new:
            with suppress(OSError):  # not empty
                config.out.rmdir()

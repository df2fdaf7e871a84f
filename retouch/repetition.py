"""``retouch repeat``: run a result again from what it holds, and say number by number whether it is the same.

result ─> read it, its settings ─> what differs now (versions, machine, images) ─> the stage ─> compare ─> verdict
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.config import load_config
from common.encoders.load import read_encoder_card
from common.errors import UserError, check_all
from common.files import command, run_stage
from common.machine.distributed import World, gather, world
from common.runs.folder import check_run_folder, numbered
from common.runs.made import ENCODER, Made, made
from common.runs.results import RESULTS, Record
from common.runs.seeds import with_each_seed
from finetune import full, opening
from finetune.config import FinetuneConfig, ProbeConfig
from finetune.full import finetune
from finetune.lines import task_names
from finetune.results import FinetuneResult, ProbeReport
from finetune.results import read_results as read_transfer
from finetune.seeds import plan_of, probe, with_every_encoder
from finetune.several import Several
from finetune.spreads import MEASURES
from pretrain import run as pretraining
from pretrain.config import GradientPretraining, PretrainConfig
from pretrain.results import PretrainResults, PretrainSeeds, read_seeds
from pretrain.results import read_results as read_pretraining
from pretrain.seeds import pretrain
from retouch.studies.results import CONTESTANTS, PLAN

log = logging.getLogger("retouch")

# Keys of results.json that are not compared, wherever they stand, and why.
NOT_COMPARED = {
    "seconds": "time, which no two runs share",
    "originals": "facts of the images, whose fingerprints are compared before the run starts",
    "test_originals": "likewise",
    "made": "versions and machine, which are compared before the run starts",
}

Results = PretrainResults | PretrainSeeds | ProbeReport | FinetuneResult
Settings = PretrainConfig | ProbeConfig | FinetuneConfig
Verdict = Literal["identical", "within the interval", "different"]
Leaf = str | float | bool | None


class Number(Record):
    """One number of the result, then and now."""

    name: str
    then: float
    now: float | None  # None: it is not there any more
    ci95: tuple[float, float] | None  # of then; None where one run gives none

    @property
    def state(self) -> Verdict:
        """``within the interval`` of then, if it is not the same."""
        if self.then == self.now:
            return "identical"
        inside = self.now is not None and self.ci95 is not None and self.ci95[0] <= self.now <= self.ci95[1]
        return "within the interval" if inside else "different"


class Repetition(Record):
    """What repeating a result has shown."""

    of: Path  # the folder of the result
    folder: Path  # of its repetition
    verdict: Verdict
    numbers: tuple[Number, ...]  # what the result is about
    values: int  # all that results.json holds, but for `NOT_COMPARED`
    differing: tuple[str, ...]  # the keys of those that are not the same
    changed: tuple[str, ...]  # versions, machine and images that were not those of then


def repeat(result: str | Path, out: str | Path | None = None, *, resume: bool = False) -> Repetition | None:
    """Run a result of pretraining, a probe or fine-tuning again, and compare.

    Args:
        result: a ``results.json``, or the run folder around it.
        out: the folder of the repetition; by default the first of ``RESULT-repeat-1``, ``-2``, ... that is free.
        resume: continue a repetition that was stopped, in ``out``.

    Returns:
        The same in every process; None if a signal stopped it.

    Raises:
        UserError: there is no such result, it cannot be repeated, or its images or encoder are gone; nothing has been
            written.
    """
    if resume and out is None:
        raise UserError("to continue a repetition, name its folder: -o FOLDER --resume")
    folder = _folder(Path(result))
    then = read_any(folder)
    settings = _settings(folder, then)
    where = folder.with_name(f"{folder.name}-repeat-{{n}}") if out is None else Path(out)
    config = settings.model_copy(update={"out": where, "resume": resume, "overwrite": False})
    with world() as here, numbered(config, here) as config:
        changed, _ = check_all(lambda: _changed(folder, then, config, here), lambda: check_run_folder(config))
        for line in changed:
            log.warning("%s", line)
        log.info("%s is run again in %s", folder, config.out)
        if not gather(_run(config))[0]:  # the others know nothing of the result
            again = shlex.join(["retouch", "repeat", str(folder), "-o", str(config.out), "--resume"])
            log.info("to continue and compare: %s", again)
            return None
        found = compared(folder, config.out, then, read_any(config.out), changed)
        if here.is_main:
            _show(found)
        return found


# ---- the result, and its settings


def _folder(path: Path) -> Path:
    """The folder of a result that can be repeated.

    Raises:
        UserError: says why it cannot be, and what would work.
    """
    folder = path.parent if path.name == RESULTS else path
    if folder.name in ("", ".."):  # the name of the repetition follows from its own
        folder = Path(os.path.abspath(folder))  # noqa: PTH100 -- resolve() would follow links
    mark = run_stage(folder)
    if mark is None:
        raise UserError(
            f"{path}: not a run; give the folder of a finished run, such as runs/denoise-1, or its {RESULTS}"
        )
    if mark == "study":
        raise UserError(
            f"{folder}: a study decides by the clock, so its plan repeats it: retouch study {folder}/config.yaml "
            f"out={folder}-repeat plan={folder}/{PLAN}"
        )
    inside, *above = folder.absolute().parents
    if inside.name == CONTESTANTS and run_stage(study := above[0]) == "study":
        raise UserError(f"{folder}: a part of the study {study}, which chose its images; repeat the study: {study}")
    if mark == "embed":
        raise UserError(
            f"{folder}: retouch embed leaves features, and no numbers to compare; to write them again: retouch embed "
            f"{folder}/config.yaml out={folder}-repeat"
        )
    if not (folder / RESULTS).is_file():
        raise UserError(f"{folder}: this run of {command(mark)} has not finished; continue it, and repeat it then")
    return folder


def read_any(folder: Path) -> Results:
    """The results in the folder of a run, whichever of these stages wrote it.

    Raises:
        UserError: they are damaged, or of another version.
    """
    mark = run_stage(folder)
    if mark == "pretrain":
        return read_pretraining(folder)
    return read_seeds(folder) if mark == "pretrain_seeds" else read_transfer(folder)


def _settings(folder: Path, then: Results) -> Settings:
    """The settings that gave this result, from its ``config.yaml``.

    Raises:
        UserError: this version has no such settings.
    """
    file = folder / "config.yaml"
    if isinstance(then, FinetuneResult):
        return load_config(FinetuneConfig, file)
    if isinstance(then, ProbeReport):
        # nothing is to be taken from the first run, and features are; seeds may have been added since
        seeds = 1 if then.seeds is None else len(then.seeds.runs)
        return load_config(ProbeConfig, file).model_copy(update={"feature_cache": False, "seeds": seeds})
    config = load_config(PretrainConfig, file)
    runs = then.runs if isinstance(then, PretrainSeeds) else (then,)
    config = config.model_copy(update={"seeds": len(runs)})
    ends = {run.steps for run in runs}
    if isinstance(config, GradientPretraining) and len(ends) == 1:  # seeds that stopped when flat do so again
        # a run that was resumed may have ended elsewhere than its first settings say
        return config.model_copy(update={"stop": config.stop.model_copy(update={"at": ends.pop()})})
    return config


def _run(config: Settings) -> bool:
    """Run the stage; False if a signal stopped it."""
    if isinstance(config, PretrainConfig):
        return pretrain(config).encoder is not None
    if isinstance(config, ProbeConfig):
        probe(config)
        return True
    return finetune(config, feature_cache=False) is not None


# ---- what differs before it starts


class Member(NamedTuple):
    """One run of the result, of which a group has several."""

    config: Settings
    made: Made | None


def _changed(folder: Path, then: Results, config: Settings, here: World) -> list[str]:
    """What is not as it was, each with what to do.

    Raises:
        UserError: images or an encoder cannot be opened, or an encoder is another one than then.
    """
    found: list[str] = []
    for member in _members(folder, then, config):
        if member.made is None:
            found.append(f"{folder} does not say what it was made with: an older Retouch wrote it")
        else:
            found += differences(folder, member.made, made(_inputs(member.config, here)))
    return list(dict.fromkeys(found))


def _members(folder: Path, then: Results, config: Settings) -> list[Member]:
    if isinstance(then, PretrainSeeds) and isinstance(config, PretrainConfig):
        return [Member(with_each_seed(config)[0], then.runs[0].made)]  # the images of all are the same
    if isinstance(then, ProbeReport) and then.seeds is not None and isinstance(config, ProbeConfig):
        runs = plan_of(with_every_encoder(config)).runs
        reports = [read_transfer(folder / name) for name in then.seeds.runs]
        return [Member(run, report.made) for run, report in zip(runs, reports, strict=True)]
    assert not isinstance(then, PretrainSeeds)
    return [Member(config, then.made)]


def _inputs(config: Settings, here: World) -> dict[str, str]:
    """Fingerprints of what a run would read now."""
    if isinstance(config, PretrainConfig):
        return pretraining.inputs(pretraining.open_images(config, here))
    if isinstance(config, ProbeConfig):
        return {ENCODER: read_encoder_card(config.encoder).sha256, **opening.inputs(opening.open_images(config))}
    start = config.encoder
    trained = start.path is not None and not start.from_scratch
    encoder = {ENCODER: read_encoder_card(start.path).sha256} if trained and start.path else {}
    return {**encoder, **full.open_images(config, here).inputs()}


def differences(folder: Path, then: Made, now: Made) -> list[str]:
    """What differs between two makings of the result in ``folder``, in words, each with what to do.

    Raises:
        UserError: the encoder is another one, so it would not be a repetition.
    """
    found = []
    for name, version in then.versions.items():
        if (other := now.versions.get(name, "none")) != version:
            public = version.partition("+")[0]  # an index by itself knows no 2.11.0+cpu
            remedy = f"pip install {name}=={public}" if name not in ("Python", "retouch") else f"use {name} {version}"
            found.append(f"{name} was {version}, and is {other}: for the same digits, {remedy}")
    if then.code != now.code and then.versions.get("retouch") == now.versions.get("retouch"):
        found.append("the source of Retouch has changed since: for the same digits, use that of then")
    if then.processor != now.processor:
        found.append(f"it was made on {then.processor}, and this is {now.processor}: the last digits may differ")
    if then.device != now.device:
        found.append(f"it was made on the device {then.device}, and this is {now.device}: digits will differ")
    if then.threads != now.threads:
        found.append(
            f"it was made by {then.threads} threads, and these are {now.threads}: for the same digits, set "
            f"OMP_NUM_THREADS={then.threads}"
        )
    if then.processes != now.processes:
        found.append(
            f"it was made by {then.processes} processes, and these are {now.processes}: for the same digits, torchrun "
            f"--nproc-per-node {then.processes} -m retouch repeat {shlex.quote(str(folder))}"
        )
    for key, fingerprint in then.inputs.items():
        if now.inputs.get(key) == fingerprint:
            continue
        if key == ENCODER:
            raise UserError(
                f"encoder: it is not the one that was measured (sha256 {fingerprint[:12]}, now "
                f"{now.inputs.get(key, 'none')[:12]}): put that one back, or repeat its pretraining into its folder"
            )
        found.append(
            f"{key}: the images have changed since (their files, sizes, dates or labels), so numbers will differ: put "
            "back those of then"
        )
    return found


# ---- comparison


def headline(found: Results) -> list[tuple[str, float, tuple[float, float] | None]]:
    """What a result is about: names, numbers, and their intervals where they have one."""
    if isinstance(found, PretrainResults):
        numbers = {"steps": float(found.steps), **found.numbers}
        return [(name, value, None) for name, value in numbers.items() if name not in NOT_COMPARED]
    if isinstance(found, PretrainSeeds):
        spreads = found.spreads.items()
        return [(name, one.mean, one.ci95) for name, one in spreads if name not in NOT_COMPARED]
    if isinstance(found, FinetuneResult):
        networks = {"fine-tuned": found.tuned, "from scratch": found.from_scratch, "linear probe": found.linear_probe}
        return [(name, one.test.accuracy, one.test.ci95) for name, one in networks.items() if one is not None]
    if found.seeds is not None:
        return [
            (
                f"{one.task}, {one.subject}, {one.probe if one.measure == 'accuracy' else MEASURES[one.measure]}",
                one.spread.mean,
                one.spread.ci95,
            )
            for one in found.seeds.spreads
        ]
    classes = [
        (f"{task}, {subject}, {probe}", outcome.test.accuracy, outcome.test.ci95)
        for task, result in zip(task_names(found.results), found.results, strict=True)
        for subject, measured in result.subjects.items()
        for probe, outcome in measured.probes.items()
    ]
    kinds: tuple[Sequence[Several], ...] = (found.multilabel, found.dense)
    several = [
        (f"{task}, {subject}, {MEASURES[result.measure]}", one.test.mean, one.test.ci95)
        for results in kinds
        for task, result in zip(task_names(results), results, strict=True)
        for subject, one in result.subjects.items()
    ]
    return [*classes, *several]


def compared(of: Path, folder: Path, then: Results, now: Results, changed: Sequence[str] = ()) -> Repetition:
    """The verdict on two results: of every value that they hold, and of the numbers that they are about."""
    other = {name: value for name, value, _ in headline(now)}  # of changed images, tasks may be missing
    numbers = tuple(
        Number(name=name, then=value, now=other.get(name), ci95=ci95) for name, value, ci95 in headline(then)
    )
    old, new = dict(leaves(then.model_dump(mode="json"))), dict(leaves(now.model_dump(mode="json")))
    differing = tuple(key for key in dict.fromkeys((*old, *new)) if old.get(key, ...) != new.get(key, ...))
    verdict: Verdict = "different"
    if not differing:
        verdict = "identical"
    elif numbers and all(one.ci95 is not None and one.state != "different" for one in numbers):
        verdict = "within the interval"
    return Repetition(
        of=of,
        folder=folder,
        verdict=verdict,
        numbers=numbers,
        values=len(old.keys() | new.keys()),
        differing=differing,
        changed=tuple(changed),
    )


def leaves(value: object, key: str = "") -> Iterator[tuple[str, Leaf]]:
    """Every value of a JSON document by its dotted key, but for ``NOT_COMPARED``."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name not in NOT_COMPARED:
                yield from leaves(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from leaves(inner, f"{key}.{place}")
    else:
        assert value is None or isinstance(value, str | float | int)
        yield key, value


def _show(found: Repetition) -> None:
    """The table and the verdict, on the console."""
    console = Console(width=None if Console().is_terminal else 100)
    table = Table(title=f"{found.of}, run again in {found.folder}", title_justify="left")
    for column in ("", "then", "now", "95% interval then", ""):
        table.add_column(column)
    for one in found.numbers:
        interval = "" if one.ci95 is None else f"[{one.ci95[0]:.4g}, {one.ci95[1]:.4g}]"
        now = "missing" if one.now is None else f"{one.now:.6g}"
        table.add_row(escape(one.name), f"{one.then:.6g}", now, escape(interval), one.state)
    console.print(table)
    for line in sentences(found):
        console.print(line, highlight=False, markup=False)


def sentences(found: Repetition) -> list[str]:
    """The verdict in words, and what may explain it."""
    if found.verdict == "identical":
        return [f"identical: all {found.values:,} values of {RESULTS} are the same, to the last digit"]
    count = f"{len(found.differing):,} of {found.values:,} values of {RESULTS} differ, the first: {found.differing[0]}"
    lines = [f"{found.verdict}: {count}"]
    if found.verdict == "different" and all(one.ci95 is None for one in found.numbers):
        lines.append("one pretraining run has no interval; one with seeds=5 has")
    if found.changed:
        lines += ["this was not as it was then:", *(f"  {line}" for line in found.changed)]
    elif found.verdict == "different":
        lines.append(
            "versions, machine, images and encoder are those of then, so this should not happen: please report it"
        )
    return lines

"""``retouch repeat``: run a result again with its own settings, and compare it number by number.

result ─> read it, its settings ─> what differs now (versions, machine, images) ─> the stage ─> compare ─> verdict
"""

from __future__ import annotations

import logging
import os
import shlex
from pathlib import Path
from typing import NamedTuple

from common.config import load_config
from common.encoders.load import read_encoder_card
from common.errors import UserError, check_all
from common.files import command, in_full, run_stage
from common.machine.distributed import World, gather, world
from common.runs.folder import check_run_folder, numbered
from common.runs.made import ENCODER_INPUT, Made, made
from common.runs.results import RESULTS
from common.runs.seeds import with_each_seed
from finetune import full, opening
from finetune.config import FinetuneConfig, ProbeConfig
from finetune.full import finetune
from finetune.results import FinetuneResult, ProbeReport
from finetune.results import read_results as read_transfer
from finetune.seeds import plan_of, probe, with_every_encoder
from pretrain import opening as pretraining
from pretrain.config import GradientPretraining, PretrainConfig
from pretrain.results import PretrainSeeds, read_seeds
from pretrain.results import read_results as read_pretraining
from pretrain.seeds import pretrain
from retouch.comparison import Repetition, Results, compared, show
from retouch.reporting.folders import LEFT
from retouch.studies import images as studied
from retouch.studies.config import StudyConfig
from retouch.studies.journal import read_plan
from retouch.studies.results import CONTESTANTS, PLAN, StudyReport
from retouch.studies.results import read_results as read_study
from retouch.studies.run import study

log = logging.getLogger("retouch")

Settings = PretrainConfig | ProbeConfig | FinetuneConfig | StudyConfig


def repeat(result: str | Path, out: str | Path | None = None, *, resume: bool = False) -> Repetition | None:
    """Run a result of pretraining, a probe, fine-tuning or a study again, and compare.

    Args:
        result: a ``results.json``, or the run folder around it.
        out: the folder of the repetition; by default the first of ``RESULT-repeat-1``, ``-2``, ... that is free.
        resume: continue a repetition in ``out`` that was stopped.

    Returns:
        The same in every process; None if a signal stopped it.

    Raises:
        UserError: there is no such result, it cannot be repeated, or its images or encoder are gone. Nothing has been
            written then.
    """
    if resume and out is None:
        raise UserError("to continue a repetition, name its folder: -o FOLDER --resume")
    folder = result_folder(in_full(result))
    then = read_any(folder)
    settings = _settings(folder, then)
    where = folder.with_name(f"{folder.name}-repeat-{{n}}") if out is None else in_full(out)
    config = settings.model_copy(update={"out": where, "resume": resume, "overwrite": False})
    with world() as here, numbered(config, here) as config:
        changed, _ = check_all(lambda: _changed(folder, then, config, here), lambda: check_run_folder(config))
        for line in changed:
            log.warning("%s", line)
        log.info("%s is run again in %s", folder, config.out)
        if not gather(_run(config))[0]:  # only the first process has the result
            again = shlex.join(["retouch", "repeat", str(folder), "-o", str(config.out), "--resume"])
            log.info("to continue and compare: %s", again)
            return None
        found = compared(folder, config.out, then, read_any(config.out), changed)
        if here.is_main:
            show(found)
        return found


# ---- the result, and its settings


def result_folder(path: Path) -> Path:
    """The folder of a result that can be repeated.

    Raises:
        UserError: says why not, and what would work.
    """
    folder = path.parent if path.name == RESULTS else path
    if folder.name in ("", ".."):  # the repetition is named after the folder
        folder = Path(os.path.abspath(folder))  # noqa: PTH100 -- resolve() would follow links
    mark = run_stage(folder)
    if mark is None:
        raise UserError(
            f"{path}: not a run; give the folder of a finished run, such as runs/denoise-1, or its {RESULTS}"
        )
    inside, *above = folder.absolute().parents
    if inside.name == CONTESTANTS and run_stage(study := above[0]) == "study":
        raise UserError(f"{folder} is part of the study {study}, which chose its images; repeat the study: {study}")
    if mark in LEFT:
        raise UserError(
            f"{folder}: retouch {mark} writes {LEFT[mark]}, but no numbers to compare; to write them again: retouch "
            f"{mark} {folder}/config.yaml out={folder}-repeat"
        )
    if not (folder / RESULTS).is_file():
        raise UserError(f"{folder}: this run of {command(mark)} has not finished; continue it first, then repeat it")
    return folder


def read_any(folder: Path) -> Results:
    """Read the results in a run folder of pretraining, a probe, fine-tuning or a study.

    Raises:
        UserError: they are damaged, or written by another version of Retouch.
    """
    mark = run_stage(folder)
    if mark == "pretrain":
        return read_pretraining(folder)
    if mark == "study":
        return read_study(folder)
    return read_seeds(folder) if mark == "pretrain_seeds" else read_transfer(folder)


def _settings(folder: Path, then: Results) -> Settings:
    """The settings that gave this result, from its ``config.yaml``.

    Raises:
        UserError: this version has no such settings, or a study has lost its plan.
    """
    file = folder / "config.yaml"
    if isinstance(then, StudyReport):
        read_plan(folder)
        # the plan keeps decisions that depended on time
        return load_config(StudyConfig, file).model_copy(update={"plan": folder / PLAN})
    if isinstance(then, FinetuneResult):
        return load_config(FinetuneConfig, file)
    if isinstance(then, ProbeReport):
        # do not reuse features of the first run; config.yaml has its last settings, to which seeds may have been added
        seeds = 1 if then.seeds is None else len(then.seeds.runs)
        return load_config(ProbeConfig, file).model_copy(update={"feature_cache": False, "seeds": seeds})
    config = load_config(PretrainConfig, file)
    runs = then.runs if isinstance(then, PretrainSeeds) else (then,)
    config = config.model_copy(update={"seeds": len(runs)})
    ends = {run.steps for run in runs}
    if isinstance(config, GradientPretraining) and len(ends) == 1:  # seeds that stopped when flat do so again
        # a resumed run may have ended at another step than its first settings
        stop = config.stop.model_copy(update={"at": ends.pop(), "after": None})
        return config.model_copy(update={"stop": stop})
    return config


def _run(config: Settings) -> bool:
    """Run the stage; False if a signal stopped it."""
    if isinstance(config, PretrainConfig):
        return pretrain(config).encoder is not None
    if isinstance(config, ProbeConfig):
        probe(config)
        return True
    if isinstance(config, StudyConfig):
        return study(config) is not None
    return finetune(config, feature_cache=False) is not None


# ---- what has changed since


class Member(NamedTuple):
    """One run of the result; a group has several."""

    config: Settings
    made: Made | None


def _changed(folder: Path, then: Results, config: Settings, here: World) -> list[str]:
    """What has changed since the result, each with a remedy.

    Raises:
        UserError: images or an encoder cannot be opened, or an encoder is a different one.
    """
    found: list[str] = []
    for member in _members(folder, then, config):
        if member.made is None:
            found.append(f"{folder} does not record versions, machine and images: an older version of Retouch wrote it")
        else:
            found += differences(folder, member.made, made(_inputs(member.config, here)))
    return list(dict.fromkeys(found))


def _members(folder: Path, then: Results, config: Settings) -> list[Member]:
    if isinstance(then, PretrainSeeds) and isinstance(config, PretrainConfig):
        return [Member(with_each_seed(config)[0], then.runs[0].made)]  # all use the same images
    if isinstance(then, ProbeReport) and then.seeds is not None and isinstance(config, ProbeConfig):
        runs = plan_of(with_every_encoder(config)).runs
        reports = [read_transfer(folder / name) for name in then.seeds.runs]
        return [Member(run, report.made) for run, report in zip(runs, reports, strict=True)]
    assert not isinstance(then, PretrainSeeds)
    return [Member(config, then.made)]


def _inputs(config: Settings, here: World) -> dict[str, str]:
    """Fingerprints of what a run would read now."""
    if isinstance(config, PretrainConfig):
        began = {} if config.start is None else {ENCODER_INPUT: read_encoder_card(str(config.start.path)).sha256}
        return began | pretraining.inputs(pretraining.open_images(config, here))
    if isinstance(config, ProbeConfig):
        return {ENCODER_INPUT: read_encoder_card(config.encoder).sha256, **opening.inputs(opening.open_images(config))}
    if isinstance(config, StudyConfig):
        return studied.inputs(config, studied.open_images(config))
    start = config.encoder
    trained = start.path is not None and not start.from_scratch
    encoder = {ENCODER_INPUT: read_encoder_card(start.path).sha256} if trained and start.path else {}
    return {**encoder, **full.open_images(config, here).inputs()}


def differences(folder: Path, then: Made, now: Made) -> list[str]:
    """What differs between the run that wrote ``folder`` and this one, each with a remedy.

    Raises:
        UserError: the encoder is a different one, so this would not be a repetition.
    """
    found = []
    for name, version in then.versions.items():
        if (other := now.versions.get(name, "none")) != version:
            public = version.partition("+")[0]  # the default index has no 2.11.0+cpu
            remedy = f"pip install {name}=={public}" if name not in ("Python", "retouch") else f"use {name} {version}"
            found.append(f"{name} was {version} and is now {other}: for identical numbers, {remedy}")
    if then.code != now.code and then.versions.get("retouch") == now.versions.get("retouch"):
        found.append("the source of Retouch has changed since: for identical numbers, use the earlier source")
    if then.processor != now.processor:
        found.append(f"it was made on {then.processor}, but this is {now.processor}: the last digits may differ")
    if then.device != now.device:
        found.append(f"it was made on the device {then.device}, but this run uses {now.device}: numbers will differ")
    if then.threads != now.threads:
        found.append(
            f"it was made with {then.threads} threads, but this run uses {now.threads}: for identical numbers, set "
            f"OMP_NUM_THREADS={then.threads}"
        )
    if then.processes != now.processes:
        found.append(
            f"it was made with {then.processes} processes, but this run uses {now.processes}: for identical numbers, "
            f"run torchrun --nproc-per-node {then.processes} -m retouch repeat {shlex.quote(str(folder))}"
        )
    for key, fingerprint in then.inputs.items():
        if now.inputs.get(key) == fingerprint:
            continue
        if key == ENCODER_INPUT:
            raise UserError(
                f"encoder: this is not the one that was measured (sha256 {fingerprint[:12]}, now "
                f"{now.inputs.get(key, 'none')[:12]}); restore that one, or repeat its pretraining into its folder"
            )
        found.append(
            f"{key}: the images have changed since (files, sizes, dates or labels), so numbers will differ; for "
            "identical numbers, restore the original images"
        )
    return found

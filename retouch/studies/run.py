"""The stage: unlabeled and labeled images in, an answer out, within a budget."""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

from common.encoders.load import ENCODER
from common.encoders.readme import README
from common.errors import UserError, check_all
from common.machine.distributed import World, world
from common.machine.precision import resolve_precision
from common.runs.continuing import say_how_to_continue
from common.runs.folder import Run, check_run_folder, numbered, open_run, with_group
from common.runs.logs import early_log
from common.runs.made import made
from common.runs.results import RESULTS
from common.runs.screen import print_line, screen
from finetune.features import Extraction
from retouch.reporting.card import write_card
from retouch.reporting.page import write_report
from retouch.studies import plan as planning
from retouch.studies import rungs
from retouch.studies.budget import enough_minutes, fit_in, fit_simple, kept_seconds, make_plan, planned_again
from retouch.studies.config import StudyConfig
from retouch.studies.contestants import check_contestants, check_pretrained, title_of
from retouch.studies.estimates import measured
from retouch.studies.field import line_up
from retouch.studies.final import finish
from retouch.studies.images import Opened, StudyImages, image_size, inputs, label_set, load, open_images
from retouch.studies.journal import Journal, read_plan
from retouch.studies.judge import Judge
from retouch.studies.next_steps import next_steps
from retouch.studies.parts import Parts
from retouch.studies.plan import Plan, Wider
from retouch.studies.race import judge_once, run_race
from retouch.studies.results import CONTESTANTS, SCRATCH, StudyReport, read_results
from retouch.studies.table import study_table
from retouch.studies.wider import widen

log = logging.getLogger("retouch")

REPORT = "report.html"
BATCH = 256  # images per pass of a frozen encoder


def study(config: StudyConfig, started: float | None = None) -> StudyReport | None:
    """Find out whether pretraining helps on these images; write ``config.out``.

    Args:
        started: when the budget began, by ``time.monotonic``; by default now.

    Returns:
        The content of ``results.json``; None if a signal stopped training.

    Raises:
        UserError: settings, images or the run folder cannot be used; nothing has been written.
    """
    started = time.monotonic() if started is None else started
    with world() as here, numbered(config, here) as config, early_log() as early:
        if here.size > 1:
            raise UserError("study runs in one process: start it without torchrun")
        # everything the user can get wrong is checked before anything is written
        opened, given, *_ = check_all(
            lambda: open_images(config),
            lambda: _given(config),
            lambda: check_contestants(config),
            lambda: check_pretrained(config),
            lambda: _check_folder(config),
        )
        config = with_group(config)
        with open_run(config, here, early) as run:
            parts = _begin(config, opened, given, here, run, started)
            with parts.journal.beating():
                report = answer(parts, given)
            if report is None:
                parts.journal.save()
                say_how_to_continue(config.out)
                return None
            console = screen()
            console.print(study_table(report))
            for sentence in (*report.verdict, *report.notes):
                print_line(console, sentence)
            path = write_report([config.out], config.out / REPORT)
            encoder = config.out / CONTESTANTS / report.winner / ENCODER
            if encoder.is_dir():
                write_card([config.out], encoder / README)  # replaces that of pretraining, which had no labels
            if (steps := next_steps(config.out, config.labels, report)) is not None:
                lines = "\n".join(f"    {command}" for command in steps.commands)
                log.info("to classify new pictures with %s (%s):\n%s", steps.name, steps.why, lines)
            log.info("done in %.0f s (budget: %.0f s); report: %s", parts.journal.clock.taken, config.seconds, path)
            parts.journal.save()
            return report


def _check_folder(config: StudyConfig) -> None:
    """Check the run folder.

    Raises:
        UserError: it cannot be used, or holds a study that has finished with another budget.
    """
    if not check_run_folder(config) or not (config.out / RESULTS).is_file():
        return
    before = read_results(config.out).budget
    if config.seconds != before:
        raise UserError(
            f"resume=true, but {config.out} has finished, with a budget of {before:.0f} s; networks that have ended "
            f"their training learn no more: start a new study with budget={config.budget} and another out"
        )


def _given(config: StudyConfig) -> Plan | None:
    """The plan of another study, if one is given.

    Raises:
        UserError: the plan does not exist, or it has contestants that this study does not have.
    """
    if config.plan is None:
        return None
    found = read_plan(config.plan)
    wider = () if found.wider is None else (found.wider.of,)
    missing = {*found.steps, *found.simple, *wider} - set(map(title_of, config.contestants))
    if found.scratch and SCRATCH not in config.contestants:
        missing.add(SCRATCH)
    if found.wider is not None and found.wider.name in map(title_of, config.contestants):
        raise UserError(
            f"plan: {config.plan} learns {found.wider.of} again as {found.wider.name}, but a contestant of this study "
            "has that name; remove it from contestants, or remove plan"
        )
    if missing:
        raise UserError(
            f"plan: {config.plan} has contestants that this study does not have: {', '.join(sorted(missing))}; add "
            "them to contestants, or remove plan"
        )
    return found


def _begin(config: StudyConfig, opened: Opened, given: Plan | None, here: World, run: Run, started: float) -> Parts:
    """Decode all images, and line up the contestants."""
    journal = Journal(config.out, config.seconds, started)
    images = _images(config, opened, journal.followed(given), here)
    field = line_up(config, images.pool, images.size, here)
    how = Extraction(here.device, resolve_precision("auto", here.device), BATCH, config.labels.workers)
    log.info(
        "%s images to learn from; labeled images: %s to choose on, %s to fit on, %s to test; %s",
        *(f"{count:,}" for count in (len(images.pool), images.judged, images.fitted, images.tested)),
        _time_said(journal),
    )
    judge = Judge(images.sets, how, config.seed)
    return Parts(config, here, run, images, field, judge, journal, made(inputs(config, opened)))


def _time_said(journal: Journal) -> str:
    """How much of the budget is left, in words if nothing is."""
    clock = journal.clock
    if clock.left > 0:
        return f"{clock.left:.0f} of {clock.budget:.0f} s left"
    if journal.memory.judgments:
        return f"the budget of {clock.budget:.0f} s is spent"
    return (
        f"the budget of {clock.budget:.0f} s is too small: opening and decoding the images took {clock.taken:.0f} s; "
        "give it more, such as budget=20m"
    )


def _images(config: StudyConfig, opened: Opened, saved: Plan | None, here: World) -> StudyImages:
    """All images, with the size and the numbers of a plan if there is one."""
    size = config.image_size
    if saved is not None:
        if size not in (None, saved.image_size):
            raise UserError(f"image_size: the plan is for {saved.image_size} px, not {size}; remove image_size or plan")
        size, counts = saved.image_size, saved.sizes
    else:
        size = size or image_size(opened.labeled[0].train, gpu=here.device.type == "cuda")
        counts = planning.sizes(config.seconds)
    pool, labeled, repeated = load(config, opened, size)
    sets = tuple(label_set(one, **counts.model_dump(), seed=config.seed) for one in labeled)
    return StudyImages(size, pool, sets, repeated)


def _planned(parts: Parts, saved: Plan | None) -> tuple[Parts, Plan] | None:
    """Fit the simple methods, and plan the race; None if a signal stopped it.

    Time is reserved for the networks first. If there is too little all the same, the simple methods get it.
    """
    if saved is not None:
        found = _without_training(parts, saved, 0.0)
        return None if found is None else (found.parts, saved)
    timings = measured(parts)
    kept = kept_seconds(parts, timings)
    fastest = min(timings.values(), key=lambda one: rungs.least_seconds([one]), default=None)
    enough = enough_minutes(parts, [fastest]) if fastest else 0
    found = _without_training(parts, None, kept)
    if found is not None and kept and not fit_in(found.parts, timings):
        log.info("too little time is left for a network, so the simple methods get it")
        found = _without_training(parts, None, 0.0)
    if found is None:
        return None
    plan = make_plan(found.parts, timings, found.simple, found.wider, found.left_out)
    return found.parts, plan if plan.steps else plan.model_copy(update={"enough": enough})


class _Fitted(NamedTuple):
    """The methods that train no network: who competes, and a line about each that does not."""

    parts: Parts
    simple: tuple[str, ...]
    wider: Wider | None
    left_out: tuple[str, ...]


def _without_training(parts: Parts, saved: Plan | None, kept: float) -> _Fitted | None:
    """Fit and judge the simple methods and a wider dictionary, next to ``kept`` seconds for the networks."""
    simple = fit_simple(parts, saved, kept)
    widened = None if simple is None else widen(parts, saved, kept)
    if simple is None or widened is None:
        return None
    return _Fitted(widened.parts, simple.names, widened.wider, (*simple.left_out, *widened.left_out))


def _repeated(given: Plan, parts: Parts) -> Plan:
    """The plan of another study, which is followed however long it takes, with a line about each that it leaves out."""
    reasons = {line.partition(":")[0]: line.partition(":")[2].strip() for line in given.left_out}
    widened = [line for line in given.left_out if any(line.startswith(f"{one.name}_") for one in parts.field.simple)]
    networks = {one.name for one in parts.field.restoring}
    untried = tuple(name for name in given.untried if name in networks)
    too_short = 60 * given.enough > parts.config.seconds and bool(untried) == bool(given.untried)
    planned = {*given.steps, *given.simple, *((given.wider.name,) if given.wider else ())}
    missing = [one.name for one in (*parts.field.simple, *parts.field.restoring) if one.name not in planned]
    if SCRATCH in parts.config.contestants and given.scratch_settled and not given.scratch:
        missing.append(SCRATCH)
    return given.model_copy(
        update={
            "settled": len(given.rungs),
            "scratch_most": None,
            "skipped": (),
            "untried": untried,
            "enough": given.enough if too_short else 0,
            "left_out": (
                *parts.field.left_out,
                *(f"{name}: not in the plan that is repeated{_because(reasons.get(name))}" for name in missing),
                *(f"{line} (when the plan was made)" for line in widened),
            ),
        }
    )


def _because(reason: str | None) -> str:
    """The reason that the study had that made the plan."""
    return f" (then: {reason})" if reason else ""


def answer(parts: Parts, given: Plan | None) -> StudyReport | None:
    """The study itself; None if a signal stopped training."""
    for one in parts.field.ready:  # first, because the costs of judging all others are estimated from theirs
        judge_once(one, parts.judge, parts.journal, parts.run)
    begun = parts.journal.plan
    found = _planned(parts, parts.journal.followed(given))
    if found is None:
        return None
    parts, plan = found
    if begun is None and given is not None:
        plan = _repeated(given, parts)
    parts.journal.save_plan(plan)
    raced = run_race(
        *(parts.field.restoring, plan, parts.judge, parts.journal, parts.run),
        lambda now: planned_again(parts, now),
        timed=parts.config.plan is None,
    )
    return None if raced is None else finish(parts, raced)

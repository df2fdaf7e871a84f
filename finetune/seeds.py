"""The probe with one seed or several, or of several encoders that differ in their seed: a group of ordinary runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from common.encoders.load import read_encoder_card
from common.errors import UserError, check_all
from common.files import GROUP, run_stage
from common.machine.distributed import World, world
from common.runs.folder import check_run_folder, numbered, with_group
from common.runs.made import ENCODER_INPUT
from common.runs.results import RESULTS
from common.runs.screen import print_line, screen
from common.runs.seeds import check_group, finished_runs, has_finished, one_of, open_group, seed_of, with_each_seed
from common.runs.spread import Spread
from finetune import probe as one_probe
from finetune.config import ProbeConfig
from finetune.lines import group_title, task_names
from finetune.opening import drawn_by_seed, open_encoder, open_images, prepare
from finetune.results import ProbeReport, read_results, write_results
from finetune.spreads import Over, Seeds, SubjectSpread
from finetune.structured_results import Several
from finetune.table import seeds_table

log = logging.getLogger("retouch")

PRETRAINED = f"pretrain{GROUP}"  # the mark of a group of pretraining runs


class Plan(NamedTuple):
    """The runs of a group of probes."""

    over: Over
    seeds: tuple[int, ...]
    runs: list[ProbeConfig]


def probe(config: ProbeConfig) -> ProbeReport:
    """``retouch probe``: one run, or one for each seed or encoder and a summary of them.

    Raises:
        UserError: an encoder, the data or a run folder cannot be used; nothing has been written.
    """
    config = with_every_encoder(config)
    if config.seeds == 1:
        return one_probe.probe(config)
    with world() as here, numbered(config, here) as config:
        _check(config, here)
        config = with_group(config, read_encoder_card(plan_of(config).runs[0].encoder).provenance.group)
        plan = plan_of(config)
        reports: list[ProbeReport] = []
        with open_group(config, here):
            for seed, one in zip(plan.seeds, plan.runs, strict=True):
                before = _before(one)
                count = f"{len(reports) + 1} of {len(plan.runs)}"
                log.info("%s seed %d, %s%s", plan.over, seed, count, ": finished before" if before else "")
                reports.append(before or one_probe.probe(one, show=False))
            report = summarized(plan, reports)
            write_results(config.out, report)
        _print(config, report)
        return report


def _check(config: ProbeConfig, here: World) -> None:
    """Check everything that a user can get wrong, for all runs.

    The images of the first run are opened once for all, unless seeds draw other images: looking at masks takes time.

    Raises:
        UserError: with every problem.
    """
    plan = plan_of(config)
    first, *others = plan.runs
    (_, ready), *_ = check_all(
        lambda: prepare(first, here),
        lambda: check_group(config, plan.runs),
        *(lambda one=one: check_run_folder(one) for one in others),
        *(lambda one=one: open_encoder(one) for one in others if one.encoder != first.encoder),
    )
    if any(one.seed != first.seed for one in others) and drawn_by_seed(ready):
        check_all(*(lambda one=one: open_images(one) for one in others))


def with_every_encoder(config: ProbeConfig) -> ProbeConfig:
    """``config``; if its encoder is a group of pretraining runs, with as many seeds, or with the fewer asked for.

    Fewer are the first ones: those that a group had before seeds were added to it.

    Raises:
        UserError: the group has not finished, or has fewer runs than seeds are asked for.
    """
    if run_stage(config.encoder) != PRETRAINED:
        return config
    count = len(finished_runs(config.encoder))
    if config.seeds > count:
        raise UserError(
            f"seeds: {config.encoder} holds {count} pretraining runs, and each is probed once: remove seeds; or give "
            f"one of the runs as encoder, to repeat the probe of that one with seeds={config.seeds}"
        )
    if 1 < config.seeds < count:
        log.info("seeds: the first %d of %d pretraining runs are probed", config.seeds, count)
    return config.model_copy(update={"seeds": count}) if config.seeds == 1 else config


def plan_of(config: ProbeConfig) -> Plan:
    """The runs that a group of probes is made of."""
    if run_stage(config.encoder) != PRETRAINED:
        runs = with_each_seed(config)
        return Plan("probing", tuple(one.seed for one in runs), runs)
    encoders = finished_runs(config.encoder)[: config.seeds]
    # with the same seed: what differs is the encoder alone
    runs = [one_of(config, encoder.name, config.seed).model_copy(update={"encoder": encoder}) for encoder in encoders]
    return Plan("pretraining", tuple(map(seed_of, encoders)), runs)


def _before(config: ProbeConfig) -> ProbeReport | None:
    """The results of a run that finished before with these settings and this very encoder."""
    if not has_finished(config):
        return None
    found = read_results(config.out)
    same = found.made is not None and found.made.inputs.get(ENCODER_INPUT) == read_encoder_card(config.encoder).sha256
    return found if same and isinstance(found, ProbeReport) else None


def summarized(plan: Plan, reports: Sequence[ProbeReport]) -> ProbeReport:
    """The results of all runs, with mean and spread."""
    seeds = Seeds(
        over=plan.over,
        seeds=plan.seeds,
        runs=tuple(one.out.name for one in plan.runs),
        spreads=(
            *_of_classes(reports),
            *_of_several([report.multilabel for report in reports]),
            *_of_several([report.dense for report in reports]),
        ),
    )
    return ProbeReport(
        results=tuple(result for report in reports for result in report.results),
        multilabel=tuple(result for report in reports for result in report.multilabel),
        dense=tuple(result for report in reports for result in report.dense),
        notes=tuple(dict.fromkeys(note for report in reports for note in report.notes)),
        seeds=seeds,
        made=reports[0].made,
    )


def _of_classes(reports: Sequence[ProbeReport]) -> Iterator[SubjectSpread]:
    first = reports[0].results
    for place, (task, result) in enumerate(zip(task_names(first), first, strict=True)):
        for subject, measured in result.subjects.items():
            for probe in measured.probes:
                tests = [report.results[place].subjects[subject].probes[probe].test for report in reports]
                spread = Spread.of([test.accuracy for test in tests])
                yield SubjectSpread(task=task, subject=subject, probe=probe, measure="accuracy", spread=spread)


def _of_several(runs: Sequence[Sequence[Several]]) -> Iterator[SubjectSpread]:
    """From the results of each run, of several labels or of masks."""
    first = runs[0]
    for place, (task, result) in enumerate(zip(task_names(first), first, strict=True)):
        for subject in result.subjects:
            spread = Spread.of([results[place].subjects[subject].test.mean for results in runs])
            yield SubjectSpread(task=task, subject=subject, probe="linear", measure=result.measure, spread=spread)


def _print(config: ProbeConfig, report: ProbeReport) -> None:
    """The table and the notes, on the console."""
    console = screen()
    assert report.seeds is not None
    console.print(seeds_table(report.seeds, group_title(report)))
    for note in report.notes:
        print_line(console, f"  {note}")
    print_line(console, f"  all results: {config.out / RESULTS}")

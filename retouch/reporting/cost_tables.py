"""Facts as tables: the cost and the origin of each run."""

from __future__ import annotations

from dataclasses import replace

from common.runs.made import Made
from common.words import counted
from finetune.structured_results import Several
from retouch.reporting.blocks import Cell, Column, Table
from retouch.reporting.facts import Facts
from retouch.reporting.runs import Origin, Studied
from retouch.reporting.tables import EMPTY, condensed
from retouch.studies.results import CONTESTANTS, Contender
from retouch.studies.verdict import shown_name

REST = "all else"
OF_STUDY = (
    "The time of a study includes that of its parts, which follow. All else is what is left of it: reading and "
    "comparing images, trial steps, choosing and testing."
)


def cost_table(facts: Facts) -> Table:
    """The cost of each run."""
    rows = [_cost(run.origin, run.report.seconds) for run in facts.studies]
    for run in facts.pretraining:
        parameters = "" if run.card is None else f"{run.card.parameters:,}"
        rows.append(
            _cost(
                run.origin, run.results.seconds, run.curves.speed, parameters, run.results.steps, run.curves.memory_gb
            )
        )
    rows += [row for run in facts.studies for row in _of_study(facts, run)]
    for probing in facts.probes:
        seconds = sum(
            outcome.seconds
            for result in probing.report.results
            for subject in result.subjects.values()
            for outcome in subject.probes.values()
        )
        several: list[Several] = [*probing.report.multilabel, *probing.report.dense]
        seconds += sum(one.seconds for result in several for one in result.subjects.values())
        rows.append(_cost(probing.origin, seconds))
    for tuning in facts.finetuning:
        tuned = tuning.result.tuned
        curves = tuning.curves
        rows.append(_cost(tuning.origin, tuned.seconds, curves.speed, "", tuned.choice.of_steps, curves.memory_gb))
    columns = (
        Column("run", numeric=False),
        Column("stage", numeric=False),
        Column("seconds"),
        Column("images", "per second"),
        Column("steps"),
        Column("parameters", "of the encoder"),
        Column("memory", "GB"),
    )
    short = condensed(Table(columns, tuple(rows)))
    return replace(short, foot=" ".join([OF_STUDY, short.foot]).strip()) if facts.studies else short


def _of_study(facts: Facts, study: Studied) -> list[tuple[Cell, ...]]:
    """The parts of a study's time that are no runs of pretraining, which have rows of their own."""
    report, inside = study.report, study.origin.folder / CONTESTANTS
    parts = [
        (_networks(one, len(report.classes)), "train", one.trained, f"{_steps(one, len(report.classes)):,}")
        for one in report.contenders
        if one.kind == "scratch" and one.trained is not None
    ]
    if report.probe:
        probed = sum(one.seconds for one in report.probe.values())
        parts.append((f"linear probe of {report.winner} on all labels", "probe", probed, ""))
    spent = sum(seconds for _, _, seconds, _ in parts)
    own = [run for run in facts.pretraining if run.origin.folder.parent == inside]
    spent += sum(run.results.seconds for run in own)
    if own and report.seconds > spent:
        parts.append((REST, "", report.seconds - spent, ""))
    of_several = f" ({study.origin.name})" if len(facts.studies) > 1 else ""
    return [
        (Cell(f"{what}{of_several}"), Cell(stage), Cell(f"{seconds:,.1f}"), EMPTY, Cell(steps), EMPTY, EMPTY)
        for what, stage, seconds, steps in parts
    ]


def _networks(one: Contender, tasks: int) -> str:
    """The networks from scratch: one for each task."""
    return f"{shown_name(one.name, one.kind)}{f', {tasks} networks' if tasks > 1 else ''}"


def _steps(one: Contender, tasks: int) -> int:
    """Of the networks from scratch, together."""
    return one.planned * tasks if one.taken is None else one.taken


def machine_text(made: Made) -> str:
    """What a run computed with: ``AMD EPYC, 2 threads, no GPU``."""
    parts = [made.processor, counted(made.threads, "thread"), "no GPU" if made.device == "cpu" else made.device]
    return ", ".join(filter(None, [*parts, counted(made.processes, "process", "processes") * (made.processes > 1)]))


def _cost(
    origin: Origin,
    seconds: float,
    speed: float | None = None,
    parameters: str = "",
    steps: int | None = None,
    memory: float | None = None,
) -> tuple[Cell, ...]:
    return (
        Cell(origin.name),
        Cell(origin.stage),
        Cell(f"{seconds:,.1f}"),
        Cell("" if speed is None else f"{speed:,.0f}"),
        Cell("" if steps is None else f"{steps:,}"),
        Cell(parameters),
        Cell("" if memory is None else f"{memory:.1f}"),
    )


def origin_table(facts: Facts) -> Table:
    """When each run started, its seed and versions, and the sha256 of its encoder."""
    hashes = {run.origin.name: run.results.encoder_sha256 for run in facts.pretraining}
    hashes |= {run.origin.name: run.result.encoder_sha256 for run in facts.finetuning}
    hashes |= {one.origin.name: one.result.encoder.sha256 for one in facts.several}
    hashes |= {entry.origin.name: entry.result.encoder.sha256 for entry in facts.entries}
    rows = tuple(
        (
            Cell(origin.name),
            Cell(origin.log.started.rpartition(":")[0]),
            Cell(f"{origin.settings.seed}"),
            Cell(hashes.get(origin.name, "")[:16]),
            Cell(origin.log.versions),
        )
        for origin in facts.origins
    )
    texts = [Column("run", numeric=False), Column("started", numeric=False), Column("seed")]
    return condensed(
        Table((*texts, Column("encoder", "start of sha256", numeric=False), Column("versions", numeric=False)), rows)
    )

"""Groups of runs that differ in their seed: their spread, and which differences between groups are shown."""

from __future__ import annotations

from common.runs.spread import Spread
from finetune.lines import group_title, subject_name
from finetune.results import ProbeReport
from finetune.spreads import MEASURES, Seeds
from finetune.table import spread_text
from pretrain.results import PretrainSeeds
from retouch.reporting.answer import answered, rival_sentence
from retouch.reporting.blocks import Block, Cell, Column, Points, Prose, Table
from retouch.reporting.compare import group_gains, group_rivals
from retouch.reporting.facts import Facts
from retouch.reporting.runs import Group
from retouch.reporting.sentences import distinct, interval
from retouch.reporting.tables import merged, probe_name

ABOUT = (
    "Mean ± standard deviation over the seeds; below it, the 95% interval of the mean over seeds, by Student's t. It "
    "does not cover other test images."
)
OVER = {
    "pretraining": "one encoder per seed, with the same probe",
    "probing": "one encoder; each seed draws folds, the untrained network and, if no test set was given, test images",
}
RULE = (
    "Groups are compared on the same test images. The variance is that of the paired differences over images plus that "
    "over the seeds of both groups, and for an untrained network over those of its group. Holm's correction covers all "
    "tasks and groups."
)


def seeds_blocks(facts: Facts) -> tuple[Block, ...]:
    """A table for each group, and the comparison of the two best groups on each task."""
    if not facts.groups:
        return ()
    lines = [answered([one], "the untrained network") for one in group_gains(facts)]
    lines += map(rival_sentence, group_rivals(facts))
    said = (Points(tuple(lines)), Prose((RULE,), small=True)) if lines else ()
    return (Prose((ABOUT,)), *(_table(group) for group in facts.groups), *said)


def _table(group: Group) -> Table:
    if group.pretraining is not None:
        return _pretraining(group.name, group.pretraining)
    assert group.probing is not None
    assert group.probing.seeds is not None
    return _probing(group.name, group.probing, group.probing.seeds)


def _pretraining(name: str, found: PretrainSeeds) -> Table:
    rows = [(Cell(key), Cell(one.text, one.interval)) for key, one in found.spreads.items()]
    note = f"{found.runs[0].method}, {len(found.seeds)} seeds"
    return Table((Column("number", numeric=False), Column("mean")), tuple(rows), title=name, note=note)


def _probing(name: str, report: ProbeReport, found: Seeds) -> Table:
    probes = distinct(one.probe for one in found.spreads)
    spreads = {(*one.of, one.subject, one.probe): one.spread for one in found.spreads}
    several = len({one.measure for one in found.spreads}) > 1
    rows = []
    for task, measure, subject in dict.fromkeys((*one.of, one.subject) for one in found.spreads):
        shown = [spreads.get((task, measure, subject, probe)) for probe in probes]
        cells = (Cell("") if one is None else Cell(spread_text(one), _interval(one)) for one in shown)
        named = f"{task}, {MEASURES[measure]}" if several else task
        rows.append((Cell(named), Cell(subject_name(subject, group_title(report))), *cells))
    numbers = (Column(probe_name(probe), "%") for probe in probes)
    columns = (Column("task", numeric=False), Column("method", numeric=False), *numbers)
    return Table(columns, merged(rows), title=name, note=OVER[found.over])


def _interval(one: Spread) -> str:
    """The interval of a share, within 0 and 100%; equal values say nothing about other seeds."""
    low, high = one.ci95
    return interval(max(0.0, low), min(1.0, high)) if one.deviation else "the same with every seed"

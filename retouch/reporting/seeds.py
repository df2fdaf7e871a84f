"""Groups of runs that differ in their seed: their spread, and which differences between groups are shown."""

from __future__ import annotations

from common.runs.spread import Spread
from finetune.lines import subject_name
from finetune.results import ProbeReport
from finetune.spreads import MEASURES, Seeds
from finetune.table import spread_text
from pretrain.results import PretrainSeeds
from retouch.reporting.answer import answered, rival_sentence
from retouch.reporting.blocks import Block, Cell, Column, Points, Prose, Table
from retouch.reporting.compare import UNTRAINED, group_gains, group_rivals
from retouch.reporting.facts import RANDOM_ATOMS, Facts
from retouch.reporting.runs import DICTIONARY, Group, encoders_of, method_name
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
    lines = [answered([one], facts.untrained) for one in group_gains(facts)]
    lines += map(rival_sentence, group_rivals(facts))
    said = (Points(tuple(lines)), Prose((RULE,), small=True)) if lines else ()
    return (Prose((ABOUT,)), *(_table(facts, group) for group in facts.groups), *said)


def _table(facts: Facts, group: Group) -> Table:
    if group.pretraining is not None:
        return _pretraining(group.name, group.pretraining)
    assert group.probing is not None
    assert group.probing.seeds is not None
    return _probing(facts, group.name, group.probing, group.probing.seeds)


def _pretraining(name: str, found: PretrainSeeds) -> Table:
    rows = [(Cell(key), Cell(one.text, one.interval)) for key, one in found.spreads.items()]
    note = f"{method_name(found.runs[0].method)}, {len(found.seeds)} seeds"
    return Table((Column("number", numeric=False), Column("mean")), tuple(rows), title=name, note=note)


def _probing(facts: Facts, name: str, report: ProbeReport, found: Seeds) -> Table:
    probes = distinct(one.probe for one in found.spreads)
    spreads = {(*one.of, one.subject, one.probe): one.spread for one in found.spreads}
    several = len({one.measure for one in found.spreads}) > 1
    rows = []
    for task, measure, subject in dict.fromkeys((*one.of, one.subject) for one in found.spreads):
        shown = [spreads.get((task, measure, subject, probe)) for probe in probes]
        cells = (Cell("") if one is None else Cell(spread_text(one), _interval(one)) for one in shown)
        named = f"{task}, {MEASURES[measure]}" if several else task
        rows.append((Cell(named), Cell(_subject(facts, subject, report)), *cells))
    numbers = (Column(probe_name(probe), "%") for probe in probes)
    columns = (Column("task", numeric=False), Column("method", numeric=False), *numbers)
    return Table(columns, merged(rows), title=name, note=OVER[found.over])


def _subject(facts: Facts, key: str, report: ProbeReport) -> str:
    """An encoder or a baseline of a group."""
    first = encoders_of(report)[0]
    atoms = key == UNTRAINED and first.name == DICTIONARY
    return RANDOM_ATOMS if atoms else subject_name(key, facts.title_of(first))


def _interval(one: Spread) -> str:
    """The interval of a share, within 0 and 100%; equal values say nothing about other seeds."""
    low, high = one.ci95
    return interval(max(0.0, low), min(1.0, high)) if one.deviation else "the same with every seed"

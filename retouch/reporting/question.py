"""The question of a report, and what it is about, in plain English: pure functions of facts."""

from __future__ import annotations

from collections.abc import Iterable

from common.words import counted
from retouch.reporting.compare import SCRATCH, tuned_gains
from retouch.reporting.facts import RANDOM_ATOMS, Facts
from retouch.reporting.names import data_name, names_apart
from retouch.reporting.runs import FineTuning
from retouch.reporting.sentences import NAMED, distinct, listed
from retouch.reporting.trained import crossed


def question(facts: Facts) -> str:
    """What the runs should find out."""
    if facts.studies:
        return "Does pretraining help on these images?"
    encoders = facts.encoders
    if facts.only_dictionaries and len(encoders) <= NAMED:
        return f"{'Does' if len(encoders) == 1 else 'Do'} {listed(encoders)} beat {RANDOM_ATOMS}?"
    if len(encoders) == 1:
        return f"Does {encoders[0]} beat the same network untrained?"
    if encoders:
        who = listed(encoders) if len(encoders) <= NAMED else f"these {len(encoders)} encoders"
        return f"Do {who} beat the same networks untrained?"
    if tuned_gains(facts, SCRATCH) or any(one.kind == SCRATCH for one in crossed(facts)):
        return "Does fine-tuning beat training from scratch?"
    if facts.finetuning:
        return "How accurate is the trained network?"
    methods = distinct(run.method for run in facts.pretraining)
    return f"What has {methods[0]} learned?" if len(methods) == 1 else "What have these encoders learned?"


def question_on(facts: Facts) -> str:
    """The question with the names of the data, unless there are many: ``Does pretraining help on cifar10?``"""
    asked, names = question(facts), distinct(map(data_name, facts.labeled_sources or facts.unlabeled_sources))
    if not 0 < len(names) <= NAMED:
        return asked
    who = asked.removesuffix("?").removesuffix(" on these images")
    comma = "," if who.endswith("untrained") else ""  # the comparison is on these data, not the training
    return f"{who}{comma} on {listed(names)}?"


def data_of(facts: Facts, sources: Iterable[str]) -> str:
    """The names of these data, if the labeled images of the report are not all the same: ``cifar10``."""
    names = names_apart(facts.labeled_sources)
    return listed(distinct(names[source] for source in sources)) if len(set(names.values())) > 1 else ""


def tuned_task(facts: Facts, run: FineTuning) -> str:
    """The task of a trained network, with its data if the labeled images of the report are not all the same."""
    where = data_of(facts, [run.result.data.train])
    return f"{run.result.task}{where and f' ({where})'}"


def about(facts: Facts) -> str:
    """A line about the runs in the report."""
    kinds = (
        ("study", facts.studies),
        ("pretraining run", facts.pretraining),
        ("probe", facts.probes),
        ("fine-tuning run", facts.finetuning),
    )
    runs = [counted(len(found), kind, "studies" if kind == "study" else "") for kind, found in kinds if found]
    started = sorted(origin.log.started[:10] for origin in facts.origins if origin.log.started)
    days = f", {' to '.join(distinct([started[0], started[-1]]))}" if started else ""
    probe = " A probe is a classifier on the features of the frozen encoder." if facts.probes else ""
    measured = facts.probes or facts.finetuning or facts.studies
    brackets = " Points are percentage points; 95% intervals are in brackets." if measured else ""
    return f"{listed(runs)}{days}: {listed([origin.name for origin in facts.origins])}.{probe}{brackets}"


def chains(facts: Facts) -> list[str]:
    """For each encoder that started from another one, all its trainings."""
    cards = [(run.origin.name, run.card) for run in facts.pretraining if run.card is not None]
    return [
        f"{name} started from an encoder: {card.provenance.story}." for name, card in cards if card.provenance.before
    ]

"""The answer to the question of a report, in plain English: pure functions of facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from common.files import as_utf8
from common.words import counted, first_upper
from finetune.results import Comparison
from finetune.spreads import MEASURES
from finetune.structured_results import Several
from retouch.reporting.compare import (
    FROZEN,
    PIXELS,
    SCRATCH,
    UNTRAINED,
    Contrast,
    GroupContrast,
    gains,
    group_gains,
    group_rivals,
    rivals,
    several_gains,
    together,
    tuned_gains,
)
from retouch.reporting.facts import Entry, Facts, SeveralEntry
from retouch.reporting.names import in_text
from retouch.reporting.question import data_of, tuned_task
from retouch.reporting.runs import Studied
from retouch.reporting.sentences import (
    NAMED,
    ahead,
    chance,
    distinct,
    interval,
    listed,
    number,
    p_text,
    points,
    signed,
    test_images,
)
from retouch.reporting.trained import crossed_sentences, not_crossed

ANSWER = 2  # sentences of an answer


class Verdict(NamedTuple):
    """The answer, and what else is shown."""

    answer: tuple[str, ...]  # two sentences; one of each study if there are several
    more: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """The answer, then the rest."""
        return (*self.answer, *self.more)


def verdict(facts: Facts) -> Verdict:
    """The answer to the question."""
    measured = tuple(_measured_verdict(facts))
    if facts.studies:
        said = _study_verdicts(facts)
        where = data_of(facts, facts.measured_sources)
        others = f"Other runs{where and f', on {where}'}"
        return said._replace(more=(*said.more, *(f"{others}: {one}" for one in measured)))
    if measured:
        return Verdict(measured[:ANSWER], measured[ANSWER:])
    command = f"retouch probe linear encoder={as_utf8(str(facts.pretraining[0].origin.folder))}"
    return Verdict(
        (
            "Not known yet: pretraining needs no labels, but only labeled images show what the features are worth.",
            f"Probe {'it' if len(facts.pretraining) == 1 else 'them'}: {command} data=my/labeled.",
        )
    )


def _study_verdicts(facts: Facts) -> Verdict:
    """The verdicts of the studies: of each its name if there are several, and its data if not all are the same."""
    said = [[f"{_of_study(facts, run)}{one}" for one in run.report.verdict] for run in facts.studies]
    if len(said) == 1:
        return Verdict(tuple(said[0][:ANSWER]), tuple(said[0][ANSWER:]))
    return Verdict(tuple(first for first, *_ in said), tuple(one for _, *rest in said for one in rest))


def _of_study(facts: Facts, run: Studied) -> str:
    """What a sentence of a study begins with: ``study-1, on cifar10: ``; nothing if it is alone or on the same data."""
    if len(facts.studies) == 1 and not facts.measured_sources:
        return ""
    where = data_of(facts, (data.train for data in run.report.data.values()))
    parts = [run.origin.name if len(facts.studies) > 1 else "", where and f"on {where}"]
    named = ", ".join(filter(None, parts))
    return f"{first_upper(named) if len(facts.studies) == 1 else named}: " if named else ""


def _measured_verdict(facts: Facts) -> list[str]:
    """What probes and fine-tuning say; empty if there are none."""
    across, apart = crossed_sentences(facts), not_crossed(facts)
    level = [_tuned_level(facts)] if facts.finetuning else []
    if facts.entries:
        over_seeds = map(rival_sentence, group_rivals(facts))
        found = [text for text in (_between(facts), *over_seeds, _tuned(facts), *across) if text]
        second, *more = found or [_level(facts)]
        return [_over_untrained(facts), *several_verdict(facts), second, _measured(facts), *more, *apart, *level]
    own = [text for text in (_tuned(facts), *across) if text]
    if facts.several:
        return [*several_verdict(facts), *several_level(facts), _measured(facts), *own, *apart, *level]
    if facts.finetuning:
        first, *more = own or [_not_tuned(facts)]
        return [first, *level, *more, *apart]
    return []


def _not_tuned(facts: Facts) -> str:
    """Why no trained network is compared with anything."""
    started = [run.result.start == "scratch" for run in facts.finetuning]
    if all(started):
        return "Not compared: training from scratch was run alone."
    if any(started):
        return "Not compared: fine-tuning and training from scratch were not tested in the same way."
    return "Not compared: neither training from scratch nor a linear probe was run."


def _over_untrained(facts: Facts) -> str:
    """Whether encoders beat their untrained networks; runs that differ only in their seed are one comparison."""
    over_seeds = group_gains(facts)
    names = {(one.task, one.one) for one in over_seeds}

    def covered(entry: Entry) -> bool:
        group = facts.group_of(entry.origin)
        return group is not None and (entry.task, group.name) in names

    single = gains(facts, UNTRAINED, entries=[entry for entry in facts.entries if not covered(entry)])
    found = together([*over_seeds, *single])
    return answered(found, facts.untrained) if found else _not_compared(facts)


def answered(found: Sequence[Contrast], other: str, measure: str = "") -> str:
    """What one or more comparisons with the same baseline show; ``measure`` is named for a single one."""
    better, worse, still = ([one for one in found if one.shown == kind] for kind in ("better", "worse", "open"))
    if len(found) == 1:
        [one] = found
        test = "McNemar " if isinstance(one.found, Comparison) else ""
        by = f"{points(one.found)}{measure and f' of {measure}'} ({test}{p_text(one.adjusted_p)})"
        if better:
            return f"Yes: {one.one} beats {other} on {one.task} by {by}."
        if worse:
            return f"No: {one.one} is worse than {other} on {one.task}, by {by}."
        favored = ahead(one.found, one.one, other)
        return f"No difference shown: on {one.task}, {one.one} and {other} differ by {by}{favored}."
    all_ = f"{len(found)} comparisons"
    if len(better) == len(found):
        return f"Yes, in {'both' if len(found) == 2 else f'all {len(found)}'} comparisons: {_range(better, other)}."
    if not better and not worse:
        largest = max(found, key=lambda one: abs(one.found.difference))
        return (
            f"No difference shown in any of {all_} with {other}: the largest is {largest.one} on {largest.task}, "
            f"{points(largest.found)}."
        )
    if not better:
        unshown = f"; {_where(still)} no difference is shown" if still else ""
        return f"No: {_range(worse, other, 'is worse than')}{unshown}."
    rest = [
        *([f"{_where(still)} no difference is shown"] if still else []),
        *([f"{_where(worse)} it is worse"] if worse else []),
    ]
    return f"In {len(better)} of {all_}: {_range(better, other)}; {listed(rest)}."


def _range(found: Sequence[Contrast], other: str, verb: str = "beats") -> str:
    """The difference as a clause, or the smallest and the largest of several."""
    ranked = sorted(found, key=lambda one: abs(one.found.difference))
    least, most = ranked[0], ranked[-1]
    if least is most:
        return f"{most.one} {verb} {other} on {most.task} by {points(most.found)}"
    names = distinct(one.one for one in found)
    if len(names) == 1:
        return (
            f"{names[0]} {verb} {other} by {points(least.found)} on {least.task} to {points(most.found)} on {most.task}"
        )
    return (
        f"the trained encoder {verb} {other} by {points(least.found)} ({least.one} on {least.task}) to "
        f"{points(most.found)} ({most.one} on {most.task})"
    )


def _where(found: Sequence[Contrast]) -> str:
    """``for colorize on shape``, or ``in 4 others``."""
    if len(found) > NAMED:
        return f"in {len(found)} others"
    return f"for {listed([f'{one.one} on {one.task}' for one in found])}"


def _measured(facts: Facts) -> str:
    """How the encoders were measured, on which images, and whether each was trained once."""
    encoders = counted(len({one.result.encoder.sha256 for one in facts.probed}), "encoder")
    tasks = counted(len({one.task for one in facts.probed}), "task")
    tests = distinct(test_images(one.result.linear.test.n, in_text(one.result.data.test)) for one in facts.probed)
    where = listed(tests) if len(tests) <= NAMED else f"the test images of {len(tests)} data sets"
    once = "; each encoder was trained once" if trained_once(facts) else ""
    return (
        f"Measured with linear probes (linear classifiers on the frozen features) of {encoders} on {tasks}, on {where}"
        f"{once}."
    )


def trained_once(facts: Facts) -> bool:
    """Whether no two of the probed encoders differ only in their seed."""
    titles = {one.result.encoder.sha256: facts.title_of(one.result.encoder) for one in facts.probed}
    return bool(titles) and len(set(titles.values())) == len(titles)


def _not_compared(facts: Facts) -> str:
    if any(entry.result.subjects.keys() & {UNTRAINED} for entry in facts.entries):
        return (
            "Not compared: these results have schema version 1, which held no paired differences; probe again for a "
            "verdict."
        )
    return "Not known: the untrained network was not probed (baselines.random_init=false), so there is no comparison."


def _between(facts: Facts) -> str:
    """Which encoder is shown to be best on which task."""
    found = rivals(facts)
    if not found:
        return ""
    blind = {(entry.task, entry.encoder) for entry in facts.entries if entry.blind}
    best: dict[str, list[str]] = {}
    for one in found:
        if one.shown == "better":
            why = f", but {one.other} saw gray only" if (one.task, one.other) in blind else ""
            best.setdefault(one.one, []).append(f"{one.task} (by {points(one.found)}{why})")
    unshown = [one.task for one in found if one.shown != "better"]
    parts = [f"{name} is best on {listed(tasks)}" for name, tasks in best.items()]
    if unshown:
        parts.append(f"on {listed(unshown)} none is shown to be best")
    return f"Of the encoders, {'; '.join(parts)}."


def rival_sentence(one: GroupContrast) -> str:
    """Which of two groups of runs with several seeds is shown to be better on a task."""
    found = one.found
    by = (
        f"{signed(found.difference)} points {interval(*found.ci95)} ({p_text(one.adjusted_p)}, {found.images:,} images)"
    )
    seeds = "several seeds" if one.over == "pretraining" else "several probe seeds, with one encoder each"
    if one.shown:
        return f"Over {seeds}, {one.one} beats {one.other} on {one.task} by {by}."
    return f"No difference shown over {seeds}: on {one.task}, {one.one} and {one.other} differ by {by}."


def _level(facts: Facts) -> str:
    """The accuracy itself, next to chance."""
    shown = [
        f"{number(test.accuracy)}% {interval(*test.ci95)} on {entry.task}, where the most frequent class alone gives "
        f"{number(chance(test))}%"
        for entry in facts.entries[:NAMED]
        for test in [entry.result.linear.test]
    ]
    return f"The linear probe's accuracy is {listed(shown)}."


def _tuned(facts: Facts) -> str:
    tasks = {run.origin.name: tuned_task(facts, run) for run in facts.finetuning}
    found = [one._replace(task=tasks[one.one]) for one in tuned_gains(facts, SCRATCH)]
    if found:
        return answered(found, "training from scratch")
    found = [one._replace(task=tasks[one.one]) for one in tuned_gains(facts, FROZEN)]
    return answered(found, "the linear probe of the frozen encoder") if found else ""


def _tuned_level(facts: Facts) -> str:
    shown = [
        f"{number(run.result.tuned.test.accuracy)}% {interval(*run.result.tuned.test.ci95)} on {tuned_task(facts, run)}"
        f"{f' ({run.origin.name})' if len(facts.finetuning) > 1 else ''}"
        for run in facts.finetuning[:NAMED]
    ]
    return f"The trained network's accuracy is {listed(shown)}."


# ---- several labels per image, and masks


def several_verdict(facts: Facts) -> list[str]:
    """The comparison with the untrained network, or with raw pixels if the untrained network was not measured."""
    kinds: tuple[Sequence[SeveralEntry[Several]], ...] = (facts.label_entries, facts.dense_entries)
    return [
        line
        for entries in kinds
        if entries
        for line in _paired_verdict(entries, MEASURES[entries[0].result.measure], facts.untrained)
    ]


def _paired_verdict(entries: Sequence[SeveralEntry[Several]], measure: str, untrained: str) -> list[str]:
    said = []
    compared = {(one.task, one.one) for one in several_gains(entries, UNTRAINED)}
    for baseline, other in ((UNTRAINED, untrained), (PIXELS, "raw pixels")):
        found = several_gains(entries, baseline)
        if baseline == PIXELS:
            found = [one for one in found if (one.task, one.one) not in compared]
        if len(found) == 1:
            said.append(answered(found, other, measure))
        elif found:
            said.append(f"{answered(found, other)[:-1]}, in {measure}.")
    missing = [entry for entry in entries if not entry.result.linear.compared]
    if missing:
        said.append(f"Not compared: no baseline was probed on {listed(distinct(entry.task for entry in missing))}.")
    return said


def several_level(facts: Facts) -> list[str]:
    """The mean average precision and the mean IoU themselves, next to chance."""
    kinds: tuple[tuple[Sequence[SeveralEntry[Several]], str, str], ...] = (
        (facts.label_entries, "linear probe's mean average precision", "a random order"),
        (facts.dense_entries, "mean IoU of the probe of masks", "the most frequent class alone"),
    )
    found = []
    for entries, what, guess in kinds:
        shown = [
            f"{number(test.mean)}% {interval(*test.ci95)} {f'for {entry.encoder} ' if len(entries) > 1 else ''}on "
            f"{entry.task}, where {guess} gives {number(test.chance)}%"
            for entry in entries[:NAMED]
            for test in [entry.result.linear.test]
        ]
        found += [f"The {what} is {listed(shown)}."] if shown else []
    return found

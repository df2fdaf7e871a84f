"""What was chosen on which images, and how often the test set was used, in plain English."""

from __future__ import annotations

from collections import Counter

from retouch.report.facts import Facts
from retouch.report.sentences import counted, distinct, listed


def chosen(facts: Facts) -> list[str]:
    """How choices were made, and how often the test set was used."""
    found = []
    ways = distinct(
        outcome.choice.how
        for entry in facts.entries
        for subject in entry.result.subjects.values()
        for outcome in subject.probes.values()
        if outcome.choice.how
    )
    several = (one for entry in facts.several for one in entry.result.subjects.values())
    ways = distinct([*ways, *(one.choice.how for one in several)])
    if ways:
        found.append(
            f"Layer, pooling and strength were chosen on training images alone, by {listed(ways)}; the winner was "
            "fitted again on all training images."
        )
    if facts.finetuning:
        ways = distinct(run.result.tuned.choice.how for run in facts.finetuning if run.result.tuned.choice.how)
        found.append(
            "Of each trained network, the training step was chosen on training images alone"
            f"{f', by their {listed(ways)}' if ways else ''}."
        )
    return [*found, *touched(facts)]


def touched(facts: Facts) -> list[str]:
    """How often each test set was looked at."""
    answers: Counter[tuple[str, int]] = Counter()
    damaged: Counter[tuple[str, int]] = Counter()
    for entry in facts.entries:
        key = entry.result.data.test, entry.result.linear.test.n
        for subject in entry.result.subjects.values():
            answers[key] += len(subject.probes)
            damaged[key] += sum(len(outcome.damaged) for outcome in subject.probes.values())
    for one in facts.several:
        answers[one.result.data.test, one.result.linear.test.n] += len(one.result.subjects)
    for run in facts.finetuning:
        outcomes = (run.result.tuned, run.result.from_scratch, run.result.linear_probe)
        answers[run.result.data.test, run.result.tuned.test.n] += sum(one is not None for one in outcomes)
    return [
        f"{counted(count, 'classifier')} answered the {n:,} images of {test} once each{_damaged_too(damaged[test, n])}"
        "; nothing was chosen by their answers."
        for (test, n), count in answers.items()
    ]


def _damaged_too(count: int) -> str:
    return f", and damaged copies {counted(count, 'time')} without being fitted again" if count else ""

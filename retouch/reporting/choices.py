"""What was chosen on which images, and how often the test set was used, in plain English."""

from __future__ import annotations

from collections import Counter

from retouch.reporting.facts import Facts
from retouch.reporting.sentences import counted, distinct, listed


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
    own: Counter[tuple[str, int]] = Counter()  # answers of encoders and trained networks
    others: Counter[tuple[str, int]] = Counter()  # of what they are compared with
    damaged: Counter[tuple[str, int]] = Counter()
    for entry in facts.entries:
        key = entry.result.data.test, entry.result.linear.test.n
        for name, subject in entry.result.subjects.items():
            (own if name == "encoder" else others)[key] += len(subject.probes)
            damaged[key] += sum(len(outcome.damaged) for outcome in subject.probes.values())
    for one in facts.several:
        key = one.result.data.test, one.result.linear.test.n
        own[key] += 1
        others[key] += len(one.result.subjects) - 1
    for run in facts.finetuning:
        key = run.result.data.test, run.result.tuned.test.n
        own[key] += 1
        others[key] += sum(one is not None for one in (run.result.from_scratch, run.result.linear_probe))
    return [
        f"{counted(count + others[key], 'classifier')}{_baselines_too(others[key])} answered the {key[1]:,} images of "
        f"{key[0]} once each{_damaged_too(damaged[key])}; nothing was chosen by their answers."
        for key, count in own.items()
    ]


def _baselines_too(count: int) -> str:
    return f", {count:,} of them of baselines," if count else ""


def _damaged_too(count: int) -> str:
    return f", and damaged copies {counted(count, 'time')} without being fitted again" if count else ""

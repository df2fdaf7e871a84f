"""How choices were made, and how often each test set was used, in plain English."""

from __future__ import annotations

from collections import Counter, defaultdict

from common.words import counted
from retouch.reporting.compare import SCRATCH
from retouch.reporting.facts import Facts
from retouch.reporting.names import in_text
from retouch.reporting.sentences import distinct, listed, test_images
from retouch.studies.results import StudyReport


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
            f"Layer, pooling and regularization strength were chosen on training images alone, by {listed(ways)}; the "
            "chosen classifier was fitted again on all training images."
        )
    if facts.finetuning:
        ways = distinct(run.result.tuned.choice.how for run in facts.finetuning if run.result.tuned.choice.how)
        found.append(
            "The best step of each trained network was chosen on training images alone"
            f"{f', by their {listed(ways)}' if ways else ''}."
        )
    found += [_studied(run.report) for run in facts.studies]
    return [*found, *touched(facts)]


def _studied(report: StudyReport) -> str:
    """How the winner of a study was chosen."""
    counts = distinct(f"{one.judged:,}" for one in report.counts.values()) or [f"at most {report.sizes.judged:,}"]
    judged = sum(one.kind != "scratch" for one in report.contenders)
    return (
        f"{report.winner} was chosen from {counted(judged, 'contestant')} by cross-validated ridge regression "
        f"on {listed(counts)} labeled training images"
        f"{'; the rungs of the race were decided on the same images' if report.raced else ''}."
    )


def touched(facts: Facts) -> list[str]:
    """How often each test set was used."""
    own: Counter[tuple[str, int]] = Counter()  # classifiers of encoders, and trained networks
    others: Counter[tuple[str, int]] = Counter()  # classifiers of baselines
    damaged: dict[tuple[str, int], Counter[tuple[int, str]]] = defaultdict(Counter)  # how often; of how many, by whom
    for entry in facts.entries:
        key = entry.result.data.test, entry.result.linear.test.n
        for name, subject in entry.result.subjects.items():
            (own if name == "encoder" else others)[key] += len(subject.probes)
            again = sum(len(outcome.damaged) for outcome in subject.probes.values())
            damaged[key][key[1], "the same classifiers"] += again
        if (efficiency := entry.result.label_efficiency) is not None:
            for name, curve in efficiency.curves.items():
                # with all labels, it is the probe itself; training from scratch is not
                fewer = curve if name == SCRATCH else curve[:-1]
                (own if name == "encoder" else others)[key] += sum(len(point.draws) for point in fewer)
    for one in facts.several:
        key = one.result.data.test, one.result.linear.test.n
        own[key] += 1
        others[key] += len(one.result.subjects) - 1
    for run in facts.finetuning:
        key = run.result.data.test, run.result.tuned.test.n
        own[key] += 1
        others[key] += sum(one is not None for one in (run.result.from_scratch, run.result.linear_probe))
    for study in facts.studies:
        for task, data in study.report.data.items():
            key = data.test, study.report.named(study.report.winner).test[task].n
            mine, baselines = _answered(study.report, task)
            own[key] += mine
            others[key] += baselines
            if (winner := study.report.damage.get(task)) is not None:
                damaged[key][winner.clean.n, "the winner's classifier"] += len(winner.damaged)
    short = Counter(in_text(source) for source, _ in own)
    return [
        f"The {test_images(n, source if short[in_text(source)] > 1 else in_text(source))} were used once by "
        f"{_each_of(count + others[source, n])}"
        f"{_baselines_too(others[source, n])}{_damaged_too(damaged[source, n], n)}; no choice was based on them."
        for (source, n), count in own.items()
    ]


def _answered(report: StudyReport, task: str) -> tuple[int, int]:
    """How many classifiers of a study were tested on a task: of contestants, and of baselines."""
    baselines = sum(one.kind in ("pixels", "untrained") for one in report.contenders)
    mine = len(report.contenders) - baselines + (task in report.probe)
    if task in report.worth:  # the winner and its untrained network, again with fewer labels
        for name, curve in report.worth[task].curves.items():
            again = sum(len(point.draws) for point in curve)
            mine, baselines = (mine + again, baselines) if name == "encoder" else (mine, baselines + again)
    return mine, baselines


def _each_of(count: int) -> str:
    return f"each of {count:,} classifiers" if count > 1 else "1 classifier"


def _baselines_too(count: int) -> str:
    return f", {count:,} of them only for comparison" if count else ""


def _damaged_too(times: Counter[tuple[int, str]], total: int) -> str:
    found = [
        f"damaged copies of {'them' if images == total else f'{images:,} of them'} {counted(count, 'time')}, by {who}"
        for (images, who), count in times.items()
        if count
    ]
    return f", and {listed(found)}" if found else ""

"""The part of the page about a study: the contestants, the race, and which differences are shown."""

from __future__ import annotations

from collections.abc import Sequence

from common.words import counted, first_upper, headed
from finetune.results import Comparison
from finetune.table import worth_lines
from retouch.reporting.blocks import Block, Cell, Column, Figure, Figures, Points, Prose, Table
from retouch.reporting.charts import Racer, labels_chart, race_chart
from retouch.reporting.compare import LEVEL, holm
from retouch.reporting.facts import Facts
from retouch.reporting.runs import Studied
from retouch.reporting.sentences import interval, labels_rules, listed, number, signed
from retouch.reporting.tables import EMPTY, accuracy, gain
from retouch.studies.plan import FINALISTS, ProbeKind
from retouch.studies.results import Contender, Kind, StudyReport
from retouch.studies.verdict import shown_name

RULE = (
    "Brackets: 95% intervals. Bold: the difference is shown, which means that its interval excludes zero and that "
    "McNemar's exact test on the same test images gives p < 0.05 after Holm's correction for all differences in the "
    "column. The untrained network is the contestant's own, with the random weights that its training began with. "
    "Empty: not compared, as was planned before the test."
)

KINDS: dict[Kind, tuple[str, str]] = {  # of one contestant, and of several
    "restoring": ("learns by restoring damaged images", "learn by restoring damaged images"),
    "untrained": (
        "is a restoring network as it is before training, with random weights",
        "are restoring networks as they are before training, with random weights",
    ),
    "simple": (
        "describes images by typical patches or principal components, without a network",
        "describe images by typical patches or principal components, without a network",
    ),
    "pretrained": ("was trained by others, on other images", "were trained by others, on other images"),
}
PROBES: dict[ProbeKind, str] = {"logistic": "the usual linear probe", "ridge": "a linear probe by ridge regression"}


def study_blocks(facts: Facts) -> tuple[Block, ...]:
    """Tables, the chart of the race, and what training is worth in labels."""
    return tuple(
        block
        for run in facts.studies
        for block in (*_tables(run.report, _name(facts, run)), *_race(run.report), *_worth(run.report))
    )


def study_tables(facts: Facts) -> tuple[Block, ...]:
    """The tables alone, for a model card."""
    return tuple(block for run in facts.studies for block in _tables(run.report, _name(facts, run)))


def raced(facts: Facts) -> bool:
    """Whether any network was trained in a study."""
    return any(run.report.raced for run in facts.studies)


def _name(facts: Facts, run: Studied) -> str:
    """The name of a study; empty if there is only one."""
    return run.origin.name if len(facts.studies) > 1 else ""


def _tables(report: StudyReport, name: str) -> list[Block]:
    about = [
        *([f"Study: {name}."] if name else []),
        f"Methods learned without labels from {report.unlabeled_images:,} images of {report.image_size} px.",
        f"The study took {report.seconds:,.0f} s; its budget was {report.budget:,.0f} s.",
    ]
    about += _contestants(report)
    racers = sum(one.kind == "restoring" for one in report.contenders)
    if report.raced:
        halved = "the worse half dropped out and the better half was trained on"
        after = halved if racers > FINALISTS else "the networks were judged and trained on"
        about.append(f"The networks were trained in a race: after each of its parts, called rungs, {after}.")
    if report.repeated:
        about.append(f"Left out of pretraining: {counted(report.repeated, 'image')} that repeat test images.")
    found: list[Block] = [Prose(tuple(about)), *(_contenders(report, task) for task in report.classes)]
    protocol = tuple(f"{first_upper(part)}." for part in report.protocol.split("; "))
    found += [Prose((RULE,), small=True), Prose(("How all were measured:",)), Points(protocol)]
    if report.probe:
        found.append(
            Points(
                tuple(
                    f"{_about(report, task)}{report.winner} reaches {number(one.test.accuracy)}% "
                    f"{interval(*one.test.ci95)} with {PROBES[report.probe_kind]} fitted on all {one.n_train:,} "
                    "labeled images. The other contestants had no such probe, so compare it with none of them."
                    for task, one in report.probe.items()
                )
            )
        )
    if report.left_out:
        found.append(Points(tuple(f"Not run: {line}." for line in report.left_out)))
    return found


def _contestants(report: StudyReport) -> list[str]:
    """What each kind of contestant is."""
    found = []
    for kind, (one, many) in KINDS.items():
        names = [shown_name(each.name, each.kind) for each in report.contenders if each.kind == kind]
        if names:
            found.append(f"{listed(names)} {one if len(names) == 1 else many}")
    return [f"{'; '.join(found)}."] if found else []


def _contenders(report: StudyReport, task: str) -> Table:
    with_twin = [one for one in report.contenders if task in one.over_twin]
    shown_twin = _shown([one.over_twin[task] for one in with_twin])
    twins = {one.name: (one.over_twin[task], shown) for one, shown in zip(with_twin, shown_twin, strict=True)}
    against = {one.other: one for one in report.comparisons if one.task == task}
    columns = (
        Column("contestant", numeric=False),
        Column("test", "%"),
        Column("gain over", "untrained"),
        Column("race winner", "is ahead by"),
        Column("validation", "%"),
        Column("training", "s"),
        Column("features"),
    )
    rows = []
    for one in sorted(report.contenders, key=lambda one: -one.test[task].accuracy):
        versus = against.get(one.name)
        rows.append(
            (
                Cell(shown_name(one.name, one.kind), _role(one, report.winner)),
                accuracy(one.test[task]),
                gain(*twins[one.name]) if one.name in twins else EMPTY,
                EMPTY
                if versus is None
                else Cell(
                    signed(versus.found.difference),
                    interval(*versus.found.ci95),
                    strong=_is_shown(versus.found, versus.adjusted_p),
                ),
                _validated(one, task),
                Cell("" if one.seconds is None else f"{one.seconds:.0f}"),
                Cell(f"{one.features:,}" if one.features else ""),
            )
        )
    title = task if len(report.classes) > 1 else "Accuracy"
    return Table(columns, tuple(rows), title=title, note=counted(len(report.classes[task]), "class", "classes"))


def _about(report: StudyReport, task: str) -> str:
    """What a sentence about a task begins with: ``animal: ``, or nothing if there is only one task."""
    return f"{task}: " if len(report.classes) > 1 else ""


def _role(one: Contender, winner: str) -> str:
    if one.name == winner:
        return "race winner: best on validation"
    return "for comparison, not in the race" if one.kind == "scratch" else ""


def _validated(one: Contender, task: str) -> Cell:
    """The last validation accuracy, above those after earlier rungs."""
    if not one.validations:
        return EMPTY
    *before, last = one.validations
    earlier = [f"rung {found.rung}: {number(found.accuracy[task])}" for found in before]
    return Cell(number(last.accuracy[task]), ", ".join(earlier))


def _shown(found: Sequence[Comparison]) -> list[bool]:
    """Which of these differences are shown, corrected together."""
    adjusted = holm([one.p_value for one in found])
    return [_is_shown(one, p) for one, p in zip(found, adjusted, strict=True)]


def _is_shown(found: Comparison, adjusted_p: float) -> bool:
    low, high = found.ci95
    return adjusted_p < LEVEL and not low <= 0 <= high


def _race(report: StudyReport) -> tuple[Block, ...]:
    """The chart of the race, if there was one."""
    if not report.raced:
        return ()
    racers = [_racer(one) for one in report.contenders if one.validations]
    caption = (
        "Validation accuracy, the mean over the tasks, by seconds of training. Gray level lines: contestants that were "
        "judged once."
        if len(report.classes) > 1
        else "Validation accuracy by seconds of training. Gray level lines: contestants that were judged once."
    )
    return (Figures((Figure(race_chart("The race", racers), caption),)),)


def _worth(report: StudyReport) -> tuple[Block, ...]:
    """Accuracy of the winner and of its untrained network, from few labels to all of them."""
    figures = [
        Figure(
            labels_chart(
                headed(_about(report, task), f"what the training of {report.winner} is worth in labels"), found
            ),
            headed(
                _about(report, task),
                f"test accuracy in %, by ridge regression, of {report.winner} (encoder) and its untrained network; "
                "bars: 95% intervals",
            ),
        )
        for task, found in report.worth.items()
    ]
    said = [f"{line}." for task, found in report.worth.items() for line in worth_lines(task, report.winner, found)]
    rules = Prose(tuple(labels_rules(tuple(report.worth.values()))), small=True)
    return (Figures(tuple(figures)), Points(tuple(said)), rules) if figures else ()


def _racer(one: Contender) -> Racer:
    restoring = one.kind == "restoring"
    seconds = tuple(found.seconds if restoring else 0.0 for found in one.validations)
    return Racer(shown_name(one.name, one.kind), seconds, tuple(found.mean for found in one.validations))

"""The part of the page about a study: the contestants, the race, and which differences are shown."""

from __future__ import annotations

from common.words import counted, first_upper, headed
from finetune.results import Comparison
from finetune.table import worth_lines
from retouch.reporting.blocks import Block, Cell, Column, Figure, Figures, Points, Prose, Table
from retouch.reporting.charts import Racer, labels_chart, race_chart
from retouch.reporting.compare import LEVEL, excludes_zero, holm
from retouch.reporting.facts import Facts
from retouch.reporting.runs import Studied
from retouch.reporting.sentences import NOT_BOLD, interval, labels_rules, listed, number, signed
from retouch.reporting.tables import EMPTY, accuracy, gain
from retouch.studies.fits import ProbeKind
from retouch.studies.plan import Sizes
from retouch.studies.results import Contender, Counts, Kind, StudyReport
from retouch.studies.rungs import FINALISTS
from retouch.studies.verdict import shown_name

RULE = (
    "Brackets: 95% intervals. Bold: the difference is shown, which means that its interval excludes zero and that "
    "McNemar's exact test on the same test images gives p < 0.05 after Holm's correction for all differences in the "
    "column. The untrained network is the contestant's own, with the random weights that its training began with. "
    "Empty: not compared, as was planned before the test."
)

ABOVE = ", so test accuracy is usually above validation accuracy"  # in older files, also where that is not so
MANY_MORE = 2  # times as many images, which usually make a classifier better by more than a test differs by chance

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
        for block in (*_tables(facts, run), *_race(run.report), *_worth(facts, run.report))
    )


def study_tables(facts: Facts) -> tuple[Block, ...]:
    """The tables alone, for a model card."""
    return tuple(block for run in facts.studies for block in _tables(facts, run))


def raced(facts: Facts) -> bool:
    """Whether any network was trained in a study."""
    return any(run.report.raced for run in facts.studies)


def _tables(facts: Facts, run: Studied) -> list[Block]:
    report = run.report
    about = [
        *([f"Study: {run.origin.name}."] if len(facts.studies) > 1 else []),
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
    titles = {task: task if facts.about(task) else "Accuracy" for task in report.classes}
    found: list[Block] = [Prose(tuple(about)), *(_contenders(report, task, title) for task, title in titles.items())]
    rules = (RULE, *_why_not_bold(report), *_why_chosen(facts, report))
    found += [Prose(rules, small=True), Prose(("How all were measured:",)), Points(tuple(_protocol(report)))]
    probed = tuple(
        f"{facts.about(task)}{report.winner} reaches {number(one.test.accuracy)}% {interval(*one.test.ci95)} with "
        f"{PROBES[report.probe_kind]} fitted on all {one.n_train:,} labeled images. The other contestants had no such "
        "probe, so compare it with none of them."
        for task, one in report.probe.items()
        if not _is_the_test(report, task)
    )
    found += [Points(probed)] if probed else []
    if report.left_out:
        found.append(Points(tuple(f"Not run: {line}." for line in report.left_out)))
    return found


def _is_the_test(report: StudyReport, task: str) -> bool:
    """Whether the winner's probe says no more than its test: it was fitted in the same way, on the same images."""
    counts, test = report.counts.get(task), report.named(report.winner).test[task]
    fitted_alike = report.probe_kind == "ridge" and counts is not None and counts.fitted == counts.labeled
    return fitted_alike and report.probe[task].test.accuracy == test.accuracy


def _contestants(report: StudyReport) -> list[str]:
    """What each kind of contestant is."""
    found = []
    for kind, (one, many) in KINDS.items():
        names = [shown_name(each.name, each.kind) for each in report.contenders if each.kind == kind]
        if names:
            found.append(f"{listed(names)} {one if len(names) == 1 else many}")
    return [f"{'; '.join(found)}."] if found else []


def _protocol(report: StudyReport) -> list[str]:
    """How all were measured, as sentences."""
    said = [f"{first_upper(part)}." for part in report.protocol.replace(ABOVE, "").split("; ")]
    counts: list[Counts | Sizes] = [*report.counts.values()] or [report.sizes]
    judged = [one for one in report.contenders if one.validations]
    above = sum(one.mean > one.validations[-1].mean for one in judged)
    if all(one.fitted >= MANY_MORE * one.judged for one in counts) and 2 * above > len(judged):
        said.append(
            "Tested classifiers are fitted on many more images than those that are compared on validation, and "
            f"{above} of {len(judged)} contestants are more accurate on test than on validation."
        )
    return said


def _why_not_bold(report: StudyReport) -> list[str]:
    """Why some differences are not shown although their intervals exclude zero, if there are such."""
    found = [(one.found, _is_shown(one.found, one.adjusted_p)) for one in report.comparisons]
    found += [pair for task in report.classes for pair in _over_twins(report, task).values()]
    return [NOT_BOLD] if any(not shown and excludes_zero(one) for one, shown in found) else []


def _why_chosen(facts: Facts, report: StudyReport) -> list[str]:
    """Why a contestant was chosen although another has a higher test accuracy, by task."""
    chosen = report.named(report.winner)
    found = []
    for task in report.classes:
        could = [one for one in report.contenders if one.kind != "scratch"]
        best = max(could, key=lambda one: one.test[task].accuracy)
        if best.test[task].accuracy > chosen.test[task].accuracy:
            found.append(f"{facts.about(task)}{shown_name(best.name, best.kind)}")
    if not found:
        return []
    return [
        f"Higher on the test than the chosen one: {'; '.join(found)}. The choice was made on validation all the same: "
        "a choice on the test images would favor luck, and its accuracy would be too high."
    ]


def _over_twins(report: StudyReport, task: str) -> dict[str, tuple[Comparison, bool]]:
    """The gain of each contestant over its untrained network, and whether it is shown, corrected together."""
    found = {one.name: one.over_twin[task] for one in report.contenders if task in one.over_twin}
    adjusted = holm([one.p_value for one in found.values()])
    return {name: (one, _is_shown(one, p)) for (name, one), p in zip(found.items(), adjusted, strict=True)}


def _contenders(report: StudyReport, task: str, title: str) -> Table:
    twins = _over_twins(report, task)
    against = {one.other: one for one in report.comparisons if one.task == task}
    columns = (
        Column("contestant", numeric=False),
        Column("test", "%"),
        Column("gain over", "untrained"),
        Column("the chosen one", "is ahead by"),
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
                Cell("" if one.seconds is None else f"{one.seconds:.0f}", _of_all(one, report)),
                Cell(f"{one.features:,}" if one.features else ""),
            )
        )
    return Table(columns, tuple(rows), title=title, note=counted(len(report.classes[task]), "class", "classes"))


def _of_all(one: Contender, report: StudyReport) -> str:
    """What the seconds of a contestant are the sum of: there is a network from scratch for each task."""
    many = one.kind == "scratch" and one.trained is not None and len(report.classes) > 1
    return f"{len(report.classes)} networks" if many else ""


def _role(one: Contender, winner: str) -> str:
    if one.name == winner:
        return "chosen: best on validation"
    return "for comparison, not in the race" if one.kind == "scratch" else ""


def _validated(one: Contender, task: str) -> Cell:
    """The last validation accuracy, above those after earlier rungs."""
    if not one.validations:
        return EMPTY
    *before, last = one.validations
    earlier = [f"rung {found.rung}: {number(found.accuracy[task])}" for found in before]
    return Cell(number(last.accuracy[task]), ", ".join(earlier))


def _is_shown(found: Comparison, adjusted_p: float) -> bool:
    return adjusted_p < LEVEL and excludes_zero(found)


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


def _worth(facts: Facts, report: StudyReport) -> tuple[Block, ...]:
    """Accuracy of the winner and of its untrained network, from few labels to all of them."""
    figures = [
        Figure(
            labels_chart(headed(facts.about(task), f"what the training of {report.winner} is worth in labels"), found),
            headed(
                facts.about(task),
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

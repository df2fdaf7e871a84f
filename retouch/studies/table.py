"""The table of a study on the console."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from finetune.table import percent
from retouch.reporting.sentences import interval, number, signed
from retouch.studies.results import Contender, StudyReport, Versus
from retouch.studies.verdict import is_shown, shown_name

NOT_SHOWN = (
    "(not shown), although the interval excludes zero: intervals are for one comparison, but with several, some differ "
    "by chance. McNemar's exact test, corrected for all of them, decides."
)


def study_table(report: StudyReport) -> Table:
    """Contestants by test accuracy, at most 100 columns wide."""
    after = " after each rung of the race" if report.raced else ""
    table = Table(title=f"Accuracy in %: validation{after}, and test", title_justify="left")
    several = len(report.classes) > 1
    test = "test, mean of tasks" if several else "test"
    for column in ("contestant", "time, s", "validation", test):
        table.add_column(column)
    table.add_column("winner is ahead by", no_wrap=not several)
    for one in report.contenders:
        strong = "[bold]" if one.name == report.winner else ""
        table.add_row(
            f"{strong}{escape(shown_name(one.name, one.kind))}",
            seconds(one),
            escape(" ".join(number(found.mean) for found in one.validations)),
            escape(number(one.mean) if several else percent(next(iter(one.test.values())))),
            escape("; ".join(gaps(report, one))),
        )
    if any(not is_shown(one) and _excludes_zero(one) for one in report.comparisons):
        table.caption, table.caption_justify = NOT_SHOWN, "left"
    return table


def _excludes_zero(one: Versus) -> bool:
    low, high = one.found.ci95
    return not low <= 0 <= high


def seconds(one: Contender) -> str:
    """Seconds of training by gradient; empty if there was none."""
    return f"{one.seconds:.0f}" if one.seconds else ""


def gaps(report: StudyReport, other: Contender) -> list[str]:
    """How far the winner is ahead of another contestant on each task, where they were compared."""
    several = len(report.classes) > 1
    return [
        f"{f'{one.task} ' if several else ''}{signed(one.found.difference)} {interval(*one.found.ci95)}"
        f"{'' if is_shown(one) else ' (not shown)'}"
        for one in report.comparisons
        if one.other == other.name
    ]

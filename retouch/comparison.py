"""Compare a result with its repetition: the main numbers, all values, and a verdict in words."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from common.errors import UserError
from common.runs.results import RESULTS, Record
from common.runs.screen import print_line, screen
from common.words import true_minus
from finetune.lines import task_names
from finetune.metrics import compare
from finetune.predictions import PREDICTIONS, read_predictions
from finetune.results import Comparison, FinetuneResult, ProbeReport
from finetune.spreads import MEASURES
from finetune.structured_results import Several
from pretrain.results import PretrainResults, PretrainSeeds
from retouch.reporting.compare import LEVEL, holm
from retouch.studies.results import StudyReport

log = logging.getLogger("retouch")

# Keys of results.json that are not compared wherever they occur, and why.
NOT_COMPARED = {
    "seconds": "time, which always differs",
    "trained": "likewise",
    "originals": "facts about the images, whose fingerprints are compared before the run starts",
    "test_originals": "likewise",
    "made": "versions and machine, which are compared before the run starts",
    "verdict": "sentences about a study's numbers, which are compared, and its seconds",
    "left_out": "contestants that are missing, which is seen, with the seconds that were left",
}

# display names of the networks that fine-tuning tests, by their keys in its results and columns in its predictions
TRAINED = {"tuned": "fine-tuned", "from_scratch": "from scratch", "linear_probe": "linear probe"}

Results = PretrainResults | PretrainSeeds | ProbeReport | FinetuneResult | StudyReport
Verdict = Literal["identical", "within the interval", "different"]
Leaf = str | float | bool | None


class Number(Record):
    """One number of the result, then and now."""

    name: str
    then: float
    now: float | None  # None: missing now
    ci95: tuple[float, float] | None  # of the first result; None for numbers without an interval
    # if the predictions of both runs on the same test images are known: now minus then, image by image, and the p of
    # McNemar's exact test after Holm's correction for all numbers of the result
    paired: Comparison | None = None
    adjusted_p: float | None = None

    @property
    def state(self) -> Verdict:
        """``within the interval`` if the numbers are not equal but no difference is shown.

        The paired difference decides. The interval over test images covers the choice of images, but the images are
        the same here, so it decides only if the predictions are unknown.
        """
        if self.then == self.now:
            return "identical"
        if self.paired is not None and self.adjusted_p is not None:
            low, high = self.paired.ci95
            return "different" if self.adjusted_p < LEVEL and not low <= 0 <= high else "within the interval"
        inside = self.now is not None and self.ci95 is not None and self.ci95[0] <= self.now <= self.ci95[1]
        return "within the interval" if inside else "different"


class Decision(Record):
    """What a study decided, then and now."""

    name: str
    then: str
    now: str


class Repetition(Record):
    """A result compared with its repetition."""

    of: Path  # the folder of the result
    folder: Path  # of its repetition
    verdict: Verdict
    numbers: tuple[Number, ...]  # the main numbers
    decisions: tuple[Decision, ...] = ()  # of a study
    values: int  # number of values in results.json, except `NOT_COMPARED`
    differing: tuple[str, ...]  # keys of the values that differ
    changed: tuple[str, ...]  # versions, machine and images that differ from the first run


def headline(found: Results) -> list[tuple[str, float, tuple[float, float] | None]]:
    """The main numbers of a result: name, value, and interval if there is one."""
    if isinstance(found, PretrainResults):
        numbers = {"steps": float(found.steps), **found.numbers}
        return [(name, value, None) for name, value in numbers.items() if name not in NOT_COMPARED]
    if isinstance(found, PretrainSeeds):
        spreads = found.spreads.items()
        return [(name, one.mean, one.ci95) for name, one in spreads if name not in NOT_COMPARED]
    if isinstance(found, FinetuneResult):
        networks = {key: getattr(found, key) for key in TRAINED}
        return [(TRAINED[key], one.test.accuracy, one.test.ci95) for key, one in networks.items() if one is not None]
    if isinstance(found, StudyReport):
        tests = [(one.name, task, score) for one in found.contenders for task, score in one.test.items()]
        tests += [("linear probe of the winner", task, one.test) for task, one in found.probe.items()]
        return [(f"{task}, {name}", score.accuracy, score.ci95) for name, task, score in tests]
    if found.seeds is not None:
        return [
            (
                f"{one.task}, {one.subject}, {one.probe if one.measure == 'accuracy' else MEASURES[one.measure]}",
                one.spread.mean,
                one.spread.ci95,
            )
            for one in found.seeds.spreads
        ]
    classes = [
        (f"{task}, {subject}, {probe}", outcome.test.accuracy, outcome.test.ci95)
        for task, result in zip(task_names(found.results), found.results, strict=True)
        for subject, measured in result.subjects.items()
        for probe, outcome in measured.probes.items()
    ]
    kinds: tuple[Sequence[Several], ...] = (found.multilabel, found.dense)
    several = [
        (f"{task}, {subject}, {MEASURES[result.measure]}", one.test.mean, one.test.ci95)
        for results in kinds
        for task, result in zip(task_names(results), results, strict=True)
        for subject, one in result.subjects.items()
    ]
    return [*classes, *several]


def decided(found: Results) -> dict[str, str]:
    """What a study decided, by name; nothing for other results."""
    if not isinstance(found, StudyReport):
        return {}
    last = max((one.rung or 0 for each in found.contenders for one in each.validations), default=0)
    judged = [one for one in found.contenders if one.validations]
    return {
        "winner": found.winner,
        "judged": ", ".join(sorted(one.name for one in judged)),
        "in the last rung": ", ".join(sorted(one.name for one in judged if last and one.validations[-1].rung == last)),
    }


def compared(of: Path, folder: Path, then: Results, now: Results, changed: Sequence[str] = ()) -> Repetition:
    """Compare two results: all their values, and their main numbers."""
    other = {name: value for name, value, _ in headline(now)}  # if the images changed, tasks may be missing
    paired = _paired(of, folder, then, now)
    adjusted = dict(zip(paired, holm([one.p_value for one in paired.values()]), strict=True))
    numbers = tuple(
        Number(
            name=name,
            then=value,
            now=other.get(name),
            ci95=ci95,
            paired=paired.get(name),
            adjusted_p=adjusted.get(name),
        )
        for name, value, ci95 in headline(then)
    )
    old, new = dict(leaves(then.model_dump(mode="json"))), dict(leaves(now.model_dump(mode="json")))
    differing = tuple(key for key in dict.fromkeys((*old, *new)) if old.get(key, ...) != new.get(key, ...))
    decisions = tuple(
        Decision(name=name, then=one, now=decided(now).get(name, "")) for name, one in decided(then).items()
    )
    verdict: Verdict = "different"
    if not differing:
        verdict = "identical"
    elif (
        numbers
        and all(one.ci95 is not None and one.state != "different" for one in numbers)
        and all(one.then == one.now for one in decisions)
    ):
        verdict = "within the interval"
    return Repetition(
        of=of,
        folder=folder,
        verdict=verdict,
        numbers=numbers,
        decisions=decisions,
        values=len(old.keys() | new.keys()),
        differing=differing,
        changed=tuple(changed),
    )


def _paired(of: Path, folder: Path, then: Results, now: Results) -> dict[str, Comparison]:
    """By name of the number: new against old predictions, if both are for the same test images."""
    old, new = _answered(of, then), _answered(folder, now)
    return {
        name: compare(new[name].answers, one.answers, one.labels)
        for name, one in old.items()
        if name in new and new[name].same_images(one)
    }


class _Answered(NamedTuple):
    """The predictions of one classifier."""

    rows: Tensor  # int64 [n], of the test set
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: Tensor  # int64 [n]
    answers: Tensor  # int64 [n]

    def same_images(self, other: _Answered) -> bool:
        pairs = ((self.rows, other.rows), (self.labels, other.labels))
        return (self.classes, self.paths) == (other.classes, other.paths) and all(torch.equal(*one) for one in pairs)


def _answered(folder: Path, found: Results) -> dict[str, _Answered]:
    """The predictions behind the numbers of a result, by the name of the number; empty if they were not kept."""
    try:
        kept = read_predictions(folder) if (folder / PREDICTIONS).is_file() else []
    except UserError as error:
        log.warning("%s", error)
        return {}
    tasks = task_names(found.results) if isinstance(found, ProbeReport) else [one.task for one in kept]
    if len(tasks) != len(kept):  # with several seeds, the run of each seed keeps its own
        return {}

    def name(task: str, column: str) -> str:
        if isinstance(found, FinetuneResult):
            return TRAINED[column]
        return f"{task}, {column}" if isinstance(found, StudyReport) else f"{task}, {column.replace('.', ', ')}"

    return {
        name(task, column): _Answered(one.rows, one.classes, one.paths, one.labels, answers)
        for task, one in zip(tasks, kept, strict=True)
        for column, answers in one.answers.items()
    }


def leaves(value: object, key: str = "") -> Iterator[tuple[str, Leaf]]:
    """Every value of a JSON document by its dotted key, except ``NOT_COMPARED``."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name not in NOT_COMPARED:
                yield from leaves(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from leaves(inner, f"{key}.{place}")
    else:
        assert value is None or isinstance(value, str | float | int)
        yield key, value


def show(found: Repetition) -> None:
    """Print the table and the verdict on the console."""
    console = screen()
    table = Table(title=escape(f"{found.of}, run again in {found.folder}"), title_justify="left")
    for column in ("", "then", "now", "95% interval then", "paired difference", ""):
        table.add_column(column)
    for one in found.numbers:
        interval = "" if one.ci95 is None else f"[{one.ci95[0]:.4g}, {one.ci95[1]:.4g}]"
        now = "missing" if one.now is None else f"{one.now:.6g}"
        table.add_row(escape(one.name), f"{one.then:.6g}", now, escape(interval), escape(_difference(one)), one.state)
    console.print(table)
    for line in sentences(found):
        print_line(console, line)


def _difference(one: Number) -> str:
    """``+0.002 [-0.001, 0.005]``: now minus then on the same test images."""
    if one.paired is None or one.then == one.now:
        return ""
    low, high = one.paired.ci95
    return true_minus(f"{one.paired.difference:+.4g} [{low:.4g}, {high:.4g}]")


def sentences(found: Repetition) -> list[str]:
    """The verdict in words, and possible explanations."""
    if found.verdict == "identical":
        return [f"identical: all {found.values:,} values of {RESULTS} are the same, to the last digit"]
    count = f"{len(found.differing):,} of {found.values:,} values of {RESULTS} differ, the first: {found.differing[0]}"
    lines = [f"{found.verdict}: {count}"]
    lines += [
        f"{one.name}: {one.now or 'none'} now, {one.then or 'none'} then"
        for one in found.decisions
        if one.then != one.now
    ]
    if found.verdict == "different" and all(one.ci95 is None for one in found.numbers):
        lines.append("a single pretraining run has no intervals; pretraining with seeds=5 has them")
    if found.changed:
        lines += ["changed since the first run:", *(f"  {line}" for line in found.changed)]
    elif found.verdict == "different":
        lines.append(
            "versions, machine, images and encoder are those of the first run, so this should not happen: please "
            "report it"
        )
    return lines

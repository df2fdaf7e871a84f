"""Results as lines: one for each probe of each method on each task. Tables and W&B show them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from common.encoders.base import View
from finetune.records import Choice
from finetune.results import FinetuneResult, Outcome, ProbeReport, ProbeResult
from finetune.structured_results import Several

SUBJECTS = {"random_init": "untrained", "pixels": "raw pixels"}  # display names that differ from the key


class Line(NamedTuple):
    """One probe of one method on one task."""

    task: str  # with the data that distinguishes it, if there are several
    method: str
    probe: str  # linear, knn, ...; empty for a network that classifies by itself
    test_accuracy: float
    low: float
    high: float
    gain: float | None  # over `over` on the same test images
    gain_low: float | None
    gain_high: float | None
    over: str  # untrained, or from scratch
    layer: str
    pooling: str
    setting: str  # "l2 0.001", "k 20" or "step 450 of 600"
    how: str  # how layer, pooling and setting were chosen
    n_test: int
    chance: float  # accuracy of always answering the most frequent class
    note: str


def probe_lines(results: Sequence[ProbeResult]) -> list[Line]:
    """Every method on every task, from the results of one or more probe runs; a shared baseline appears once."""
    titles = titles_by_view((result.encoder.view, result.encoder.title) for result in results)
    found: dict[Line, None] = {}
    for task, result in zip(task_names(results), results, strict=True):
        for key, subject in result.subjects.items():
            title = result.encoder.title
            name = title if key == "encoder" else baseline_name(key, subject.view, title, titles)
            note = "saw gray only" if result.needs_color and subject.view == "gray" else ""
            for probe, outcome in subject.probes.items():
                found[_line(task, name, probe, outcome, "random_init", note)] = None
    return list(found)


def subject_name(key: str, encoder: str) -> str:
    """Its display name."""
    return encoder if key == "encoder" else SUBJECTS.get(key, key.replace("_", " "))


def titles_by_view(encoders: Iterable[tuple[View, str]]) -> dict[View, set[str]]:
    """The titles of some encoders by what they see, given as (view, title)."""
    found: dict[View, set[str]] = {}
    for view, title in encoders:
        found.setdefault(view, set()).add(title)
    return found


def baseline_name(key: str, view: View, encoder: str, titles: Mapping[View, Collection[str]]) -> str:
    """``untrained``, ``untrained, gray`` or ``untrained (mask)``: with what tells it from those of other encoders.

    Args:
        view: what the baseline sees.
        encoder: whose baseline it is.
        titles: of all encoders, by what they see.
    """
    name = subject_name(key, encoder)
    if key == "pixels":
        return name
    gray = ", gray" if view == "gray" and len(titles) > 1 else ""
    return f"{name}{gray}{f' ({encoder})' if len(titles.get(view, ())) > 1 else ''}"


def group_title(report: ProbeReport) -> str:
    """What the encoders of probes with several seeds are called: they differ only in their seed."""
    return (report.results or report.multilabel or report.dense)[0].encoder.title


def finetune_lines(result: FinetuneResult) -> list[Line]:
    """The fine-tuned network and its baselines."""
    outcomes: dict[str, Outcome[Choice] | None] = {
        "trained from scratch" if result.start == "scratch" else "fine-tuned": result.tuned,
        "linear probe of the frozen encoder": result.linear_probe,
        "same network from scratch": result.from_scratch,
    }
    return [
        _line(result.task, method, "", outcome, "from_scratch")
        for method, outcome in outcomes.items()
        if outcome is not None
    ]


def _line(task: str, method: str, probe: str, outcome: Outcome[Choice], baseline: str, note: str = "") -> Line:
    score, choice, gain = outcome.test, outcome.choice, outcome.compared.get(baseline)
    layer, pooling, setting = choice.cells
    low, high = score.ci95
    return Line(
        task=task,
        method=method,
        probe=probe,
        test_accuracy=score.accuracy,
        low=low,
        high=high,
        gain=None if gain is None else gain.difference,
        gain_low=None if gain is None else gain.ci95[0],
        gain_high=None if gain is None else gain.ci95[1],
        over=SUBJECTS.get(baseline, baseline.replace("_", " ")),
        layer=layer,
        pooling=pooling,
        setting=setting,
        how=choice.how,
        n_test=score.n,
        chance=max(map(sum, score.confusion)) / score.n,
        note=note,
    )


def task_names(results: Sequence[ProbeResult | Several]) -> list[str]:
    """The display name of each result's task, different for different data."""
    names = zip(data_names(results), results, strict=True)
    return [f"{result.task} ({data})" if data else result.task for data, result in names]


def data_names(results: Sequence[ProbeResult | Several]) -> list[str]:
    """The shortest name that distinguishes each result's data from the others; empty if all are the same."""
    facts = [
        (
            result.data.train,
            f"tested on {result.data.test}",
            f"{result.linear.n_train:,} training images",
            f"{result.linear.test.n:,} test images",
            f"{result.data.image_size} px",
        )
        for result in results
    ]
    names: list[tuple[str, ...]] = [()] * len(facts)
    for values in zip(*facts, strict=True):
        longer = [(*name, value) for name, value in zip(names, values, strict=True)]
        if len(set(longer)) > len(set(names)):
            names = longer
    return [", ".join(name) for name in names]

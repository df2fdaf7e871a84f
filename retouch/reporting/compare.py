"""Which differences are shown: paired comparisons on the same test images, corrected for their number.

A difference is shown if its 95% interval excludes zero and p < 0.05 after Holm's correction for all comparisons that
answer the same question (the same probe and the same baseline, over all encoders and tasks). p is from McNemar's exact
test; for several labels and for masks, from a normal approximation to the paired difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from finetune.metrics import SeedComparison, compare, compare_seeds
from finetune.predictions import Predictions
from finetune.results import Comparison
from finetune.spreads import Over
from finetune.structured_results import LabelComparison, Several
from retouch.reporting.facts import Entry, Facts, SeveralEntry

LEVEL = 0.05
UNTRAINED, PIXELS, SCRATCH, FROZEN = "random_init", "pixels", "from_scratch", "linear_probe"  # baselines
LINEAR = "encoder.linear"  # the column of predictions behind the main result
TWIN = f"{UNTRAINED}.linear"  # that of the untrained network


class Contrast(NamedTuple):
    """One encoder or network against another on one task."""

    task: str
    one: str
    other: str
    found: Comparison | LabelComparison | SeedComparison
    adjusted_p: float

    @property
    def shown(self) -> Literal["better", "worse", "open"]:
        """What is shown about ``one``; ``open`` if no difference is shown."""
        if self.adjusted_p >= LEVEL or not excludes_zero(self.found):
            return "open"
        return "better" if self.found.ci95[0] > 0 else "worse"


def excludes_zero(found: Comparison | LabelComparison | SeedComparison) -> bool:
    """Whether the 95% interval of a single difference is above zero, or below it."""
    low, high = found.ci95
    return not low <= 0 <= high


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted so that the probability of any false discovery among them is bounded (Holm 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def gains(facts: Facts, baseline: str, probe: str = "linear", entries: Sequence[Entry] | None = None) -> list[Contrast]:
    """Every encoder against a baseline (``random_init`` or ``pixels``) on every task, where they were compared.

    Args:
        entries: those that are looked at; all by default.
    """
    found = []
    for entry in facts.entries if entries is None else entries:
        outcome = entry.result.subjects["encoder"].probes.get(probe)
        if outcome is not None:
            comparison = outcome.compared.get(baseline)
            if comparison is None and baseline == PIXELS:
                comparison = _over_pixels(facts, entry, probe)
            if comparison is not None:
                found.append((entry.task, entry.encoder, baseline, comparison))
    return contrasts(found)


def _over_pixels(facts: Facts, entry: Entry, probe: str) -> Comparison | None:
    """Raw pixels are the same for every encoder, so any run's probe of them on the same images will do."""
    mine, theirs = f"encoder.{probe}", f"{PIXELS}.{probe}"
    others = (paired(entry.predictions, mine, other.predictions, theirs) for other in facts.of_task(entry.task))
    return next((comparison for comparison in others if comparison is not None), None)


def tuned_gains(facts: Facts, baseline: str) -> list[Contrast]:
    """Every fine-tuned network against a baseline (``from_scratch`` or ``linear_probe``), where they were compared."""
    return contrasts(
        [
            (run.result.task, run.origin.name, baseline, run.result.tuned.compared[baseline])
            for run in facts.finetuning
            if baseline in run.result.tuned.compared
        ]
    )


def rivals(facts: Facts) -> list[Contrast]:
    """On each task, the encoder with the best linear probe against the second, if both have the same test images.

    Runs that differ only in their seed are not rivals; their groups are compared by ``group_rivals``.
    """
    found = []
    for task in facts.tasks:
        single = [entry for entry in facts.of_task(task) if facts.group_of(entry.origin) is None]
        if not single:
            continue
        ranked = sorted(single, key=lambda entry: entry.result.linear.test.accuracy, reverse=True)
        best = ranked[0]
        second = next((one for one in ranked if one.result.encoder.sha256 != best.result.encoder.sha256), None)
        if second is None:
            continue
        if (comparison := paired(best.predictions, LINEAR, second.predictions, LINEAR)) is not None:
            found.append((task, best.encoder, second.encoder, comparison))
    return contrasts(found)


def together(found: Sequence[Contrast]) -> list[Contrast]:
    """The same comparisons, corrected for all of them."""
    p_values = [one.found.p if isinstance(one.found, LabelComparison) else one.found.p_value for one in found]
    return [one._replace(adjusted_p=p) for one, p in zip(found, holm(p_values), strict=True)]


def several_gains(entries: Sequence[SeveralEntry[Several]], baseline: str) -> list[Contrast]:
    """Gains for several labels per image, or for masks; the results of one kind are corrected together."""
    found = [(entry, entry.result.linear.compared.get(baseline)) for entry in entries]
    known = [(entry, one) for entry, one in found if one is not None]
    adjusted = holm([one.p for _, one in known])
    return [
        Contrast(entry.task, entry.encoder, baseline, one, p) for (entry, one), p in zip(known, adjusted, strict=True)
    ]


OVER: tuple[Over, ...] = ("pretraining", "probing")


class GroupContrast(NamedTuple):
    """One group of runs with several seeds against another on one task."""

    over: Over  # what varies with the seed in both
    task: str
    one: str
    other: str
    found: SeedComparison
    adjusted_p: float

    @property
    def shown(self) -> bool:
        """Whether ``one``, which has the higher mean, is shown to be better."""
        return self.adjusted_p < LEVEL and self.found.ci95[0] > 0


def group_rivals(facts: Facts) -> list[GroupContrast]:
    """On each task, the group with the best linear probes on average against the second, on the same images.

    Only groups with seeds of the same stage are compared: probe seeds say nothing about the variance of pretraining.
    """
    found = []
    for over, task in product(OVER, facts.tasks):
        several = _answers_of_groups(facts, task, over, LINEAR)
        means = {name: sum(map(_right, some)) / len(some) for name, some in several.items()}
        best, second = [*sorted(means, key=means.__getitem__, reverse=True), "", ""][:2]
        if second and _same_images([*several[best], *several[second]]):
            ours, theirs = (_stacked(several[name], LINEAR) for name in (best, second))
            found.append((over, task, best, second, compare_seeds(ours, theirs, several[best][0].labels)))
    adjusted = holm([comparison.p_value for *_, comparison in found])
    return [GroupContrast(*one, p) for one, p in zip(found, adjusted, strict=True)]


def group_gains(facts: Facts) -> list[Contrast]:
    """On each task, each group of runs against their untrained networks: over seeds and test images together."""
    found = [
        (task, name, some)
        for over, task in product(OVER, facts.tasks)
        for name, some in _answers_of_groups(facts, task, over, LINEAR, TWIN).items()
        if _same_images(some)
    ]
    compared = [compare_seeds(_stacked(some, LINEAR), _stacked(some, TWIN), some[0].labels) for *_, some in found]
    adjusted = holm([one.p_value for one in compared])
    return [
        Contrast(task, name, UNTRAINED, one, p)
        for (task, name, _), one, p in zip(found, compared, adjusted, strict=True)
    ]


def _answers_of_groups(facts: Facts, task: str, over: Over, *columns: str) -> dict[str, list[Predictions]]:
    """By group: the predictions of its runs, two or more, that have all these columns."""
    answered: dict[str, list[Predictions]] = {}
    for entry in facts.of_task(task):
        group, predictions = facts.group_of(entry.origin), entry.predictions
        if group is None or group.over != over or predictions is None:
            continue
        if predictions.answers.keys() >= set(columns):
            answered.setdefault(group.name, []).append(predictions)
    return {name: some for name, some in answered.items() if len(some) > 1}


def _stacked(found: Sequence[Predictions], column: str) -> Tensor:
    """The answers of several runs, int64 ``[R n]``."""
    return torch.stack([one.answers[column] for one in found])


def _right(one: Predictions) -> float:
    return float((one.answers[LINEAR] == one.labels).double().mean())


def _same_images(found: Sequence[Predictions]) -> bool:
    first = found[0]
    return all(
        (first.classes, first.paths) == (one.classes, one.paths) and torch.equal(first.labels, one.labels)
        for one in found
    )


def paired(mine: Predictions | None, answers: str, theirs: Predictions | None, others: str) -> Comparison | None:
    """Compare two classifiers on the same test images; ``None`` if the images differ or predictions are missing."""
    if mine is None or theirs is None or answers not in mine.answers or others not in theirs.answers:
        return None
    same = _same_images([mine, theirs])
    return compare(mine.answers[answers], theirs.answers[others], mine.labels) if same else None


def contrasts(found: Sequence[tuple[str, str, str, Comparison]]) -> list[Contrast]:
    """Comparisons, given as (task, one, other, found), corrected together."""
    adjusted = holm([comparison.p_value for *_, comparison in found])
    return [Contrast(*one, p) for one, p in zip(found, adjusted, strict=True)]

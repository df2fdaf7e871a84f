"""The answer in plain words: pure functions of typed facts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

from common.words import first_upper
from finetune.results import Comparison
from finetune.table import two_digits
from finetune.worth import LabelEfficiency
from retouch.reporting.answer import answered
from retouch.reporting.compare import Contrast
from retouch.reporting.sentences import ahead, interval, listed, number, p_text, points, signed
from retouch.studies.results import Contender, Kind, Role, Versus

LEVEL, POWER = 0.05, 0.8
SHOWN_AS = {"pixels": "raw pixels", "scratch": "training from scratch on the labels"}


def detectable(images: int, discordance: float, comparisons: int = 1) -> float:
    """The smallest difference between two accuracies that a paired test on ``images`` usually detects, as a share.

    McNemar's test at 5% detects it in 80% of all samples: ``(z_α √d + z_β √(d − δ²)) / √n``, without δ² (Connor 1987).

    Args:
        discordance: d, the share of images that exactly one of the two classifies correctly.
        comparisons: how many are corrected together; each gets an equal part of the 5%.
    """
    normal = NormalDist()
    strict = normal.inv_cdf(1 - LEVEL / (2 * comparisons))
    return min(1.0, (strict + normal.inv_cdf(POWER)) * math.sqrt(discordance / images))


def smallest_shown(found: Comparison, images: int, comparisons: int = 1) -> float:
    """The same for a comparison that was made; if both agree on all images, they are assumed to differ on one."""
    return detectable(images, max(1, found.n10 + found.n01) / images, comparisons)


def shown_name(name: str, kind: Kind) -> str:
    """A contestant in a table: ``raw pixels``, ``untrained, gray``; others have their names in the settings."""
    return name.replace("_", ", ").replace("rgb", "RGB") if kind == "untrained" else SHOWN_AS.get(kind, name)


def _in_words(name: str, role: Kind | Role) -> str:
    """The same in a sentence."""
    return {"untrained": "the untrained network", "pretrained": f"the pretrained {name}"}.get(
        role, shown_name(name, role)
    )


class Rivals:
    """The comparisons of the winner, by the role of the other contestant."""

    def __init__(self, comparisons: Sequence[Versus]) -> None:
        self.count = len(comparisons)
        self.by_role: dict[Role, list[Versus]] = {}
        for one in comparisons:
            self.by_role.setdefault(one.role, []).append(one)

    def of(self, role: Role) -> list[Versus]:
        """The comparisons with this rival, on every task."""
        return self.by_role.get(role, [])


class TooShort(NamedTuple):
    """Networks were to be trained, but the budget was too short for that."""

    budget: float  # seconds
    enough: int  # minutes that would be enough
    untried: tuple[str, ...] = ()  # these networks, if others were trained; none: no network was

    @property
    def said(self) -> str:
        """Who was not trained, if others were, and what would be enough."""
        return (
            f"There was no time to try {listed(self.untried)}; budget={self.enough}m would be enough for all of them."
        )


def verdict(
    winner: Contender,
    comparisons: Sequence[Versus],
    worth: Mapping[str, LabelEfficiency] | None = None,
    contenders: Sequence[Contender] = (),
    too_short: TooShort | None = None,
) -> tuple[str, ...]:
    """The answer in two sentences, then what else is shown. "No" is as good an answer as "yes".

    If no network won, the second sentence is what training changed in the best one.

    Args:
        worth: by task, what the winner's training is worth in labels, where that was measured.
        contenders: all contestants: unless the answer is yes, it says how long the best network was trained.
        too_short: given if networks could not be trained: if that is none, the question is not answered.
    """
    rivals = Rivals(comparisons)
    if too_short is not None and not too_short.untried:
        first = (
            f"Not answered: {too_short.budget:.0f} s are too few to train a network on these images; "
            f"try budget={too_short.enough}m."
        )
        return (first, f"Of the rest, {_best(winner)}.", *_others(winner, rivals, set()))
    first, said = _answer(winner, rivals, worth or {})
    others = [*_others(winner, rivals, said), *_saved_on(rivals, worth or {})]
    others += [] if too_short is None else [too_short.said]
    if first.startswith("Yes"):
        return (first, *others)
    return tuple(filter(None, [first, _own_gain(winner, rivals, contenders), *others, trained(contenders)]))


def _saved_on(rivals: Rivals, worth: Mapping[str, LabelEfficiency]) -> list[str]:
    """What training is worth in labels, if there are several tasks; that on a single one is part of the answer."""
    return [f"On {task}, {saved(one)}." for task, one in worth.items()] if len(rivals.of("untrained")) > 1 else []


def _own_gain(winner: Contender, rivals: Rivals, contenders: Sequence[Contender]) -> str:
    """What its training changed in the best network, if the winner is none; empty if that was not measured."""
    others = rivals.of("restoring")
    found = next((one.over_twin for one in contenders if others and one.name == others[0].other), {})
    if winner.kind == "restoring" or not found:
        return ""
    name, [first, *rest] = others[0].other, found.values()
    corrected = first.p_value * max(rivals.count, len(contenders))  # no less strict than any table
    if not rest and corrected < LEVEL and not first.ci95[0] <= 0 <= first.ci95[1]:
        raised = "raised" if first.difference > 0 else "lowered"
        return f"Pretraining {raised} the accuracy of {name} by {points(first)}."
    tasks = [f"{signed(one.difference)} points {interval(*one.ci95)}" for one in found.values()]
    if rest:
        tasks = [f"{said} ({task})" for task, said in zip(found, tasks, strict=True)]
    if rest:
        return f"Pretraining changed the accuracy of {name} by {listed(tasks)}."
    return f"Pretraining is not shown to change the accuracy of {name} ({tasks[0]})."


def trained(contenders: Sequence[Contender]) -> str:
    """How long the best network was trained, and whether its accuracy still rose; empty if none was trained."""
    racers = [one for one in contenders if one.kind == "restoring" and one.validations]
    if not racers:
        return ""
    best = max(racers, key=lambda one: (len(one.validations), one.validations[-1].mean))
    last = best.validations[-1]
    length = f"{best.name} was trained for {last.seconds:.0f} s ({last.steps:,} steps)"
    more = "a larger budget may change this answer"
    if len(best.validations) < 2:
        return f"{length}; {more}."
    before = best.validations[-2]
    first, end = f"{number(before.mean)}% after {before.seconds:.0f} s", f"{number(last.mean)}% at the end"
    if last.mean > before.mean:
        return f"{length}, and its validation accuracy rose from {first} to {end}; {more}."
    return f"{length}, and its validation accuracy rose no further: it was {first} and {end}."


def _answer(winner: Contender, rivals: Rivals, worth: Mapping[str, LabelEfficiency]) -> tuple[str, set[Role]]:
    """The first sentence, and the roles whose comparisons it covers."""
    better: tuple[Role, ...] = ("pretrained", "scratch")  # a model of others, or the labels alone
    better = (*better, "simple", "pixels") if winner.kind == "restoring" else better
    for role in better:
        others = rivals.of(role)
        if _all(others, "worse"):
            return f"No: {_subject(role, others[0].other)} {_beats(role)} {winner.name} by {_by(others)}.", {role}
    if winner.kind == "restoring":
        return _over_untrained(winner.name, rivals, worth), {"untrained"}
    best, others = _subject(winner.kind, winner.name), rivals.of("restoring")
    if _all(others, "better"):
        return f"No: {best} {_beats(winner.kind)} {others[0].other} by {_by(others)}.", {"restoring"}
    if not others:
        return f"No network was trained to restore images: {_best(winner)}.", set()
    if _all(others, "worse"):
        return (
            f"No clear answer: {_best(winner)}, but on the test images {others[0].other} beats {winner.name} by "
            f"{_by(others)}.",
            {"restoring"},
        )
    if any(is_shown(one) for one in others):
        return f"No clear answer: {_best(winner)}, but the tasks differ.", set()
    return (
        f"No gain shown: {_best(winner)}; on the test images, no difference from {others[0].other} is shown "
        f"({_range(others)}), and {_limit(others, rivals.count)}.",
        {"restoring"},
    )


def _best(winner: Contender) -> str:
    """``kmeans, which trains no network, is best on validation``."""
    return f"{_subject(winner.kind, winner.name)} {'are' if winner.kind == 'pixels' else 'is'} best on validation"


def _subject(kind: Kind | Role, name: str) -> str:
    """What to use instead of a network that restores images, as the subject of a sentence."""
    return f"{name}, which trains no network," if kind == "simple" else _in_words(name, kind)


def _beats(kind: Kind | Role) -> str:
    return "beat" if kind == "pixels" else "beats"


def _over_untrained(name: str, rivals: Rivals, worth: Mapping[str, LabelEfficiency]) -> str:
    found = rivals.of("untrained")
    if not found:
        return f"Not known: {name} was not compared with its untrained network."
    if len(found) > 1:
        return answered([_contrast(one) for one in found], "the untrained network")
    [one] = found
    match _shown(one):
        case "better":
            labels = f"; {saved(worth[one.task])}" if one.task in worth else ""
            return f"Yes: {name} beats the untrained network by {points(one.found)}{labels}."
        case "worse":
            return f"No: {name} is worse than the untrained network, by {points(one.found)}."
    limit = _limit(found, rivals.count)
    by = f"{points(one.found)}{ahead(one.found, name, 'the untrained network')}"
    return f"No difference shown: {name} and the untrained network differ by {by}, and {limit}."


def saved(found: LabelEfficiency) -> str:
    """``with 570 labels, that is worth about 430 more [300, 620]``: for the most labels whose worth is known."""
    [worth] = found.worth.values()
    all_ = found.curves["encoder"][-1].labels
    one = next((one for one in reversed(worth) if one.equals is not None and one.equals > one.labels), None)
    if one is None or one.equals is None:
        first = worth[0]
        ahead = f"with {first.labels:,} labels, it is ahead of that network with all {all_:,}"
        return ahead if first.equals is None else "what that is worth in labels is not known"

    def more(labels: int | None) -> str:
        """``labels``: None if more than the baseline's curve has."""
        beyond = "more than " if labels is None else ""
        return f"{beyond}{two_digits(max(0, (all_ if labels is None else labels) - one.labels)):,}"

    low, high = one.ci95
    return f"with {one.labels:,} labels, that is worth about {more(one.equals)} more [{more(low)}, {more(high)}]"


def _limit(rivals: Sequence[Versus], count: int) -> str:
    """The smallest difference that the test images usually show; ``count``: all comparisons, corrected together."""
    images, least = min(
        ((one.images, smallest_shown(one.found, one.images, count)) for one in rivals), key=lambda each: each[1]
    )
    among = f" and {count} comparisons" if count > 1 else ""
    said = f"with {images:,} test images{among}, differences below {number(least)} points are often missed"
    alone = [one for one in rivals if not is_shown(one) and not one.found.ci95[0] <= 0 <= one.found.ci95[1]]
    if not alone:
        return said
    [p, adjusted] = [p_text(value) for value in (alone[0].found.p_value, alone[0].adjusted_p)]
    on = f"on {alone[0].task} " if len(rivals) > 1 else ""
    return f"{said} ({on}{p} alone, {adjusted} after correction)"


def _others(winner: Contender, rivals: Rivals, covered: set[Role]) -> list[str]:
    """The winner compared with the others: ``colorize beats ...``, ``colorize is not shown to beat ...``.

    Each sentence names the winner, since those around it may be about another contestant.

    Args:
        covered: roles that were spoken of before.
    """
    said: dict[str, list[str]] = {"better": [], "worse": [], "open": []}
    for role, of_role in rivals.by_role.items():
        for shown in said:
            some = [one for one in of_role if role not in covered and _shown(one) == shown]
            if some:
                on = f" on {listed([one.task for one in some])}" if len(some) < len(of_role) else ""
                by = f" by {_by(some)}" if shown != "open" else f" ({_range(some)})"
                said[shown].append(f"{_rival(winner, role, rivals, some[0].other)}{on}{by}")
    name = _in_words(winner.name, winner.kind)
    name = name if name == winner.name else first_upper(name)
    is_ = "are" if winner.kind == "pixels" else "is"
    parts = [
        f"{_beats(winner.kind)} {listed(said['better'])}" if said["better"] else "",
        f"{is_} worse than {listed(said['worse'])}" if said["worse"] else "",
        f"{is_} not shown to beat {listed(said['open'], 'or')}" if said["open"] else "",
    ]
    return [f"{name} {part}." for part in filter(None, parts)]


def _rival(winner: Contender, role: Role, rivals: Rivals, name: str) -> str:
    """Another contestant in a sentence. The untrained network belongs to the best one that restores images."""
    if role == "untrained" and winner.kind != "restoring" and (leaders := rivals.of("restoring")):
        return f"the untrained network of {leaders[0].other}"
    return _in_words(name, role)


def _all(rivals: Sequence[Versus], shown: str) -> bool:
    return bool(rivals) and all(_shown(one) == shown for one in rivals)


def _contrast(one: Versus) -> Contrast:
    return Contrast(one.task, one.one, one.other, one.found, one.adjusted_p)


def _shown(one: Versus) -> str:
    return _contrast(one).shown


def is_shown(one: Versus) -> bool:
    """Whether the difference is shown, in either direction."""
    return _shown(one) != "open"


def _by(rivals: Sequence[Versus]) -> str:
    """``3.0 points [1.2, 4.8]``; for several tasks, the smallest and the largest."""
    ranked = sorted(rivals, key=lambda one: abs(one.found.difference))
    if len(ranked) == 1:
        return points(ranked[0].found)
    return f"{points(ranked[0].found)} ({ranked[0].task}) to {points(ranked[-1].found)} ({ranked[-1].task})"


def _range(rivals: Sequence[Versus]) -> str:
    """The same with signs, for differences that are not shown: ``−0.2 points [−1.1, 0.7]``."""
    ranked = sorted(rivals, key=lambda one: one.found.difference)
    said = [f"{signed(one.found.difference)} points {interval(*one.found.ci95)}" for one in ranked]
    return said[0] if len(said) == 1 else f"{said[0]} ({ranked[0].task}) to {said[-1]} ({ranked[-1].task})"

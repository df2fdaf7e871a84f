"""The answer in plain words: pure functions of typed facts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

from finetune.results import Comparison
from finetune.table import two_digits
from finetune.worth import LabelEfficiency
from retouch.reporting.compare import Contrast
from retouch.reporting.sentences import answered, listed, number, points
from retouch.studies.results import Contender, Kind, Role, Versus

LEVEL, POWER = 0.05, 0.8
SHOWN_AS = {"pixels": "raw pixels", "scratch": "training from scratch on the labels"}


def detectable(images: int, discordance: float) -> float:
    """The smallest difference of two accuracies that a paired test of ``images`` would usually show, as a share.

    With ``discordance``, the share of images that one of the two gets right and the other wrong, McNemar's test at 5%
    finds it in 80% of all samples: ``(z_α √d + z_β √(d − δ²)) / √n``, with δ² left out (Connor 1987).
    """
    normal = NormalDist()
    return min(1.0, (normal.inv_cdf(1 - LEVEL / 2) + normal.inv_cdf(POWER)) * math.sqrt(discordance / images))


def smallest_shown(found: Comparison, images: int) -> float:
    """The same for a comparison that was made; two that agree on all images are taken to differ on one."""
    return detectable(images, max(1, found.n10 + found.n01) / images)


def shown_name(name: str, kind: Kind) -> str:
    """A contestant in words."""
    return SHOWN_AS.get(kind, name.replace("_", " "))


def _in_words(name: str, role: Role) -> str:
    return "the untrained network" if role == "untrained" else shown_name(name, role)


def verdict(
    winner: Contender, comparisons: Sequence[Versus], worth: Mapping[str, LabelEfficiency] | None = None
) -> tuple[str, ...]:
    """The answer, and what else is shown of the winner. A no is an answer as good as a yes.

    Args:
        worth: by task, what the winner's training is worth in labels, where that was measured.
    """
    by_role: dict[Role, list[Versus]] = {}
    for one in comparisons:
        by_role.setdefault(one.role, []).append(one)
    first, told = _answer(winner, by_role, worth or {})
    return tuple(filter(None, [first, _others({role: by_role[role] for role in by_role if role not in told})]))


def _answer(
    winner: Contender, by_role: dict[Role, list[Versus]], worth: Mapping[str, LabelEfficiency]
) -> tuple[str, set[Role]]:
    """The first sentence, and the comparisons that it tells."""
    for role in ("pretrained", "scratch"):  # somebody else's work, or the labels alone, may be better than all
        rivals = by_role.get(role, [])
        if _all(rivals, "worse"):
            what = f"take {rivals[0].other}'s features" if role == "pretrained" else "train on the labels from scratch"
            return f"No: {what}, {_by(rivals)} better than {winner.name}.", {role}
    if winner.kind == "restoring":
        return _over_untrained(winner.name, by_role.get("untrained", []), worth), {"untrained"}
    rivals = by_role.get("restoring", [])
    name = winner.name
    taken = {
        "pretrained": f"take {name}'s features",
        "pixels": "take the pixels as they are",
        "untrained": "take the untrained network",
    }.get(winner.kind, f"take {name}, which trains no network")
    if not rivals:
        return f"Nothing was trained by restoring images: {taken}.", set()
    if _all(rivals, "better"):
        return f"No: {taken}, {_by(rivals)} better than {rivals[0].other}.", {"restoring"}
    return (
        f"No gain shown: {taken}; {rivals[0].other} was not shown to differ from it ({_by(rivals)} apart), and "
        f"{_limit(rivals)}.",
        {"restoring"},
    )


def _over_untrained(name: str, rivals: list[Versus], worth: Mapping[str, LabelEfficiency]) -> str:
    if not rivals:
        return f"Not known: {name} was not compared with its untrained network."
    if len(rivals) > 1:
        return answered([_contrast(one) for one in rivals], "the untrained network")
    [one] = rivals
    match _shown(one):
        case "better":
            labels = f"; {saved(worth[one.task])}" if one.task in worth else ""
            return f"Yes: {name} beats the untrained network by {points(one.found)}{labels}."
        case "worse":
            return f"No: {name} is worse than the untrained network, by {points(one.found)}."
    return f"No difference shown: {name} and the untrained network are {points(one.found)} apart, and {_limit(rivals)}."


def saved(found: LabelEfficiency) -> str:
    """``on 570 labels that is worth about 430 more [300, 620]``: of the most labels whose worth is known."""
    [worth] = found.worth.values()
    all_ = found.curves["encoder"][-1].labels
    one = next((one for one in reversed(worth) if one.equals is not None and one.equals > one.labels), None)
    if one is None or one.equals is None:
        first = worth[0]
        ahead = f"with {first.labels:,} labels it is ahead of that network with all {all_:,}"
        return ahead if first.equals is None else "what that is worth in labels is not known"

    def more(labels: int) -> str:
        return f"{two_digits(max(0, labels - one.labels)):,}"

    low, high = one.ci95
    most = f"more than {more(all_)}" if high is None else more(high)
    return f"on {one.labels:,} labels that is worth about {more(one.equals)} more [{more(low or 0)}, {most}]"


def _limit(rivals: Sequence[Versus]) -> str:
    """What the test images could not tell."""
    images, least = min((one.images, smallest_shown(one.found, one.images)) for one in rivals)
    return f"{images:,} test images cannot tell differences below {number(least)} points"


def _others(by_role: dict[Role, list[Versus]]) -> str:
    """What is shown of the winner next to all others: ``It beats ... Not shown to beat ...``."""
    said: dict[str, list[str]] = {"better": [], "worse": [], "open": []}
    for role, rivals in by_role.items():
        for shown in said:
            some = [one for one in rivals if _shown(one) == shown]
            if some:
                on = f" on {listed([one.task for one in some])}" if len(some) < len(rivals) else ""
                by = f" by {_by(some)}" if shown != "open" else ""
                said[shown].append(f"{_in_words(some[0].other, role)}{on}{by}")
    parts = [
        f"It beats {listed(said['better'])}." if said["better"] else "",
        f"It is worse than {listed(said['worse'])}." if said["worse"] else "",
        f"Not shown to beat {listed(said['open'], 'or')}." if said["open"] else "",
    ]
    return " ".join(filter(None, parts))


def _all(rivals: Sequence[Versus], shown: str) -> bool:
    return bool(rivals) and all(_shown(one) == shown for one in rivals)


def _contrast(one: Versus) -> Contrast:
    return Contrast(one.task, one.one, one.other, one.found, one.adjusted_p)


def _shown(one: Versus) -> str:
    return _contrast(one).shown


def is_shown(one: Versus) -> bool:
    """Whether the difference is shown, either way."""
    return _shown(one) != "open"


def _by(rivals: Sequence[Versus]) -> str:
    """``3.0 points [1.2, 4.8]``; of several tasks, the smallest and the largest."""
    ranked = sorted(rivals, key=lambda one: abs(one.found.difference))
    if len(ranked) == 1:
        return points(ranked[0].found)
    return f"{points(ranked[0].found)} ({ranked[0].task}) to {points(ranked[-1].found)} ({ranked[-1].task})"

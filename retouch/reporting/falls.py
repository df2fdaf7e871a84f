"""How much accuracy falls on damaged test images, in a sentence for each task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from common.words import headed
from finetune.results import Score
from retouch.reporting.damage import SCALE, damage_named
from retouch.reporting.facts import Facts
from retouch.reporting.sentences import chance, number

OTHERS = " Other methods were not tested."
LARGE = 0.5  # of what an accuracy is above chance: a fall of more than this share is among the limits


class Fall(NamedTuple):
    """The damage under which the accuracy of a classifier falls most."""

    clean: Score
    damaged: Score
    sentence: str

    @property
    def points(self) -> float:
        """Of accuracy that are lost, in [-1, 1]."""
        return self.clean.accuracy - self.damaged.accuracy

    @property
    def large(self) -> bool:
        """Whether more than half of what the accuracy is above chance is lost, and the intervals do not meet."""
        apart = self.damaged.ci95[1] < self.clean.ci95[0]
        return apart and self.points > LARGE * (self.clean.accuracy - chance(self.clean))


def falls(facts: Facts) -> list[Fall]:
    """The largest fall on each task: of all encoders that were probed, and of each study's winner."""
    found: list[Fall] = []
    for task in facts.tasks:
        measured = [(entry.encoder, entry.result.linear) for entry in facts.of_task(task)]
        each = [
            _fall(facts.about(task), name, linear.test, linear.damaged) for name, linear in measured if linear.damaged
        ]
        found += sorted(each, key=lambda one: -one.points)[:1]
    found += [
        _fall(facts.about_winner(one), one.name, one.damage.clean, one.damage.damaged, OTHERS)
        for one in facts.winners
        if one.damage is not None and one.damage.damaged
    ]
    return [one for one in found if one.points > 0]


def _fall(about: str, name: str, clean: Score, damaged: Mapping[str, Score], more: str = "") -> Fall:
    worst = min(damaged, key=lambda damage: damaged[damage].accuracy)
    low = damaged[worst]
    return Fall(
        clean,
        low,
        headed(
            about,
            f"with {damage_named(worst).replace(f'; {SCALE}', '')}, the accuracy of {name} falls from "
            f"{number(clean.accuracy)} to {number(low.accuracy)}% (always answering the most frequent class: "
            f"{number(chance(clean))}%).{more}",
        ),
    )

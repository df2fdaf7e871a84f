"""If a dictionary leads, it is learned again with as many atoms as time and memory allow.

A network improves with longer training, a dictionary with more atoms. So if the best contestant so far is a dictionary,
a wider one competes as well. It is chosen before the race is planned, and takes none of the time that is reserved for
networks; if no network competes, it may take most of the time.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import NamedTuple

from common.errors import UserError
from common.machine.memory import readable_size
from finetune.probes.search import FEW_IMAGES
from retouch.studies import fits
from retouch.studies import plan as planning
from retouch.studies.budget import planned_probe
from retouch.studies.contestants import Contestant, Speed, Wide, dictionary_of, widened, wider_ones
from retouch.studies.estimates import bytes_needed, free_memory, learning_seconds, testing_seconds, time_left
from retouch.studies.fits import JudgeCost
from retouch.studies.judge import STRENGTHS
from retouch.studies.parts import Parts
from retouch.studies.plan import Plan, Purse, Wider
from retouch.studies.race import better, judge_once

log = logging.getLogger("retouch")

MEASURED = 3  # the most dictionaries whose steps are timed


class Widened(NamedTuple):
    """The study with the wider dictionary as a contestant, if there is one, and a line about one that was left out."""

    parts: Parts
    wider: Wider | None
    left_out: tuple[str, ...]


def widen(parts: Parts, saved: Plan | None, kept: float) -> Widened | None:
    """Learn and judge a wider dictionary: the one of the plan, or the best that fits; None if a signal stopped it.

    Args:
        kept: seconds reserved for the networks.
    """
    journal = parts.journal
    chosen = journal.memory.wider if saved is None else saved.wider
    left_out: tuple[str, ...] = ()
    if chosen is None and saved is None:
        chosen, left_out = choose(parts, kept)
        for line in left_out:
            log.info("left out: %s", line)
        if chosen is not None:
            journal.keep(chosen)
    if chosen is None:
        return Widened(parts, None, left_out)
    one = widened(_narrow(parts, chosen), chosen)
    if journal.of(one.name) is None:
        why = "leads, and is learned again" if saved is None else "is learned again, as planned,"
        log.info("%s %s with %s", chosen.of, why, _described(chosen, one))
        if not one.fit():
            return None
        journal.save()  # records the time taken
    judge_once(one, parts.judge, journal, parts.run, steps=one.steps)
    field = replace(parts.field, simple=(*parts.field.simple, one))
    return Widened(replace(parts, field=field), chosen, chosen.left_out)


def choose(parts: Parts, kept: float) -> tuple[Wider | None, tuple[str, ...]]:
    """The best wider dictionary that fits, if a dictionary leads; and a line about the next better one."""
    [leader] = better(parts.journal.memory.judgments, 1)
    base, cost = parts.field.named(leader), parts.journal.last(leader).cost
    learned = dictionary_of(base)
    if learned is None:
        return None, ()
    left_out: tuple[str, ...] = ()
    taken, measured = {one.name for one in parts.field.all}, 0
    for wider in wider_ones(base):
        one = widened(base, wider)
        if one.features <= cost.width or wider.name in taken:
            continue
        # timing takes time too, so do not time one that is too slow even if its speed scales with the number of atoms
        image = cost.extraction / parts.images.judged * wider.atoms / learned.network.atoms
        reason = _too_much(parts, one, cost, Speed(0.0, 0.0, image), kept)
        if not reason:
            if measured == MEASURED:
                break
            measured += 1
            reason = _too_much(parts, one, cost, one.speed(), kept)
        if not reason:
            return wider.model_copy(update={"left_out": left_out}), left_out
        left_out = (f"{wider.name} with {_described(wider, one)}: {reason}",)
    return None, left_out


def _described(wider: Wider, one: Wide) -> str:
    """``1,200 atoms over 2x2 cells (4,800 features)``."""
    return f"{wider.atoms:,} atoms over {wider.grid}x{wider.grid} cells ({one.features:,} features)"


def _narrow(parts: Parts, chosen: Wider) -> Contestant:
    """The contestant with fewer atoms.

    Raises:
        UserError: the plan is from another study, and this contestant was left out here.
    """
    if all(one.name != chosen.of for one in parts.field.all):
        reasons = [line for line in parts.field.left_out if line.startswith(f"{chosen.of}:")]
        raise UserError(
            f"plan: it learns {chosen.of} with more atoms, but {chosen.of} cannot compete here; remove plan", *reasons
        )
    return parts.field.named(chosen.of)


def _too_much(parts: Parts, one: Wide, narrow: JudgeCost, speed: Speed, kept: float) -> str:
    """Why a wider dictionary does not fit; empty if it does.

    Args:
        narrow: the cost of judging the one with fewer atoms.
        kept: seconds reserved for the networks.
    """
    images, purse = parts.images, Purse(time_left(parts), kept, alone=not kept)
    counts = {"strengths": len(STRENGTHS), "few": FEW_IMAGES}
    cost = fits.wider_cost(narrow, images.judged, one.features, speed.image, **counts)
    learning = learning_seconds(one, speed)
    needed = learning + cost.seconds + testing_seconds(parts, cost)
    most = purse.room(planning.WIDER_SHARE)
    if needed > most:
        return f"needs about {needed:.0f} s, but a wider dictionary may take only {most:.0f} s"
    memory, room = bytes_needed(parts, images.fitted, one.features), free_memory(parts)
    if memory > room:
        return f"needs about {readable_size(memory)} of memory, but may take only {readable_size(room)}"
    rest = Purse(planning.CAREFUL * (purse.left - needed), planning.CAREFUL * kept, alone=not kept)
    if planned_probe(parts, [narrow], purse) is not None and planned_probe(parts, [cost], rest) is None:
        return "a linear probe of it on all labeled images would need too much time or memory"
    return ""

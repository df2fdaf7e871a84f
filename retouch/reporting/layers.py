"""What the search of linear probes shows about layers and poolings: a map and a sentence for each encoder and task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from finetune.metrics import wilson_interval
from finetune.probes.search import clearly_worse
from finetune.records import ProbeChoice, SpaceScore
from retouch.reporting.facts import Entry, Facts
from retouch.reporting.sentences import chance, distinct, layer_text, number


class LayerMap(NamedTuple):
    """Validation accuracies by layer and pooling: rows are layers, shallow to deep, and then combinations."""

    layers: tuple[str, ...]  # 0, 1, ..., 3 to 5
    poolings: tuple[str, ...]
    scores: dict[tuple[str, str], SpaceScore]  # by layer and pooling: the last comparison of each space
    chosen: tuple[str, str]


def layer_map(entry: Entry) -> LayerMap | None:
    """What was compared for the encoder's linear probe; ``None`` if nothing was, or if an older version did not say."""
    choice = entry.result.linear.choice
    if len(choice.spaces) < 2:
        return None
    ordered = sorted(choice.spaces, key=lambda one: (one.layer.count("+"), [*map(int, one.layer.split("+"))]))
    return LayerMap(
        layers=tuple(distinct(layer_text(one.layer) for one in ordered)),
        poolings=tuple(distinct(one.pooling for one in sorted(ordered, key=lambda one: one.pooling.count("+")))),
        scores={(layer_text(one.layer), one.pooling): one for one in choice.spaces},
        chosen=(layer_text(choice.layer), choice.pooling),
    )


def on_few(found: LayerMap) -> int | None:
    """The number of images in the subsample, if some spaces were compared only on it."""
    return max((one.fitted_on for one in found.scores.values() if one.fitted_on is not None), default=None)


def depth_sentences(facts: Facts) -> list[str]:
    """For each encoder and task, whether the last layer is the best one."""
    return [said for entry in facts.entries if (said := _depth(entry))]


def _depth(entry: Entry) -> str:
    outcome = entry.result.linear
    spaces = _one_round(outcome.choice.spaces)
    single: dict[int, float] = {}
    for one in spaces:
        if one.layer.isdecimal():
            single[int(one.layer)] = max(one.val_accuracy, single.get(int(one.layer), 0.0))
    if len(single) < 2:
        return ""
    who, last = f"{entry.encoder} on {entry.task}", max(single)
    if spaces[0].fitted_on is not None:
        who += f", fitted on {spaces[0].fitted_on:,} images"
    best = max(single, key=lambda layer: (single[layer], layer))
    if best == last:
        said = f"the last layer, {last}, is the best single one, with {number(single[last])}%"
    elif clearly_worse(single[last], single[best], outcome.n_val):
        said = f"the best single layer is {best}, not the last: {number(single[best])}% against {number(single[last])}%"
    else:
        said = (
            f"the best single layer, {best}, is within one standard error of the last: {number(single[best])}% and "
            f"{number(single[last])}%"
        )
    together = [one for one in spaces if not one.layer.isdecimal()]
    if together:
        top = max(together, key=lambda one: one.val_accuracy)
        said += f"; layers {layer_text(top.layer)} together reach {number(top.val_accuracy)}%"
    return f"{who}: {said}{_chosen(outcome.choice)}."


def _chosen(choice: ProbeChoice) -> str:
    """What was chosen in the end, and why that need not be the best."""
    fitted = [one for one in choice.spaces if one.fitted_on is None]
    mine = next((one for one in fitted if (one.layer, one.pooling) == (choice.layer, choice.pooling)), None)
    if mine is None:
        return ""
    which = f"layer{'' if mine.layer.isdecimal() else 's'} {layer_text(mine.layer)} ({mine.pooling})"
    best = max(one.val_accuracy for one in fitted)
    if mine.val_accuracy == best:
        return f"; chosen: {which}, the best of all with {number(best)}%"
    return (
        f"; chosen: {which} with {number(mine.val_accuracy)}%, preferred, as that is within one "
        f"standard error of the best, {number(best)}%"
    )


def chance_sentences(facts: Facts) -> list[str]:
    """Where no layer and pooling is clearly better than a guess."""
    found = []
    for entry in facts.entries:
        outcome = entry.result.linear
        if layer_map(entry) is None:
            continue
        best, guess = max(one.val_accuracy for one in outcome.choice.spaces), chance(outcome.test)
        if wilson_interval(round(best * outcome.n_val), outcome.n_val)[0] <= guess:
            found.append(
                f"{entry.encoder} on {entry.task}: none is clearly better than always answering the most frequent "
                f"class, which is right for {number(guess)}% of the test images, so their order means little."
            )
    return found


def _one_round(spaces: Sequence[SpaceScore]) -> Sequence[SpaceScore]:
    """Scores of fits on the same number of images: on the subsample, if there was one."""
    few = [one for one in spaces if one.fitted_on is not None]
    return few or spaces

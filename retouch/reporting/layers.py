"""What the search of linear probes shows about layers and poolings: a map and a sentence for each encoder and task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from finetune.probes.search import clearly_worse
from finetune.records import SpaceScore
from retouch.reporting.facts import Entry, Facts
from retouch.reporting.sentences import distinct, layer_text, number


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
    return f"{who}: {said}."


def _one_round(spaces: Sequence[SpaceScore]) -> Sequence[SpaceScore]:
    """Scores of fits on the same number of images: on the subsample, if there was one."""
    few = [one for one in spaces if one.fitted_on is not None]
    return few or spaces

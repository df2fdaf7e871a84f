"""The part of the page that shows test images in an encoder's feature space: a map, and neighbors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from common.words import counted, headed
from finetune.records import DataFacts
from retouch.reporting.blocks import Block, Nearby, Neighbor, Neighbors, Places, Points, Prose
from retouch.reporting.facts import Entry, Facts
from retouch.reporting.maps import MARKS, class_mark, places_chart
from retouch.reporting.pictures import ImageSet, ImageSets, Picture
from retouch.reporting.places import (
    Placed,
    agreement,
    agreement_sentence,
    apart,
    layout,
    neighbor_sentences,
    neighbors,
    placed,
)
from retouch.reporting.runs import Winner

MOST_THUMBNAILS, GAP = 80, 0.05  # on a map, and how far apart, as a share of its side
SIDE = 40  # of the picture of a neighbor, in pixels


def places_part(facts: Facts, sets: ImageSets) -> tuple[Block, ...]:
    """For the encoder with the best validation accuracy on the first task, or for the winner of a study.

    If its images have several tasks, marks show the classes of the task on which neighbors agree most, relative to
    chance.
    """
    same, name, data = _shown(facts)
    found = {entry.task: one for entry in same if (one := placed(entry)) is not None}
    if not found or data is None:
        return ()
    agree = {task: agreement(one) for task, one in found.items()}
    task = max(found, key=lambda name: agree[name].above_chance)
    one, images = found[task], sets.of(same[0].origin, data)
    near = neighbors(one)
    missing = f"The images themselves are not shown: {images}."
    return (
        _map(headed(facts.about(task), f"test images as {name} sees them"), one, images),
        Prose(tuple(neighbor_sentences(one, near, name, task if len(found) > 1 else ""))),
        Neighbors(tuple(_nearby(one, each.image, each.neighbors, images) for each in near)),
        Points(tuple(agreement_sentence(facts.about(name), each) for name, each in agree.items())),
        *((Prose((missing,), small=True),) if isinstance(images, str) else ()),
    )


def _shown(facts: Facts) -> tuple[Sequence[Entry | Winner], str, DataFacts | None]:
    """The tasks of the test images that are shown, the name of the encoder, and the data of these images."""
    if facts.entries:
        best = max(facts.of_task(facts.tasks[0]), key=lambda one: one.result.linear.choice.val_accuracy)
        same = [entry for entry in facts.entries if entry.embedding is best.embedding]
        return same, best.encoder, best.result.data
    if facts.winners:
        first = facts.winners[0]
        return [one for one in facts.winners if one.embedding is first.embedding], first.name, first.data
    return [], "", None


def _map(title: str, one: Placed, images: ImageSet | str) -> Places:
    points = layout(one.features)
    labels = one.labels[: len(points)]
    counts = torch.bincount(labels, minlength=len(one.classes))
    order = [number for number in counts.argsort(descending=True, stable=True).tolist() if counts[number]]
    mark = {number: place for place, number in enumerate(sorted(order[:MARKS]))}  # of the most frequent classes
    legend = [(class_mark(place), one.classes[number]) for number, place in mark.items()]
    if len(order) > MARKS:
        legend.append((class_mark(MARKS), counted(len(order) - MARKS, "other class", "other classes")))
    marks = [mark.get(number, MARKS) for number in labels.tolist()]
    return Places(
        title=title,
        chart=places_chart(points, marks, _thumbnails(one, points, images), title),
        legend=tuple(legend),
        caption=(
            f"{counted(len(points), 'test image')}, drawn at random. Images with similar features are close together "
            "(t-SNE of the frozen features). Distances between groups and sizes of groups mean nothing."
        ),
    )


def _thumbnails(one: Placed, points: NDArray[np.float32], images: ImageSet | str) -> list[tuple[int, Picture]]:
    chosen = [] if isinstance(images, str) else apart(points, GAP, MOST_THUMBNAILS)
    return [(place, shown) for place in chosen if (shown := _show(one, place, images)) is not None]


def _show(one: Placed, place: int, images: ImageSet | str) -> Picture | None:
    if isinstance(images, str):
        return None
    return images.show(int(one.rows[place]), one.paths[place], one.classes[int(one.labels[place])], most=SIDE)


def _nearby(one: Placed, image: int, others: tuple[int, ...], images: ImageSet | str) -> Nearby:
    def neighbor(place: int) -> Neighbor:
        same = bool(one.labels[place] == one.labels[image])
        return Neighbor(one.classes[int(one.labels[place])], same, _show(one, place, images))

    found = tuple(map(neighbor, others))
    note = f"{sum(other.same for other in found)} of {len(found)} in the same class"
    return Nearby(neighbor(image), note, found)

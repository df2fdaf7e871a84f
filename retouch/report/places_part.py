"""The part of the page that shows where an encoder puts the test images: a map for each task, and neighbors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from retouch.report.blocks import Block, Nearby, Neighbor, Neighbors, Places, Prose
from retouch.report.facts import Entry, Facts
from retouch.report.maps import MARKS, class_mark, places_chart
from retouch.report.pictures import ImageSet, ImageSets, Picture
from retouch.report.places import Placed, apart, layout, neighbor_sentences, neighbors, placed
from retouch.report.sentences import counted

MOST_THUMBNAILS, GAP = 80, 0.05  # on a map, and how far apart, as a share of its side
SIDE = 40  # of the picture of a neighbor, in pixels


def places_part(facts: Facts, sets: ImageSets) -> tuple[Block, ...]:
    """Of one encoder, the one with the best validation accuracy on the first task, and on all tasks of these images."""
    if not facts.entries:
        return ()
    best = max(facts.of_task(facts.tasks[0]), key=lambda one: one.result.linear.choice.val_accuracy)
    same = [entry for entry in facts.entries if entry.embedding is best.embedding]
    found = [(entry, one) for entry in same if (one := placed(entry)) is not None]
    if not found:
        return ()
    first, images, points = found[0][1], sets.of(best.origin, best.result.data), layout(found[0][1].features)
    # on the first map alone: thumbnails cover points
    maps = [_map(*one, points, _thumbnails(first, points, images) if one is found[0] else []) for one in found]
    near = neighbors(first)
    missing = f"The images themselves are not shown: {images}."
    return (
        *maps,
        Prose(tuple(neighbor_sentences(first, near))),
        Neighbors(tuple(_nearby(first, one.image, one.neighbors, images) for one in near)),
        *((Prose((missing,), small=True),) if isinstance(images, str) else ()),
    )


def _map(entry: Entry, one: Placed, points: NDArray[np.float32], shown: list[tuple[int, Picture]]) -> Places:
    labels = one.labels[: len(points)]
    counts = torch.bincount(labels, minlength=len(one.classes))
    order = [number for number in counts.argsort(descending=True, stable=True).tolist() if counts[number]]
    mark = {number: place for place, number in enumerate(sorted(order[:MARKS]))}  # of the most frequent classes
    legend = [(class_mark(place), one.classes[number]) for number, place in mark.items()]
    if len(order) > MARKS:
        legend.append((class_mark(MARKS), counted(len(order) - MARKS, "other class", "other classes")))
    title = f"{entry.task}: test images as {entry.encoder} sees them"
    return Places(
        title=title,
        chart=places_chart(points, [mark.get(number, MARKS) for number in labels.tolist()], shown, title),
        legend=tuple(legend),
        caption=(
            f"{counted(len(points), 'test image')}, drawn at random, by t-SNE of the frozen features. Who is near whom "
            "means something; how far apart groups lie, and how large they are, does not."
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
    note = f"{sum(other.same for other in found)} of {len(found)} of the same class"
    return Nearby(neighbor(image), note, found)

"""Two-dimensional charts: the confusion matrix, the map of test images, layers and poolings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from finetune.results import Score
from retouch.reporting import svg
from retouch.reporting.charts import WIDTH
from retouch.reporting.layers import LayerMap
from retouch.reporting.pictures import Picture

MOST_CLASSES = 30  # with more, no confusion matrix is drawn
NUMBERED = 12  # with more classes, its cells have no numbers
LEAST = 0.01  # the smallest share of a row that is written in its cell
LONG, LETTER = 24, 6.0  # characters of a class name that are drawn, and pixels of each; the tooltip has the whole name
MAP, THUMBNAIL = 720, 30  # side of the map of test images, and of a thumbnail on it, in pixels
HUES, MARKS = 10, 40  # colors of classes, and marks: each color has four shapes
SHAPES = (  # of marks, as SVG paths around a point: dot, square, triangle, diamond
    "m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0",
    "m-3-3h6v6h-6z",
    "m0-4.5l4 7.5h-8z",
    "m0-4.5l4.5 4.5l-4.5 4.5l-4.5-4.5z",
)
HEAT_WIDTH, HEAT_HEIGHT = 84, 24  # largest size of a cell in the map of layers and poolings, in pixels
FEW = "°"  # marks accuracies of fits on a subsample


# ---- confusion


def confusion_chart(score: Score, classes: Sequence[str]) -> Markup:
    """Rows are true classes, columns are answers, shades are shares of a row; correct answers have another color."""
    count = len(classes)
    cell = 26 if count <= NUMBERED else max(10, 312 // count)
    longest = LETTER * max(len(_cut(name)) for name in classes)
    left, side = longest + 10, count * cell
    parts: list[Markup] = []
    for row, (name, counts) in enumerate(zip(classes, score.confusion, strict=True)):
        parts.append(svg.text(left - 6, (row + 0.5) * cell + 3, _cut(name), "end", tooltip=name))
        parts.append(
            svg.text(0, 0, _cut(name), "end", tooltip=name, transform=_tilted(left + (row + 0.5) * cell, side))
        )
        for column, found in enumerate(counts):
            share = found / sum(counts) if found else 0.0
            x, y = left + column * cell, row * cell
            tooltip = f"{name} → {classes[column]}: {found:,} of {sum(counts):,}"
            kind = "right" if row == column else "wrong"
            parts.append(
                svg.tag(
                    "rect",
                    svg.title(tooltip),
                    class_=kind,
                    x=x,
                    y=y,
                    width=cell - 1,
                    height=cell - 1,
                    fill_opacity=0.05 + 0.95 * share,
                )
            )
            if count <= NUMBERED and share >= LEAST:
                kind = "cell strong" if share > 0.5 else "cell"
                parts.append(svg.text(x + (cell - 1) / 2, y + cell / 2 + 3, f"{100 * share:.0f}", "middle", kind))
    return svg.chart(left + side + 6, side + 10 + 0.87 * longest, "Confusion matrix", *parts)


def _tilted(x: float, y: float) -> str:
    return f"translate({x + 3:.1f} {y + 8:.1f}) rotate(-60)"


def _cut(name: str, most: int = LONG) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


# ---- the map of test images


def places_chart(
    points: NDArray[np.float32], labels: Sequence[int], thumbnails: Sequence[tuple[int, Picture]], label: str
) -> Markup:
    """Points ``[n 2]`` in [0, 1], marked by class (those from ``MARKS`` on share a mark); some are thumbnails."""
    inner = MAP - 2 * THUMBNAIL
    places = THUMBNAIL + inner * points
    covered = {place for place, _ in thumbnails}
    parts = []
    for number in sorted(set(labels), key=lambda number: number >= MARKS, reverse=True):
        at = [places[place] for place, one in enumerate(labels) if one == number and place not in covered]
        parts.append(_marks(number, [(float(x), float(y)) for x, y in at]))
    for place, picture in thumbnails:
        x, y = (float(value) - THUMBNAIL / 2 for value in places[place])
        box = {"x": x, "y": y, "width": THUMBNAIL, "height": THUMBNAIL}
        kind = f"frame {_hue(labels[place])}"
        parts.append(svg.tag("image", svg.title(picture.text), href=picture.uri, preserveAspectRatio="none", **box))
        parts.append(svg.tag("rect", "", class_=kind, **box))
    return svg.chart(MAP, MAP, label, *parts)


def class_mark(number: int) -> Markup:
    """The mark of a class in a legend."""
    return svg.tag("svg", _marks(number, [(6, 6)]), class_="mark", viewBox="0 0 12 12", width=12, height=12)


def _hue(number: int) -> str:
    return f"hue{number % HUES}" if number < MARKS else "other"


def _marks(number: int, places: Sequence[tuple[float, float]]) -> Markup:
    """The mark of a class at these places: one of ten hues and four shapes; a faint one for classes beyond those."""
    shape = SHAPES[number // HUES if number < MARKS else 0]
    return svg.tag("path", "", class_=_hue(number), d="".join(f"M{x:.0f} {y:.0f}{shape}" for x, y in places))


# ---- layers and poolings


def layer_chart(found: LayerMap) -> Markup:
    """Rows are layers, columns are poolings, numbers are percent; shaded from worst to best, the choice is framed."""
    heads = [name.replace("+", "\n+").split("\n") for name in found.poolings]
    names = {layer: f"layer{'' if layer.isdecimal() else 's'} {layer}" for layer in found.layers}
    top, left = 12 * max(map(len, heads)) + 6, 12 + LETTER * max(len(_cut(name)) for name in names.values())
    side = min(HEAT_WIDTH, (WIDTH - left) / len(heads))
    shares = [one.val_accuracy for one in found.scores.values()]
    low, span = min(shares), max(max(shares) - min(shares), 1e-9)
    parts = [
        svg.text(left + (column + 0.5) * side, top - 6 - 12 * (len(head) - 1 - line), text, "middle")
        for column, head in enumerate(heads)
        for line, text in enumerate(head)
    ]
    y = float(top)
    for layer, name in names.items():
        parts.append(svg.text(left - 8, y + HEAT_HEIGHT / 2 + 4, _cut(name), "end", tooltip=name))
        for column, pooling in enumerate(found.poolings):
            one = found.scores.get((layer, pooling))
            if one is None:
                continue
            x, share = left + column * side, 100 * one.val_accuracy
            box: dict[str, float] = {"x": x + 1, "y": y + 1, "width": side - 2, "height": HEAT_HEIGHT - 2}
            opacity = 0.04 + 0.46 * (one.val_accuracy - low) / span  # light enough to read the number
            tooltip = f"{name}, {pooling}: {share:.1f}%, {one.features:,} features"
            parts.append(svg.tag("rect", svg.title(tooltip), class_="heat", fill_opacity=opacity, **box))
            kind = "share"
            if (layer, pooling) == found.chosen:
                parts.append(svg.tag("rect", "", class_="chosen", **box))
                kind = "share strong"
            text = f"{share:.1f}{'' if one.fitted_on is None else FEW}"
            parts.append(svg.text(x + side / 2, y + HEAT_HEIGHT / 2 + 4, text, "middle", kind))
        y += HEAT_HEIGHT
    return svg.chart(left + len(heads) * side + 2, y + 2, "Validation accuracy by layer and pooling", *parts)

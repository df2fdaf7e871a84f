"""Facts as SVG. Colors come from the style sheet of the page: light, dark, print."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from finetune.lines import SUBJECTS
from finetune.metrics import Bin
from finetune.results import LabelEfficiency, Score
from retouch.report.facts import Curve
from retouch.report.layers import LayerMap
from retouch.report.pictures import Picture

WIDTH, LEFT, RIGHT = 340, 46, 10  # of a chart of curves, and its margins
MARK_WIDTH, MARK_HEIGHT, MARK_EDGE = 180, 18, 5  # of an interval, and its margin
MOST_CLASSES = 30  # of a confusion matrix that is drawn
NUMBERED = 12  # classes up to which its cells hold numbers
LONG, LETTER = 12, 6.0  # characters of a class name that are drawn, and pixels of one; the tooltip has the whole name
RACE_WIDTH, RACE_HEIGHT, RACE_NAMES = 560, 260, 150  # of a race, and its margin for names
MOST_TICKS = 5  # of an axis
MAP, THUMBNAIL = 720, 30  # side of the map of test images, and of a thumbnail on it, in pixels
HUES, MARKS = 10, 40  # colors of classes, and marks: each color has four shapes
SHAPES = (  # of marks, as paths around a point: dot, square, triangle, diamond
    "m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0",
    "m-3-3h6v6h-6z",
    "m0-4.5l4 7.5h-8z",
    "m0-4.5l4.5 4.5l-4.5 4.5l-4.5-4.5z",
)
RELIABLE = 240  # width of a chart of accuracy by confidence, in pixels
HEAT_WIDTH, HEAT_HEIGHT = 84, 24  # pixels of a cell of the map of layers and poolings, at most
FEW = "°"  # marks an accuracy of fits on a part of the images
POINTS = 400  # of a line: more are thinned, since they would not be seen


class Strip(NamedTuple):
    """One curve of a chart."""

    name: str
    curve: Curve
    height: int
    wide: bool = False  # a logarithmic axis, if the values span much


# ---- intervals


def interval_mark(score: Score, span: tuple[float, float], baseline: Score | None, chance: float) -> Markup:
    """An accuracy with its interval on an axis ``span``; a ring for the baseline, and a tick for chance."""

    def x(value: float) -> float:
        low, high = span
        return MARK_EDGE + (MARK_WIDTH - 2 * MARK_EDGE) * (value - low) / (high - low)

    middle = MARK_HEIGHT / 2
    label = f"{100 * score.accuracy:.1f}%, most frequent class {100 * chance:.1f}%"
    parts = [
        _line("axis", MARK_EDGE, middle, MARK_WIDTH - MARK_EDGE, middle),
        _line("chance", x(chance), 2, x(chance), MARK_HEIGHT - 2),
        _line("whisker", x(score.ci95[0]), middle, x(score.ci95[1]), middle),
    ]
    if baseline is not None:
        parts.append(_tag("circle", class_="ring", cx=x(baseline.accuracy), cy=middle, r=3.5))
        label += f", untrained {100 * baseline.accuracy:.1f}%"
    return _svg(MARK_WIDTH, MARK_HEIGHT, label, *parts, _dot(x(score.accuracy), middle, 4))


def span_of(shares: Sequence[float]) -> tuple[float, float]:
    """An axis around shares in [0, 1], in whole steps of 5 points."""
    low, high = math.floor(20 * min(shares)) / 20, math.ceil(20 * max(shares)) / 20
    return (low, high) if high > low else (max(0.0, low - 0.05), min(1.0, high + 0.05))


# ---- curves


def curves_chart(title: str, strips: Sequence[Strip]) -> Markup:
    """Curves of one run below each other, over the same steps; those of fewer than two points are left out."""
    strips = [strip for strip in strips if len(strip.curve.steps) > 1]
    first = min(strip.curve.steps[0] for strip in strips)
    last = max(strip.curve.steps[-1] for strip in strips)
    parts: list[Markup] = []
    top = 0
    for strip in strips:
        parts.append(_strip(strip, top, first, last))
        top += strip.height
    parts.append(_text(LEFT, top + 14, f"{first:,}", "start"))
    parts.append(_text(WIDTH - RIGHT, top + 14, f"step {last:,}", "end"))
    return _svg(WIDTH, top + 20, title, *parts)


def _strip(strip: Strip, top: float, first: int, last: int) -> Markup:
    """One curve between ``top`` and ``top + height``: its name, its ticks and its line."""
    upper, lower = top + 20, top + strip.height - 6
    steps, values = strip.curve
    scaled, ticks = _scale(min(values), max(values), strip.wide)
    seen = [scaled(value) for value in (*ticks, *values)]
    low, high = min(seen), max(seen)

    def y(value: float) -> float:
        return lower - (lower - upper) * (scaled(value) - low) / (high - low)

    def x(step: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - first) / max(last - first, 1)

    places = sorted({*range(0, len(values), math.ceil(len(values) / POINTS)), len(values) - 1})
    line = " ".join(f"{x(steps[place]):.1f},{y(values[place]):.1f}" for place in places)
    return Markup("").join(
        [
            _text(LEFT, top + 12, strip.name, "start", "name"),
            *(_line("axis", LEFT, y(tick), WIDTH - RIGHT, y(tick)) for tick in ticks),
            *(_text(LEFT - 6, y(tick) + 3.5, _short(tick), "end") for tick in ticks),
            _tag("polyline", class_="line", points=line),
            _dot(x(steps[-1]), y(values[-1]), 2.5),
        ]
    )


def _scale(low: float, high: float, wide: bool) -> tuple[Callable[[float], float], list[float]]:
    """An axis for values from ``low`` to ``high``, as what it makes of a value, and its ticks.

    Logarithmic for positive values that span much, if that is ``wide``; else linear.
    """
    if wide and low > 0 and high > 5 * low:
        ticks = [m * 10.0**e for e in range(-12, 13) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
        if len(ticks) > 1:
            return math.log10, ticks[:: math.ceil(len(ticks) / MOST_TICKS)]
    flat = high - low <= 1e-9 * max(abs(low), abs(high))
    span = max(abs(high) if flat else high - low, 1e-30)
    power = 10.0 ** math.floor(math.log10(span))
    step = next(power * m for m in (0.5, 1, 2, 5) if span / (power * m) <= MOST_TICKS - 2)
    first = math.floor(low / step)
    return float, [step * k for k in range(first, max(math.ceil(high / step), first + 1) + 1)]


def _short(value: float) -> str:
    """A tick in few characters: ``0.05``, ``2e−5``."""
    return f"{value:.3g}".replace("e-0", "e-").replace("-", "−")


# ---- a race


class Racer(NamedTuple):
    """A line of a race, or, with one point, somebody who is there from the start."""

    name: str
    seconds: tuple[float, ...]
    accuracy: tuple[float, ...]  # in [0, 1]


def race_chart(title: str, racers: Sequence[Racer]) -> Markup:
    """Accuracy against seconds of training; a level line for those who are judged once. Names are at the right."""
    right, bottom = RACE_WIDTH - RACE_NAMES, RACE_HEIGHT - 24
    scaled, ticks = _scale(min(min(r.accuracy) for r in racers), max(max(r.accuracy) for r in racers), wide=False)
    low, high = ticks[0], ticks[-1]
    last = max(max(racer.seconds) for racer in racers) or 1.0

    def x(seconds: float) -> float:
        return LEFT + (right - LEFT) * seconds / last

    def y(value: float) -> float:
        return bottom - (bottom - 14) * (scaled(value) - low) / (high - low)

    parts = [_line("axis", LEFT, y(tick), right, y(tick)) for tick in ticks]
    parts += [_text(LEFT - 6, y(tick) + 3.5, f"{100 * tick:.3g}%", "end") for tick in ticks]
    parts += [_text(LEFT, RACE_HEIGHT - 6, "0", "middle"), _text(right, RACE_HEIGHT - 6, f"{last:,.0f} s", "end")]
    above = -math.inf
    for racer in sorted(racers, key=lambda one: -one.accuracy[-1]):
        ends = [(x(s), y(a)) for s, a in zip(racer.seconds, racer.accuracy, strict=True)]
        if len(ends) > 1 or racer.seconds[0]:
            parts.append(_tag("polyline", class_="line", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in ends)))
            parts += [_dot(*end, 2.5) for end in ends]
        else:
            parts.append(_line("chance", LEFT, ends[0][1], right, ends[0][1]))
        above = max(ends[-1][1] + 3.5, above + 12)  # names do not overlap
        parts.append(_text(right + 8, above, f"{racer.name} {100 * racer.accuracy[-1]:.1f}", "start", "name"))
    return _svg(RACE_WIDTH, max(RACE_HEIGHT, above + 6), title, *parts)


# ---- accuracy by number of labels


def labels_chart(title: str, found: LabelEfficiency) -> Markup:
    """Test accuracy of each subject over labels, on a logarithmic axis; bars go from the least to the most of draws."""
    upper, lower, right = 10, 190, WIDTH - 84
    curves = found.curves
    budgets = [point.labels for point in curves["encoder"]]
    low, high = span_of([accuracy for curve in curves.values() for point in curve for accuracy in point.draws])

    def x(labels: int) -> float:
        return LEFT + (right - LEFT) * math.log(labels / budgets[0]) / max(math.log(budgets[-1] / budgets[0]), 1e-9)

    def y(accuracy: float) -> float:
        return lower - (lower - upper) * (accuracy - low) / (high - low)

    _, ticks = _scale(100 * low, 100 * high, wide=False)
    ticks = [tick for tick in ticks if 100 * low <= tick <= 100 * high]
    parts = [_line("axis", LEFT, y(tick / 100), right, y(tick / 100)) for tick in ticks]
    parts += [_text(LEFT - 6, y(tick / 100) + 3.5, _short(tick), "end") for tick in ticks]
    for name, curve in curves.items():
        kind = "line" if name == "encoder" else f"line {name.replace('_', '-')}"
        points = " ".join(f"{x(point.labels):.1f},{y(point.accuracy):.1f}" for point in curve)
        parts.append(_tag("polyline", class_=kind, points=points))
        parts += [
            _line(kind, x(point.labels), y(min(point.draws)), x(point.labels), y(max(point.draws))) for point in curve
        ]
    below = 0.0  # names of curves that end close together stand below each other
    for name in sorted(curves, key=lambda name: -curves[name][-1].accuracy):
        below = max(y(curves[name][-1].accuracy) + 3.5, below + 13)
        parts.append(_text(right + 6, below, SUBJECTS.get(name, name), "start", "name"))
    parts.append(_text(LEFT, lower + 16, f"{budgets[0]:,}", "start"))
    parts.append(_text(right, lower + 16, f"{budgets[-1]:,} labels", "end"))
    return _svg(WIDTH, lower + 22, title, *parts)


# ---- confusion


def confusion_chart(score: Score, classes: Sequence[str]) -> Markup:
    """Rows are true classes, columns answers; shades are shares of a row, right answers in another color."""
    count = len(classes)
    cell = 26 if count <= NUMBERED else max(10, 312 // count)
    longest = LETTER * max(len(_cut(name)) for name in classes)
    left, side = longest + 10, count * cell
    parts: list[Markup] = []
    for row, (name, counts) in enumerate(zip(classes, score.confusion, strict=True)):
        parts.append(_text(left - 6, (row + 0.5) * cell + 3, _cut(name), "end", tooltip=name))
        parts.append(_text(0, 0, _cut(name), "end", tooltip=name, transform=_tilted(left + (row + 0.5) * cell, side)))
        for column, found in enumerate(counts):
            share = found / sum(counts) if found else 0.0
            x, y = left + column * cell, row * cell
            tooltip = f"{name} → {classes[column]}: {found:,} of {sum(counts):,}"
            kind = "right" if row == column else "wrong"
            parts.append(_tag("rect", _title(tooltip), class_=kind, x=x, y=y, width=cell - 1, height=cell - 1,
                              fill_opacity=0.05 + 0.95 * share))  # fmt: skip
            if count <= NUMBERED and share >= 0.005:
                kind = "cell strong" if share > 0.5 else "cell"
                parts.append(_text(x + (cell - 1) / 2, y + cell / 2 + 3, f"{100 * share:.0f}", "middle", kind))
    return _svg(left + side + 6, side + 10 + 0.87 * longest, "Confusion matrix", *parts)


def _tilted(x: float, y: float) -> str:
    return f"translate({x + 3:.1f} {y + 8:.1f}) rotate(-60)"


def _cut(name: str, most: int = LONG) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


# ---- confidence


def reliability_chart(found: Sequence[Bin]) -> Markup:
    """Accuracy by confidence: a dot for each bin, larger for more answers; on the line, confidence is exactly right."""
    side, top = RELIABLE - LEFT - RIGHT, 24
    bottom = top + side

    def x(share: float) -> float:
        return LEFT + side * share

    def y(share: float) -> float:
        return bottom - side * share

    total = sum(one.n for one in found)
    ticks = (0.0, 0.5, 1.0)
    parts = [_line("axis", x(0), y(tick), x(1), y(tick)) for tick in ticks]
    parts += [_text(x(0) - 6, y(tick) + 3.5, f"{100 * tick:.0f}", "end") for tick in ticks]
    parts += [_text(x(tick), bottom + 14, f"{100 * tick:.0f}", "middle") for tick in ticks]
    parts += [_text(x(0), top - 10, "% right", "start", "name"), _text(x(1), bottom + 28, "% sure", "end", "name")]
    parts.append(_line("chance", x(0), y(0), x(1), y(1)))
    for one in found:
        tooltip = f"{one.n:,} answers, {100 * one.confidence:.1f}% sure on average: {100 * one.accuracy:.1f}% right"
        place = {"cx": x(one.confidence), "cy": y(one.accuracy), "r": 2 + 8 * math.sqrt(one.n / total)}
        parts.append(_tag("circle", _title(tooltip), class_="dot bin", **place))
    return _svg(RELIABLE, bottom + 34, "Accuracy by confidence", *parts)


# ---- places of test images


def places_chart(
    points: NDArray[np.float32], labels: Sequence[int], thumbnails: Sequence[tuple[int, Picture]], label: str
) -> Markup:
    """Points ``[n 2]`` in [0, 1] in the marks of their classes (at most ``MARKS``, else none), some as thumbnails."""
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
        parts.append(_tag("image", _title(picture.text), href=picture.uri, preserveAspectRatio="none", **box))
        parts.append(_tag("rect", "", class_=kind, **box))
    return _svg(MAP, MAP, label, *parts)


def class_mark(number: int) -> Markup:
    """The mark of a class in a legend."""
    return _tag("svg", _marks(number, [(6, 6)]), class_="mark", viewBox="0 0 12 12", width=12, height=12)


def _hue(number: int) -> str:
    return f"hue{number % HUES}" if number < MARKS else "other"


def _marks(number: int, places: Sequence[tuple[float, float]]) -> Markup:
    """The mark of a class at these places: one of ten hues in one of four shapes; the same faint one for all others."""
    shape = SHAPES[number // HUES if number < MARKS else 0]
    return _tag("path", "", class_=_hue(number), d="".join(f"M{x:.0f} {y:.0f}{shape}" for x, y in places))


# ---- layers and poolings


def layer_chart(found: LayerMap) -> Markup:
    """Rows are layers, columns poolings, numbers percent; shades from worst to best, and the chosen one is framed."""
    heads = [name.replace("+", "\n+").split("\n") for name in found.poolings]
    names = {layer: f"layer{'' if layer.isdecimal() else 's'} {layer}" for layer in found.layers}
    top, left = 12 * max(map(len, heads)) + 6, 12 + LETTER * max(len(_cut(name, 2 * LONG)) for name in names.values())
    side = min(HEAT_WIDTH, (WIDTH - left) / len(heads))
    shares = [one.val_accuracy for one in found.scores.values()]
    low, span = min(shares), max(max(shares) - min(shares), 1e-9)
    parts = [
        _text(left + (column + 0.5) * side, top - 6 - 12 * (len(head) - 1 - line), text, "middle")
        for column, head in enumerate(heads)
        for line, text in enumerate(head)
    ]
    y = float(top)
    for layer, name in names.items():
        parts.append(_text(left - 8, y + HEAT_HEIGHT / 2 + 4, _cut(name, 2 * LONG), "end", tooltip=name))
        for column, pooling in enumerate(found.poolings):
            one = found.scores.get((layer, pooling))
            if one is None:
                continue
            x, share = left + column * side, 100 * one.val_accuracy
            box: dict[str, float] = {"x": x + 1, "y": y + 1, "width": side - 2, "height": HEAT_HEIGHT - 2}
            opacity = 0.04 + 0.46 * (one.val_accuracy - low) / span  # never so dark that the number is not read
            tooltip = f"{name}, {pooling}: {share:.1f}%, {one.features:,} features"
            parts.append(_tag("rect", _title(tooltip), class_="heat", fill_opacity=opacity, **box))
            kind = "share"
            if (layer, pooling) == found.chosen:
                parts.append(_tag("rect", "", class_="chosen", **box))
                kind = "share strong"
            text = f"{share:.1f}{'' if one.fitted_on is None else FEW}"
            parts.append(_text(x + side / 2, y + HEAT_HEIGHT / 2 + 4, text, "middle", kind))
        y += HEAT_HEIGHT
    return _svg(left + len(heads) * side + 2, y + 2, "Validation accuracy by layer and pooling", *parts)


# ---- shapes


def _svg(width: float, height: float, label: str, *content: Markup) -> Markup:
    """A chart with a name for those who do not see it."""
    box = f"0 0 {width:g} {height:g}"
    inner = Markup("").join(content)
    return _tag("svg", inner, class_="chart", viewBox=box, width=width, height=height, role="img", aria_label=label)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return _tag("line", class_=kind, x1=x1, y1=y1, x2=x2, y2=y2)


def _dot(x: float, y: float, radius: float) -> Markup:
    return _tag("circle", class_="dot", cx=x, cy=y, r=radius)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "label", tooltip: str = "", **more: str) -> Markup:
    content = Markup("{}{}").format(_title(tooltip) if tooltip else "", text)
    return _tag("text", content, class_=kind, x=x, y=y, text_anchor=anchor, **more)


def _title(text: str) -> Markup:
    return _tag("title", text)


def _tag(name: str, content: str = "", **attributes: str | float) -> Markup:
    """An element. Its attributes, and a content that is no ``Markup``, are escaped; ``class_`` is ``class``."""
    written = [
        Markup(' {}="{}"').format(
            key.rstrip("_").replace("_", "-"),
            value if isinstance(value, str) else f"{round(value, 2):g}",
        )
        for key, value in attributes.items()
    ]
    return Markup("<{0}{1}>{2}</{0}>").format(name, Markup("").join(written), content)

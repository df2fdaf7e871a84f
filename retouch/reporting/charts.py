"""Charts with an axis: intervals, curves, races, accuracy by labels and by confidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from finetune.lines import SUBJECTS
from finetune.metrics import Bin
from finetune.results import Score
from finetune.worth import LabelEfficiency, LabelPoint
from retouch.reporting import svg
from retouch.reporting.runs import Curve

# in pixels
WIDTH, LEFT, RIGHT = 340, 46, 10  # of a chart of curves, and its margins
MARK_WIDTH, MARK_HEIGHT, MARK_EDGE = 180, 18, 5  # of an interval, and its margin
RACE_WIDTH, RACE_HEIGHT, RACE_NAMES = 620, 280, 170  # of a race, and its margin for names
RELIABLE = 240  # width of a chart of accuracy by confidence

MOST_TICKS = 5  # of an axis
POINTS = 400  # the most of a line: longer lines are thinned, which is not visible


class Strip(NamedTuple):
    """One curve of a chart."""

    name: str
    curve: Curve
    height: int
    wide: bool = False  # use a logarithmic axis if the values span a wide range
    beside: float | None = None  # a value to compare it with, drawn as a dashed line
    least: float = 0.0  # the least that its axis spans


# ---- intervals


def interval_mark(score: Score, span: tuple[float, float], baseline: Score | None, chance: float) -> Markup:
    """An accuracy with its interval on the axis ``span``; a ring for the baseline, and a tick for chance."""

    def x(value: float) -> float:
        low, high = span
        return MARK_EDGE + (MARK_WIDTH - 2 * MARK_EDGE) * (value - low) / (high - low)

    middle = MARK_HEIGHT / 2
    label = f"{100 * score.accuracy:.1f}%, most frequent class {100 * chance:.1f}%"
    parts = [
        svg.line("axis", MARK_EDGE, middle, MARK_WIDTH - MARK_EDGE, middle),
        svg.line("chance", x(chance), 2, x(chance), MARK_HEIGHT - 2),
        svg.line("whisker", x(score.ci95[0]), middle, x(score.ci95[1]), middle),
    ]
    if baseline is not None:
        parts.append(svg.tag("circle", class_="ring", cx=x(baseline.accuracy), cy=middle, r=3.5))
        label += f", untrained {100 * baseline.accuracy:.1f}%"
    return svg.chart(MARK_WIDTH, MARK_HEIGHT, label, *parts, svg.dot(x(score.accuracy), middle, 4))


def span_of(shares: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis around shares in [0, 1], rounded to 5 points."""
    low, high = math.floor(20 * min(shares)) / 20, math.ceil(20 * max(shares)) / 20
    return (low, high) if high > low else (max(0.0, low - 0.05), min(1.0, high + 0.05))


# ---- curves


def curves_chart(title: str, strips: Sequence[Strip]) -> Markup:
    """Curves of one run below each other, over the same steps; those with fewer than two points are left out."""
    strips = [strip for strip in strips if len(strip.curve.steps) > 1]
    first = min(strip.curve.steps[0] for strip in strips)
    last = max(strip.curve.steps[-1] for strip in strips)
    parts: list[Markup] = []
    top = 0
    for strip in strips:
        parts.append(_strip(strip, top, first, last))
        top += strip.height
    parts.append(svg.text(LEFT, top + 14, f"step {first:,}", "start"))
    parts.append(svg.text(WIDTH - RIGHT, top + 14, f"step {last:,}", "end"))
    return svg.chart(WIDTH, top + 20, title, *parts)


def _strip(strip: Strip, top: float, first: int, last: int) -> Markup:
    """One curve between ``top`` and ``top + height``: its name, its ticks and its line."""
    upper, lower = top + 20, top + strip.height - 6
    steps, values = strip.curve
    levels = [] if strip.beside is None else [strip.beside]
    bottom, summit = min(*values, *levels), max(*values, *levels)
    more = max(0.0, strip.least - (summit - bottom)) / 2
    scaled, ticks = _scale(bottom - more, summit + more, strip.wide)
    seen = [scaled(value) for value in (*ticks, *values, *levels)]
    low, high = min(seen), max(seen)

    def y(value: float) -> float:
        return lower - (lower - upper) * (scaled(value) - low) / (high - low)

    def x(step: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - first) / max(last - first, 1)

    places = sorted({*range(0, len(values), math.ceil(len(values) / POINTS)), len(values) - 1})
    line = " ".join(f"{x(steps[place]):.1f},{y(values[place]):.1f}" for place in places)
    return Markup("").join(
        [
            svg.text(LEFT, top + 12, f"{strip.name}{', logarithmic' if scaled is math.log10 else ''}", "start", "name"),
            *(svg.line("axis", LEFT, y(tick), WIDTH - RIGHT, y(tick)) for tick in ticks),
            *(svg.text(LEFT - 6, y(tick) + 3.5, _short(tick), "end") for tick in ticks),
            *(svg.line("beside", LEFT, y(level), WIDTH - RIGHT, y(level)) for level in levels),
            svg.tag("polyline", class_="line", points=line),
            svg.dot(x(steps[-1]), y(values[-1]), 2.5),
        ]
    )


def _scale(low: float, high: float, wide: bool) -> tuple[Callable[[float], float], list[float]]:
    """An axis for values from ``low`` to ``high``: its scale, a function of a value, and its ticks.

    Logarithmic for positive values that span a wide range, if ``wide``; else linear.
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
    """A line in the chart of a race, or with one point at 0 s, a contestant that is judged once."""

    name: str
    seconds: tuple[float, ...]
    accuracy: tuple[float, ...]  # in [0, 1]


def race_chart(title: str, racers: Sequence[Racer]) -> Markup:
    """Accuracy by seconds of training; contestants that are judged once are level lines. Names are on the right."""
    right, bottom = RACE_WIDTH - RACE_NAMES, RACE_HEIGHT - 24
    scaled, ticks = _scale(min(min(r.accuracy) for r in racers), max(max(r.accuracy) for r in racers), wide=False)
    low, high = ticks[0], ticks[-1]
    last = max(max(racer.seconds) for racer in racers) or 1.0

    def x(seconds: float) -> float:
        return LEFT + (right - LEFT) * seconds / last

    def y(value: float) -> float:
        return bottom - (bottom - 14) * (scaled(value) - low) / (high - low)

    parts = [svg.line("axis", LEFT, y(tick), right, y(tick)) for tick in ticks]
    parts += [svg.text(LEFT - 6, y(tick) + 3.5, f"{100 * tick:.3g}%", "end") for tick in ticks]
    parts += [
        svg.text(LEFT, RACE_HEIGHT - 6, "0", "middle"),
        svg.text(right, RACE_HEIGHT - 6, f"{last:,.0f} s of training", "end"),
    ]
    above = -math.inf
    for racer in sorted(racers, key=lambda one: -one.accuracy[-1]):
        ends = [(x(s), y(a)) for s, a in zip(racer.seconds, racer.accuracy, strict=True)]
        if len(ends) > 1 or racer.seconds[0]:
            parts.append(svg.tag("polyline", class_="line", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in ends)))
            parts += [svg.dot(*end, 2.5) for end in ends]
        else:
            parts.append(svg.line("chance", LEFT, ends[0][1], right, ends[0][1]))
        above = max(ends[-1][1] + 3.5, above + 12)  # names do not overlap
        if ends[-1][0] < right and racer.seconds[-1]:
            parts.append(svg.line("beside", ends[-1][0] + 4, ends[-1][1], right, ends[-1][1]))
        parts.append(svg.line("axis", right, ends[-1][1], right + 14, above - 3.5))  # from the line to its name
        parts.append(svg.text(right + 18, above, f"{racer.name} {100 * racer.accuracy[-1]:.1f}", "start", "name"))
    return svg.chart(RACE_WIDTH, max(RACE_HEIGHT, above + 6), title, *parts)


# ---- accuracy by number of labels


def labels_chart(title: str, found: LabelEfficiency) -> Markup:
    """Test accuracy of each subject by number of labels, on a logarithmic axis, with its interval."""
    upper, lower, right = 10, 190, WIDTH - 84
    curves = found.curves
    budgets = [point.labels for point in curves["encoder"]]
    low, high = span_of([end for curve in curves.values() for point in curve for end in _bar(point)])

    def x(labels: int) -> float:
        return LEFT + (right - LEFT) * math.log(labels / budgets[0]) / max(math.log(budgets[-1] / budgets[0]), 1e-9)

    def y(accuracy: float) -> float:
        return lower - (lower - upper) * (accuracy - low) / (high - low)

    _, ticks = _scale(100 * low, 100 * high, wide=False)
    ticks = [tick for tick in ticks if 100 * low <= tick <= 100 * high]
    parts = [svg.line("axis", LEFT, y(tick / 100), right, y(tick / 100)) for tick in ticks]
    parts += [svg.text(LEFT - 6, y(tick / 100) + 3.5, _short(tick), "end") for tick in ticks]
    for name, curve in curves.items():
        kind = "line" if name == "encoder" else f"line {name.replace('_', '-')}"
        points = " ".join(f"{x(point.labels):.1f},{y(point.accuracy):.1f}" for point in curve)
        parts.append(svg.tag("polyline", class_=kind, points=points))
        parts += [
            svg.line(kind, x(point.labels), y(least), x(point.labels), y(most))
            for point, (least, most) in zip(curve, map(_bar, curve), strict=True)
        ]
    below = 0.0  # names of curves that end close together are stacked
    for name in sorted(curves, key=lambda name: -curves[name][-1].accuracy):
        below = max(y(curves[name][-1].accuracy) + 3.5, below + 13)
        once = "*" if found.once(name) and len(curves[name]) > 1 else ""  # explained below the chart
        parts.append(svg.text(right + 6, below, f"{SUBJECTS.get(name, name.replace('_', ' '))}{once}", "start", "name"))
    parts.append(svg.text(LEFT, lower + 16, f"{budgets[0]:,}", "start"))
    parts.append(svg.text(right, lower + 16, f"{budgets[-1]:,} labels", "end"))
    return svg.chart(WIDTH, lower + 22, title, *parts)


def _bar(point: LabelPoint) -> tuple[float, float]:
    """The interval of a point; for older results, the range of its draws."""
    return (min(point.draws), max(point.draws)) if point.ci95 is None else point.ci95


# ---- confidence


class Reliability(NamedTuple):
    """The words of a chart of accuracy by confidence."""

    title: str
    sure: str  # on the axis of confidence
    right: str  # on the axis of accuracy
    tooltip: str  # of a bin, given n, confidence and accuracy in percent


OF_ANSWERS = Reliability(
    "Accuracy by confidence",
    "confidence, %",
    "accuracy, %",
    "{:,} answers: mean confidence {:.1f}%, accuracy {:.1f}%",
)
OF_LABELS = Reliability(
    "How often labels are present, by probability",
    "probability, %",
    "present, %",
    "{:,} cases: mean probability {:.1f}%, present in {:.1f}%",
)


def reliability_chart(found: Sequence[Bin], words: Reliability = OF_ANSWERS) -> Markup:
    """Accuracy by confidence: a dot for each bin, larger for more answers; on the line, they are equal."""
    side, top = RELIABLE - LEFT - RIGHT, 24
    bottom = top + side

    def x(share: float) -> float:
        return LEFT + side * share

    def y(share: float) -> float:
        return bottom - side * share

    total = sum(one.n for one in found)
    ticks = (0.0, 0.5, 1.0)
    parts = [svg.line("axis", x(0), y(tick), x(1), y(tick)) for tick in ticks]
    parts += [svg.text(x(0) - 12, y(tick) + 3.5, f"{100 * tick:.0f}", "end") for tick in ticks]
    parts += [svg.text(x(tick), bottom + 20, f"{100 * tick:.0f}", "middle") for tick in ticks]
    parts += [
        svg.text(x(0), top - 12, words.right, "start", "name"),
        svg.text(x(1), bottom + 34, words.sure, "end", "name"),
    ]
    parts.append(svg.line("chance", x(0), y(0), x(1), y(1)))
    for one in found:
        tooltip = words.tooltip.format(one.n, 100 * one.confidence, 100 * one.accuracy)
        place = {"cx": x(one.confidence), "cy": y(one.accuracy), "r": 2 + 8 * math.sqrt(one.n / total)}
        parts.append(svg.tag("circle", svg.title(tooltip), class_="dot bin", **place))
    return svg.chart(RELIABLE, bottom + 40, words.title, *parts)

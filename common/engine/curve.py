"""One number followed through training, and how long it has not improved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

GAIN = 0.01  # a loss has made progress once it is this share lower than at the last progress


class Curve:
    """Values of a loss by step. The loop keeps the points in every checkpoint, so a resumed run has them again."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []

    def add(self, step: int, value: float) -> None:
        """The value after ``step`` steps."""
        self.points.append((step, value))

    def restore(self, points: Iterable[Sequence[float]]) -> None:
        """Start from the points of a checkpoint."""
        self.points = [(int(step), float(value)) for step, value in points]


class Stall(NamedTuple):
    """How long a loss has made no progress."""

    points: int  # measurements since the last progress
    steps: int  # training steps between it and the last measurement


def stall(points: Sequence[tuple[int, float]]) -> Stall:
    """How long the loss with these ``(step, value)`` points has made no progress.

    Progress is a value at least ``GAIN`` below that of the last progress, so that many small gains add up to one. The
    first point counts as progress.
    """
    last, lowest = 0, float("inf")
    for number, (_, value) in enumerate(points):
        if number == 0 or value < (1 - GAIN) * lowest:
            last, lowest = number, value
    return Stall(len(points) - 1 - last, points[-1][0] - points[last][0]) if points else Stall(0, 0)

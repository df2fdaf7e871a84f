"""How many images are measured on at a panel, so that measuring stays cheap however often it is done."""

from __future__ import annotations

LEARNED = 128  # one image is measured on for so many that are learned from between two panels


def affordable(learned: int, *, least: int, most: int) -> int:
    """A number of images of which forward passes take a small share of the time of learning from ``learned``.

    A function of settings alone, so that a run gives the same numbers on any machine, and when it is resumed.

    Args:
        least: with fewer, a measurement would say too little, so these are measured whatever it takes.
        most: more would say no more.
    """
    return max(least, min(most, learned // LEARNED))

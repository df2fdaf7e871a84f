"""How many images are measured on at a panel, so that measuring stays cheap however often it is done."""

from __future__ import annotations

LEARNED = 128  # images learned from, between two panels, for each image that is measured on


def affordable(learned: int, *, least: int, most: int) -> int:
    """So many images that their forward passes take a small share of the time of learning from ``learned``.

    A function of settings alone, so that a run gives the same numbers on any machine, and when it is resumed.

    Args:
        least: fewer would say too little, so these are measured however long it takes.
        most: more would say no more.
    """
    return max(least, min(most, learned // LEARNED))

"""Numbers as the console and the pages write them."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """``1 run``, ``2,000 runs``; ``many`` where the plural is not ``one`` with an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def true_minus(text: str) -> str:
    """Numbers with a minus sign, which is as wide as a plus, in place of a hyphen."""
    return text.replace("-", "−")

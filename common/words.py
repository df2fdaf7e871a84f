"""Numbers as the console and the pages write them."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """``1 run``, ``2,000 runs``; ``many`` where the plural is not ``one`` with an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def true_minus(text: str) -> str:
    """Numbers with a minus sign, which is as wide as a plus, in place of a hyphen."""
    return text.replace("-", "−")


def first_upper(text: str) -> str:
    """With a capital letter at its beginning, as a sentence has it; the others stay as they are."""
    return text[:1].upper() + text[1:]


def headed(about: str, rest: str) -> str:
    """A sentence with what it is about before it, such as ``animal: ``; a capital letter if there is nothing."""
    return f"{about}{rest}" if about else first_upper(rest)

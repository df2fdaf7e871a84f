"""Evenly spread rows."""

from __future__ import annotations

import pytest

from common.data.rows import even_rows


@pytest.mark.parametrize(
    ("length", "count", "rows"),
    [(5, 10, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (60, 4, [0, 20, 39, 59]), (7, 1, [0]), (1, 5, [0])],
)
def test_rows_reach_from_the_first_to_the_last(length: int, count: int, rows: list[int]) -> None:
    assert even_rows(length, count).tolist() == rows


def test_rows_of_a_huge_set_are_exact() -> None:
    assert even_rows(2**25, 3).tolist() == [0, 2**24, 2**25 - 1]

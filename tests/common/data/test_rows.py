"""Evenly spread rows, against fractions computed exactly."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from common.data.rows import even_rows


@pytest.mark.parametrize(("length", "count"), [(1, 1), (5, 1), (5, 2), (7, 3), (10, 10), (10, 99), (1 << 25, 1001)])
def test_rows_are_the_nearest_to_exact_even_steps(length: int, count: int) -> None:
    rows = even_rows(length, count)
    kept = min(length, count)
    exact = [Fraction(index * (length - 1), max(kept - 1, 1)) for index in range(kept)]
    assert rows.dtype == torch.int64
    assert rows.tolist() == [round(place) for place in exact]  # halves to even, as in torch


def test_of_no_rows_none_are_chosen() -> None:
    assert even_rows(0, 5).tolist() == []

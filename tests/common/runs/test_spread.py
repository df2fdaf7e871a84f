"""Mean, standard deviation and t interval of a number over several seeds."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from common.runs.spread import Spread


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_spread_is_that_of_scipy(values: list[float]) -> None:
    found = Spread.of(values)
    assert found.values == tuple(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert found.deviation == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    if found.deviation > 1e-6:
        low, high = scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), scipy.stats.sem(values))
        assert found.ci95 == pytest.approx((low, high), rel=1e-6, abs=1e-6)


def test_one_value_has_no_spread() -> None:
    with pytest.raises(ValueError, match="needs at least two values, got 1"):
        Spread.of([0.5])

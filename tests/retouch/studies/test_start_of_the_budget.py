"""The budget counts from the start of the process, unless the clock was set meanwhile."""

from __future__ import annotations

import pytest

from retouch.studies.command import seconds_since


@pytest.mark.parametrize(
    ("now", "seconds"),
    [(1_000_004.5, 4.5), (1_000_000.0, 0.0), (900_000.0, 0.0), (2_000_000.0, 0.0)],
    ids=["as always", "at once", "set back", "set forward"],
)
def test_a_clock_that_was_set_takes_nothing_of_the_budget(
    monkeypatch: pytest.MonkeyPatch, now: float, seconds: float
) -> None:
    monkeypatch.setattr("time.time", lambda: now)
    assert seconds_since(1_000_000.0) == seconds

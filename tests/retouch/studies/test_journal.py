"""The files of a study: which plan it follows, and what it remembers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from retouch.studies import journal
from retouch.studies.journal import CLOCK, Journal
from retouch.studies.plan import Plan
from tests.retouch.studies.studies import SIZES


def plan_of(image_size: int) -> Plan:
    return Plan(image_size=image_size, sizes=SIZES, simple=(), steps={}, rungs=(), scratch=0, probe=False)


def test_an_interrupted_study_goes_on_with_its_own_plan_not_with_the_one_it_was_given(tmp_path: Path) -> None:
    """Its own plan has settled more, such as the network from scratch, and what was left out."""
    own, given = plan_of(16), plan_of(32)
    journal = Journal(tmp_path, 60.0, 0.0)
    assert journal.followed(None) is None
    assert journal.followed(given) == given
    journal.save_plan(own)
    assert Journal(tmp_path, 60.0, 0.0).followed(given) == own


def test_the_time_of_a_study_that_is_killed_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "BEAT", 0.01)
    first = Journal(tmp_path, 1200.0, time.monotonic() - 100)
    first.save()
    first.clock.started -= 50  # of a rung, in which nothing is judged
    with first.beating():
        while not (tmp_path / CLOCK).exists():
            time.sleep(0.01)
    again = Journal(tmp_path, 1200.0, time.monotonic())
    assert first.memory.spent == pytest.approx(100, abs=2)
    assert again.clock.taken == pytest.approx(150, abs=2)
    (tmp_path / CLOCK).write_text("{")  # half a file says nothing
    assert Journal(tmp_path, 1200.0, time.monotonic()).clock.taken == pytest.approx(100, abs=2)

"""The files of a study: which plan it follows, and what it remembers."""

from __future__ import annotations

from pathlib import Path

from retouch.studies.journal import Journal
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

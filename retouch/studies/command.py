"""``retouch study`` on the command line, where the budget counts from the start of the process."""

from __future__ import annotations

import time

import psutil

from retouch.studies.config import StudyConfig
from retouch.studies.results import StudyReport
from retouch.studies.run import study as answer

LONGEST_START = 300.0  # seconds: if there seem to be more, the system clock was changed


def study(config: StudyConfig) -> StudyReport | None:
    """Run the stage."""
    return answer(config, started=time.monotonic() - seconds_since(psutil.Process().create_time()))


def seconds_since(created: float) -> float:
    """Seconds since this process was created; 0 if the system clock was changed since, so that they are not known."""
    seconds = time.time() - created
    return seconds if 0 <= seconds <= LONGEST_START else 0.0

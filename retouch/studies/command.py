"""``retouch study`` on the command line, where the budget counts from the start of the process."""

from __future__ import annotations

import time

import psutil

from retouch.studies.config import StudyConfig
from retouch.studies.results import StudyReport
from retouch.studies.run import study as answer


def study(config: StudyConfig) -> StudyReport | None:
    """Run the stage."""
    return answer(config, started=time.monotonic() - (time.time() - psutil.Process().create_time()))

"""What every step of a study works with."""

from __future__ import annotations

from dataclasses import dataclass

from common.machine.distributed import World
from common.runs.folder import Run
from common.runs.made import Made
from retouch.studies.config import StudyConfig
from retouch.studies.field import Field
from retouch.studies.images import StudyImages
from retouch.studies.journal import Journal
from retouch.studies.judge import Judge


@dataclass(frozen=True)
class Parts:
    """A study in progress."""

    config: StudyConfig
    here: World
    run: Run
    images: StudyImages
    field: Field
    judge: Judge
    journal: Journal
    made: Made  # versions, machine and images

"""A run that leaves nothing on disk: learning from images in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from common.machine.distributed import World
from common.runs.folder import Run
from common.runs.tracking import Tracker


class MemoryRun(Run):
    """Takes the place of a run folder: no checkpoints, no metrics, no W&B, and Ctrl-C interrupts at once."""

    recorded: ClassVar[bool] = False

    def __init__(self, world: World) -> None:
        super().__init__(Path(), world, Tracker.disabled(Path()), resumed=False)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Nothing is kept."""

    def image(self, name: str, path: Path, step: int, caption: str = "") -> None:
        """Nothing is kept."""

    def cut_back(self, step: int) -> None:
        """There is nothing to cut back."""

"""A progress bar for people; a plain line every few seconds for pipes, files and CI."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger("retouch")

BAR_SECONDS = 0.5


class StepProgress:
    """Shows step, loss, images/s and time left. Silent in processes other than rank 0."""

    def __init__(self, title: str, steps: int, first_step: int, *, seconds: float, enabled: bool = True) -> None:
        self.title, self.steps, self.seconds, self.enabled = title, steps, seconds, enabled
        self._bar: Progress | None = None
        self._first, self._started = first_step, time.monotonic()
        self._shown_at = self._started
        if enabled and sys.stderr is not None and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[facts]}"), console=Console(stderr=True), transient=False,
            )  # fmt: skip
            self._task = self._bar.add_task(title, total=steps, completed=first_step, facts="")

    def __enter__(self) -> StepProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def waiting(self) -> bool:
        """Whether an update is due. Reading a loss makes a GPU wait, so not at every step."""
        return self.enabled and time.monotonic() - self._shown_at >= (BAR_SECONDS if self._bar else self.seconds)

    def update(self, step: int, loss: float | None, images_per_second: float) -> None:
        """Show progress after ``step`` steps; ``loss`` is None if there is none."""
        if not self.enabled:
            return
        now = self._shown_at = time.monotonic()
        shown = "" if loss is None else f"loss {loss:.4f}  "
        facts = f"{shown}{images_per_second:,.0f} images/s"
        if self._bar:
            self._bar.update(self._task, completed=step, facts=facts)
            return
        left = (now - self._started) / max(1, step - self._first) * (self.steps - step)
        log.info("%s  step %d/%d  %s  %s left", self.title, step, self.steps, facts, _clock(left))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

"""What is said of a run that has stopped or paused: how to go on."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from pathlib import Path

from common.files import is_group

log = logging.getLogger("retouch")

OPEN: ContextVar[Path | None] = ContextVar("open", default=None)  # the folder of the outermost open run


def say_how_to_continue(out: Path) -> None:
    """Log how to continue a run that was stopped with a checkpoint; a group, or the run around it, does so for it."""
    if _by_itself(out):
        log.info("to continue, %s", how_to_continue(out))


def say_paused(out: Path, step: int, steps: int, setting: str) -> None:
    """Log that a run has paused before its last step, which its encoder does not show, and how to go on.

    Args:
        setting: that it paused because of, such as ``stop.at=100``.
    """
    if _by_itself(out):
        name = setting.partition("=")[0]
        log.info(
            "paused at step %s of %s (%s); to go on, %s, and a larger %s or none",
            *(f"{step:,}", f"{steps:,}", setting, how_to_continue(out), name),
        )


def how_to_continue(out: Path) -> str:
    """What to do to continue a run."""
    return f"run the same command with out={out} resume=true"


def _by_itself(out: Path) -> bool:
    """Whether a run belongs to no other one."""
    return not is_group(out.parent) and OPEN.get() in (None, out)

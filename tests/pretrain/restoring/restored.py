"""Runs of ``retouch restore``, as tests start them, and what they leave."""

from __future__ import annotations

from pathlib import Path

import retouch
from pretrain.restoring.results import RestoreResult

QUIET = ["wandb.mode=disabled", "precision=float32"]
ODD = "a\u2028\x85"  # a name with characters that end a line


def restore(run: Path, pictures: Path, out: Path, *more: str) -> RestoreResult:
    return retouch.restore(str(run), f"data={pictures}", f"out={out}", *QUIET, *more)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

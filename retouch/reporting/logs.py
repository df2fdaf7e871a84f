"""Facts about a run from its ``train.log``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

LOG_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) ([A-Z]+) +(.*)")
UNLABELED = re.compile(r"([\d,]+) unlabeled images\b")
VERSIONS = "versions: "


@dataclass(frozen=True)
class Log:
    """Facts from ``train.log``: when the run started, with which versions, and its warnings."""

    started: str = ""  # 2026-01-31 12:00:00
    versions: str = ""
    unlabeled: int | None = None  # images that pretraining learned from
    warnings: tuple[str, ...] = ()


def read_log(folder: Path) -> Log:
    """Read ``train.log``. A resumed run continues it, so the start is in the first line; the last versions count."""
    try:
        text = (folder / "train.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Log()
    lines = [found.groups() for found in map(LOG_LINE.match, text.splitlines()) if found]
    counts = [found[1] for _, _, said in lines if (found := UNLABELED.match(said))]
    versions = [said.removeprefix(VERSIONS) for _, _, said in lines if said.startswith(VERSIONS)]
    return Log(
        started=lines[0][0] if lines else "",
        versions=versions[-1] if versions else "",
        unlabeled=int(counts[-1].replace(",", "")) if counts else None,
        warnings=tuple(dict.fromkeys(said for _, level, said in lines if level == "WARNING")),
    )

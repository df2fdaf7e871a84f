"""What to type after a study, to use what it found."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import NamedTuple

from common.encoders.load import ENCODER
from common.files import as_utf8
from finetune.data import LabeledData
from retouch.studies.results import CONTESTANTS, SCRATCH, StudyReport
from retouch.studies.verdict import is_shown

NEW = "data=my/new"  # the pictures to classify
NOT_OF_LABELS = {"workers", "cache", "image_size"}  # of the machine, and of the encoder


class NextSteps(NamedTuple):
    """How to classify new pictures."""

    name: str  # of the contestant that does it
    why: str
    commands: tuple[str, ...]  # in order


def next_steps(study: Path, labels: LabeledData, report: StudyReport) -> NextSteps | None:
    """How to classify new pictures with the winner; None for raw pixels and untrained networks.

    If the network from scratch is shown to beat the winner on a task, it is the one to use.

    Args:
        study: its folder.
        labels: its first label set.
    """
    if study.name in ("", ".."):  # the probe is named after it
        study = Path(os.path.abspath(study))  # noqa: PTH100 -- resolve() would follow links
    contestants = study / CONTESTANTS
    for number, task in enumerate(report.classes, start=1):
        if any(
            one.role == "scratch" and one.task == task and is_shown(one) and one.found.difference < 0
            for one in report.comparisons
        ):
            scratch = _command("predict", contestants / f"{SCRATCH}_{number}", NEW)
            return NextSteps(SCRATCH, f"it beats {report.winner} on the test images", (scratch,))
    winner = contestants / report.winner
    if not (winner / ENCODER).is_dir():
        return None
    probe = study.with_name(f"{study.name}-probe")
    commands = (
        _command("probe", "linear", f"encoder={winner}", *_settings(labels), f"out={probe}"),
        _command("predict", probe, NEW),
    )
    return NextSteps(report.winner, "it is best on validation", commands)


def _settings(labels: LabeledData) -> list[str]:
    """Labels as settings of a probe: all that differ from their defaults."""
    names = [name for name in LabeledData.model_fields if name not in NOT_OF_LABELS]
    values = labels.model_dump(mode="json", include=set(names), exclude_defaults=True)
    return [
        f"{'data' if name == labels.short else f'data.{name}'}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in ((name, values[name]) for name in names if name in values)
    ]


def _command(*words: str | Path) -> str:
    return shlex.join(["retouch", *(as_utf8(str(word)) for word in words)])

"""What to type after a study, to use what it found."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from common.encoders.load import ENCODER
from common.files import as_utf8
from retouch.studies.config import StudyConfig
from retouch.studies.results import CONTESTANTS, StudyReport
from retouch.studies.verdict import is_shown

NEW = "data=my/new"  # the pictures to classify


def next_steps(config: StudyConfig, report: StudyReport) -> tuple[str, ...]:
    """The commands that classify new pictures with the winner, in order; none for raw pixels and untrained networks.

    If the network from scratch is shown to beat the winner on a task, it is the one to use.
    """
    contestants = config.out / CONTESTANTS
    for number, task in enumerate(report.classes, start=1):
        if any(
            one.role == "scratch" and one.task == task and is_shown(one) and one.found.difference < 0
            for one in report.comparisons
        ):
            return (_command("predict", contestants / f"scratch_{number}", NEW),)
    winner = contestants / report.winner
    if not (winner / ENCODER).is_dir():
        return ()
    probe = config.out.with_name(f"{config.out.name}-probe")
    return (
        _command("probe", "linear", f"encoder={winner}", *_labels(config), f"out={probe}"),
        _command("predict", probe, NEW),
    )


def _labels(config: StudyConfig) -> list[str]:
    """The first label set as settings of a probe: those that were given."""
    data = config.labels
    names = [name for name in type(data).model_fields if name in data.model_fields_set and name not in _OF_MACHINE]
    values = data.model_dump(mode="json", include=set(names))
    return [
        f"{'data' if name == data.short else f'data.{name}'}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in ((name, values[name]) for name in names)
        if value is not None
    ]


_OF_MACHINE = {"workers", "cache", "image_size"}  # not needed to repeat the labels


def _command(*words: str | Path) -> str:
    return shlex.join(["retouch", *(as_utf8(str(word)) for word in words)])

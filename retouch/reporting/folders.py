"""The folders of finished runs to report, and the names of these runs in the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError, check_all, one_line
from common.files import as_utf8, is_group, run_stage
from common.runs.results import RESULTS
from common.runs.seeds import finished_runs
from retouch.reporting.logs import read_log
from retouch.studies.results import CONTESTANTS

REPORTED = ("pretrain", "probe", "finetune", "study")  # stages that leave results.json
LEFT = {  # what stages write that measure no encoder
    "embed": "features",
    "predict": "predictions",
    "search": "images that were found",
    "restore": "pictures",
    "strange": "a ranking",
}


def find_runs(folders: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The folders of all finished runs, and a line about everything else that was found in folders of runs.

    Raises:
        UserError: with every folder that is not a run, has not finished, or is given twice.
    """
    left_out: list[str] = []
    found = check_all(*(lambda folder=folder: _expand(folder, left_out) for folder in folders))
    runs = [run for some in found for run in some]
    again = [run for run, count in Counter(run.resolve() for run in runs).items() if count > 1]
    if again:
        shown = [next(str(run) for run in runs if run.resolve() == one) for one in again]
        raise UserError(*(f"{run}: given twice; name it once" for run in shown))
    return runs, left_out


def _expand(folder: Path, left_out: list[str]) -> list[Path]:
    """The run, or the runs in a folder of runs in the order in which they started."""
    folder = folder.parent if folder.name == RESULTS else folder
    if not folder.is_dir():
        what = "this is a file" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {what}; give the folder of a run, such as runs/denoise-1, or a folder of runs")
    stage = run_stage(folder)
    if is_group(folder):
        return finished_runs(folder)
    if stage in REPORTED:
        if not (folder / RESULTS).is_file():
            raise UserError(
                f"{folder}: this run of retouch {stage} has not finished; continue it, or leave it out of the report"
            )
        return [folder, *_contestants(folder)] if stage == "study" else [folder]
    if stage in LEFT:
        raise UserError(
            f"{folder}: retouch {stage} writes {LEFT[stage]}, not results to report; give a run of pretrain, probe, "
            "finetune or study"
        )
    if run_stage(folder.parent) is not None:
        raise UserError(f"{folder}: this is a part of a run; give the run: {folder.parent}")
    try:
        inside = sorted(path for path in folder.iterdir() if run_stage(path) is not None)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror or one_line(error)}") from None
    runs = []
    for inner in inside:
        if is_group(inner) and (inner / RESULTS).is_file():
            runs += finished_runs(inner)
        elif is_group(inner):
            left_out.append(f"{as_utf8(str(inner))} has not finished")
        elif run_stage(inner) in REPORTED and (inner / RESULTS).is_file():
            runs.append(inner)
        elif run_stage(inner) in REPORTED:
            left_out.append(f"{as_utf8(str(inner))} has not finished")
        else:
            left_out.append(
                f"{as_utf8(str(inner))} is a run of retouch {run_stage(inner)}, which writes no results to report"
            )
    if not runs:
        raise UserError(
            f"{folder}: neither a run nor a folder of finished runs; give what retouch pretrain, probe, finetune, "
            "study or demo wrote"
        )
    return sorted(runs, key=lambda run: (read_log(run).started, run.name))


def _contestants(study: Path) -> list[Path]:
    """The finished pretraining runs of a study."""
    inside = sorted((study / CONTESTANTS).glob("*"))
    return [run for run in inside if run_stage(run) == "pretrain" and (run / RESULTS).is_file()]


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The shortest end of each path that no other one of them has."""
    paths = [folder.resolve().parts for folder in folders]
    ends = Counter(path[-parts:] for path in paths for parts in range(1, len(path) + 1))
    return [
        as_utf8("/".join(next((end for parts in range(1, len(path)) if ends[end := path[-parts:]] == 1), path)))
        for path in paths
    ]

"""A study as a user runs it: does it keep its budget, what is its answer, and how good is its winner?

    python benchmarks/study.py --cifar10 PATH/TO/cifar10 --imagenette PATH/TO/imagenette128 --budget 20m

Each study is a command in its own process, whose seconds include starting Python and importing torch; it writes the
page ``report.html`` in its folder. The study uses the test set of the data once. Nothing else should run at the same
time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import record

from common.machine.cores import usable_cores
from retouch.studies.results import Contender, read_results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, help="folder of its parquet files")
    parser.add_argument("--imagenette", type=Path, help="folder of its parquet files")
    parser.add_argument("--budget", default="20m", help="budget of each study (default: 20m)")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where study-NAME goes (default: runs)")
    given = parser.parse_args()
    for name, data in (("cifar10", given.cifar10), ("imagenette", given.imagenette)):
        if data is not None:
            record("study", {name: run(name, data, given.budget, given.out)}, seed=0, add=True)


def run(name: str, data: Path, budget: str, out: Path) -> dict[str, Any]:
    """One study; returns what is recorded."""
    folder = out / f"study-{name}"
    settings = [
        f"labels={data}/train-*.parquet",
        f"labels.test={data}/test-*.parquet",
        f"budget={budget}",
        f"out={folder}",
        "overwrite=true",
    ]
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "retouch", "study", *settings], check=True)
    seconds = time.monotonic() - started
    report = read_results(folder)
    return {
        "budget": report.budget,
        "seconds": round(seconds, 1),
        "cores": usable_cores(),
        "verdict": report.verdict,
        "winner": report.winner,
        "image_size": report.image_size,
        "unlabeled_images": report.unlabeled_images,
        "repeated": report.repeated,
        "contestants": {one.name: _contender(one) for one in report.contenders},
        "comparisons": [one.model_dump(mode="json") for one in report.comparisons],
        "probe_kind": report.probe_kind,
        "probe": {task: one.test.model_dump(mode="json") for task, one in report.probe.items()},
        "worth": {task: one.model_dump(mode="json") for task, one in report.worth.items()},
        "left_out": report.left_out,
        "protocol": report.protocol,
    }


def _contender(one: Contender) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "features": one.features,
        "steps": one.steps,
        "validations": [found.model_dump(mode="json") for found in one.validations],
        "test": {task: {"accuracy": score.accuracy, "ci95": score.ci95} for task, score in one.test.items()},
    }


if __name__ == "__main__":
    main()

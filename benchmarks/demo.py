"""The demo as a newcomer runs it: how long it takes, and whether its table shows the gain, on several seeds.

    python benchmarks/demo.py --seeds 0 1 2

To emulate a slow machine, put ``ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2`` before the command, and add
``--precision float32``. Each seed runs in its own process; its seconds include starting Python and importing torch.
Nothing else should run at the same time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import record

from finetune.results import ProbeReport, ProbeResult, read_results
from retouch.demo import PRETRAINING

START = """\
import sys
from common.runs.logs import setup_console
from retouch.demo import demo
setup_console()
demo(sys.argv[1], pretraining=sys.argv[2:], probing=sys.argv[2:])"""
EMULATION = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--name", default="slow", help="name of the entries: NAME-SEED (default: slow)")
    parser.add_argument("--out", type=Path, default=Path("runs/demo-benchmark"))
    given = parser.parse_args()
    environment = {name: os.environ[name] for name in EMULATION if name in os.environ}
    for seed in given.seeds:
        out = given.out / f"{given.name}-{seed}"
        changes = [f"seed={seed}", f"precision={given.precision}"]
        started = time.monotonic()
        subprocess.run(
            [
                sys.executable,
                "-c",
                START,
                str(out),
                *changes,
            ],
            check=True,
        )
        seconds = time.monotonic() - started
        table = {name: entry for run in PRETRAINING for name, entry in _table(out / f"{run}-probe", run).items()}
        entry = {"seconds": round(seconds, 1), "environment": environment, "precision": given.precision, "table": table}
        record("demo", {f"{given.name}-{seed}": entry}, seed=seed, add=True)


def _table(folder: Path, run: str) -> dict[str, Any]:
    """The rows of one encoder and its baselines, by task and name."""
    report = read_results(folder)
    assert isinstance(report, ProbeReport)
    return {
        f"{one.task}, {_name(subject, run)}": _row(one, subject) for one in report.results for subject in one.subjects
    }


def _name(subject: str, run: str) -> str:
    return {"encoder": run, "random_init": f"untrained ({run})", "pixels": "raw pixels"}[subject]


def _row(one: ProbeResult, subject: str) -> dict[str, Any]:
    probes = one.subjects[subject].probes
    row: dict[str, Any] = {
        "accuracy": round(probes["linear"].test.accuracy, 4),
        "ci95": [round(end, 4) for end in probes["linear"].test.ci95],
        "knn": round(probes["knn"].test.accuracy, 4),
    }
    if subject == "encoder":
        gain = probes["linear"].compared["random_init"]
        row |= {"gain": round(gain.difference, 4), "gain_ci95": [round(end, 4) for end in gain.ci95]}
    return row


if __name__ == "__main__":
    main()

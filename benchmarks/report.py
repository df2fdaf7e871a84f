"""The cost of a report of many runs: seconds and peak memory of ``retouch report`` in its own process, on one thread.

    python benchmarks/report.py --demo runs/demo
    python benchmarks/report.py --demo runs/demo --runs 4 20

The runs are copies of those of the demo (``retouch demo``): a pretraining run and its probe, each pair with its own
encoder. A probe has three tasks of 4,000 test images. Results are written to ``benchmarks/results/report.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from record import record

from common.files import write_json

PAIRS = ("denoise", "colorize")  # pretraining runs of the demo; each has a probe, NAME-probe
LEFT = shutil.ignore_patterns("wandb", "checkpoints")  # not part of a report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, required=True, help="folder of a finished demo")
    parser.add_argument("--runs", type=int, nargs="+", default=[4, 20])
    given = parser.parse_args()
    found = {f"{count} runs": measured(given.demo, count) for count in sorted(given.runs)}  # RSS is a maximum so far
    record("report", found, seed=0)


def measured(demo: Path, count: int) -> dict[str, Any]:
    """Seconds, peak memory and size of the report of this many runs."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [run for number in range(count // 2) for run in copied(demo, number, Path(folder) / "runs")]
        out = Path(folder) / "report.html"
        started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "retouch", "report", *map(str, runs), "-o", str(out)],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        seconds = time.monotonic() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "runs": len(runs),
            "seconds": round(seconds, 1),
            "processor_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
            "peak_memory_gb": round(1024 * after.ru_maxrss / 1e9, 3),  # of the largest child so far, KiB
            "page_mb": round(out.stat().st_size / 1e6, 2),
        }


def copied(demo: Path, number: int, out: Path) -> tuple[Path, Path]:
    """A pretraining run of the demo and its probe, with an encoder that no other copy has."""
    name = PAIRS[number % len(PAIRS)]
    pretraining, probe = out / f"{name}-{number}", out / f"{name}-{number}-probe"
    shutil.copytree(demo / name, pretraining, ignore=LEFT)
    shutil.copytree(demo / f"{name}-probe", probe, ignore=LEFT)
    results = json.loads((pretraining / "results.json").read_text(encoding="utf-8"))
    other = sha256(f"{results['encoder_sha256']} {number}".encode()).hexdigest()
    for run in (pretraining, probe):
        text = (run / "results.json").read_text(encoding="utf-8")
        write_json(run / "results.json", json.loads(text.replace(results["encoder_sha256"], other)))
    return pretraining, probe


if __name__ == "__main__":
    main()

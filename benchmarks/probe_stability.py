"""How stable the numbers of a probe are: the demo's probe of one encoder, repeated.

    python benchmarks/probe_stability.py --encoder runs/demo/denoise/encoder

Against the reference (two threads, float32, seed 0), one thing changes at a time: one thread, bfloat16, four other
seeds. Every run is compared with the 95% interval of the reference.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from record import record

from common.recipes import stage_config
from common.runs.logs import setup_console
from finetune.config import ProbeConfig
from finetune.probe import probe

SUBJECTS = ("encoder", "random_init")
RUNS: dict[str, tuple[int, list[str]]] = {
    "reference": (2, []),
    "one thread": (1, []),
    "bfloat16": (2, ["precision=bfloat16"]),
    **{f"seed {seed}": (2, [f"seed={seed}"]) for seed in (1, 2, 3, 4)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/probe-stability"))
    given = parser.parse_args()
    setup_console()
    fixed = ["precision=float32", "baselines.pixels=false", "knn=null", "feature_cache=false", "wandb.mode=disabled"]
    entries = {}
    intervals: dict[str, tuple[float, float]] = {}
    for name, (threads, changes) in RUNS.items():
        torch.set_num_threads(threads)
        out = given.out / name.replace(" ", "-")
        report = probe(
            stage_config(
                ProbeConfig, "demo", [f"out={out}", f"encoder={given.encoder}", "overwrite=true", *fixed, *changes]
            )
        )
        found = {
            f"{one.task}, {subject}": one.subjects[subject].probes["linear"]
            for one in report.results
            for subject in SUBJECTS
        }
        intervals = intervals or {row: one.test.ci95 for row, one in found.items()}
        rows = {
            row: {
                "accuracy": round(one.test.accuracy, 4),
                "within": intervals[row][0] <= one.test.accuracy <= intervals[row][1],
                "layer": one.choice.layer,
                **one.choice.setting,
            }
            for row, one in found.items()
        }
        entries[name] = {"ci95_of_reference": intervals, "probes": rows} if name == "reference" else {"probes": rows}
        for row, values in rows.items():
            print(f"{name:12} {row:24} {values}")
    record("probe_stability", entries, seed=0)


if __name__ == "__main__":
    main()

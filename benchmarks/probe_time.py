"""Where the time of a probe goes: the recipe ``cifar10`` on 50,000 images, the encoder alone.

    python benchmarks/probe_time.py --data PATH/TO/cifar10 --encoder runs/mask_cifar10/encoder

``--data`` holds ``train-*.parquet`` and ``test-*.parquet`` with columns ``image`` and ``label``. Baselines are left out
and no features are read from the cache. Seconds are wall-clock time, on an otherwise idle machine, and processor time,
which other work hardly affects. To emulate a slow machine, put ``ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2``
before the command, and add ``--precision float32``. ``--trial`` tests on training images instead: for work on speed,
which does not need the test set.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import record

from common.recipes import stage_config
from common.runs.logs import setup_console
from finetune import probe as stage
from finetune.config import ProbeConfig
from finetune.kinds import classes, features
from finetune.pooling import Space
from finetune.probes import Candidates, Fitted, Linear, Nearest, Probe, Rows

EMULATION = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")  # make a fast machine behave like a slow one


class Clock:
    """Seconds by part, wall-clock and processor time; a part that runs inside another is counted in both."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.cpu_seconds: dict[str, float] = defaultdict(float)

    def watch(self, owner: Any, name: str, part: Callable[..., str]) -> None:
        """Time a function or method from now on; ``part`` names the part, given its arguments."""
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started, worked = time.perf_counter(), time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                name = part(*args, **kwargs)
                self.seconds[name] += time.perf_counter() - started
                self.cpu_seconds[name] += time.process_time() - worked

        setattr(owner, name, timed)


def watched() -> Clock:
    """A clock on the parts of the stage."""
    clock = Clock()
    clock.watch(stage, "probe", lambda *_: "total")
    clock.watch(classes, "load_labeled", lambda *_: "images")
    clock.watch(features, "features_of", lambda *_: "features")
    clock.watch(classes, "extract", lambda *_, **__: "damage")
    clock.watch(stage, "measure_properties", lambda *_: "properties")

    def fitting(one: Probe, rows: Rows, space: Space, *_: Any, final: bool) -> str:
        return f"{one.kind} {'refit' if final else f'fit {len(rows.labels)} {space.layer}'}"

    clock.watch(Probe, "_fit", fitting)
    clock.watch(Probe, "_rows", lambda *_: "standardizing")
    clock.watch(Candidates, "preconditioner", lambda *_: "preconditioner")
    for kind in (Linear, Nearest):
        clock.watch(kind, "choose", lambda one, *_: f"{one.kind} choosing")
    clock.watch(Fitted, "predict", lambda one, *_: f"{type(one.classifiers).__name__} predicting the test set")
    return clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--name", default="now", help="name of the entry (default: now)")
    parser.add_argument("--out", type=Path, default=Path("runs/probe_time"))
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trial", action="store_true", help="test on 10,000 training images; nothing is recorded")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    setup_console()
    config = stage_config(
        ProbeConfig,
        "cifar10",
        [
            f"out={given.out}",
            f"encoder={given.encoder}",
            f"data.train=parquet:{given.data}/train-*.parquet",
            f"data.test=parquet:{given.data}/{'train-03' if given.trial else 'test-*'}*.parquet",
            "data.test_limit=10000",
            "baselines.random_init=false",
            "baselines.pixels=false",
            "feature_cache=false",
            "overwrite=true",
            "wandb.mode=disabled",
            f"precision={given.precision}",
        ],
    )
    clock = watched()
    [result] = stage.probe(config).results
    for part, spent in clock.seconds.items():
        print(f"{part:40} {spent:7.1f} s {clock.cpu_seconds[part]:7.1f} s of the processor")
    if given.trial:
        return
    probes = {
        name: {"test_accuracy": one.test.accuracy, "ci95": one.test.ci95, "choice": one.choice.model_dump()}
        for name, one in result.subjects["encoder"].probes.items()
    }
    entry = {
        "precision": given.precision,
        "environment": {name: os.environ[name] for name in EMULATION if name in os.environ},
        "seconds": {part: round(spent, 1) for part, spent in clock.seconds.items()},
        "cpu_seconds": {part: round(spent, 1) for part, spent in clock.cpu_seconds.items()},
        "probes": probes,
    }
    record("probe_time", {given.name: entry}, seed=config.seed, add=True)


if __name__ == "__main__":
    main()

"""Where the time of a probe goes: ``configs/probe/cifar10.yaml`` on 50,000 images, the encoder alone.

    python benchmarks/probe_time.py --data PATH/TO/cifar10 --encoder runs/mask_cifar10/encoder

``--data`` holds ``train-*.parquet`` and ``test-*.parquet`` with columns ``image`` and ``label``. Seconds are by the clock,
of a machine that does nothing else; baselines are left out, and no features are read from the cache.
``--trial`` tests on training images instead: for work on the speed, which needs no look at the test set.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import record

from common.config import load_config
from common.runs.logs import setup_console
from finetune import probe as stage
from finetune.config import ProbeConfig
from finetune.probes import Fitted, Linear, Nearest, Probe, Task
from retouch.recipes import recipe

class Clock:
    """Seconds by part; a part that runs inside another is counted in both."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def watch(self, owner: Any, name: str, part: Callable[..., str]) -> None:
        """Time a function or method from now on; ``part`` names the part, given its arguments."""
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part(*args, **kwargs)] += time.perf_counter() - started

        setattr(owner, name, timed)


def watched() -> Clock:
    """A clock on the parts of the stage."""
    clock = Clock()
    clock.watch(stage, "load_labelled", lambda *_: "images")
    clock.watch(stage, "_features", lambda *_: "features")
    clock.watch(stage, "_damaged", lambda *_: "damage")
    clock.watch(stage, "measure_properties", lambda *_: "properties")

    def fitting(one: Probe, candidates: Any, space: Any, task: Task, rows: Any, *_: Any, final: bool) -> str:
        step = "refit" if final else "search" if len(rows) == len(task.search) else "finalists"
        return f"{one.kind} {step}"

    clock.watch(Probe, "_fitted", fitting)
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
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trial", action="store_true", help="test on 10,000 training images; nothing is recorded")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    setup_console()
    config = load_config(
        ProbeConfig,
        recipe("probe/cifar10"),
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
        ],
    )
    clock = watched()
    started = time.perf_counter()
    [result] = stage.probe(config).results
    seconds = {"total": time.perf_counter() - started, **clock.seconds}
    for part, spent in seconds.items():
        print(f"{part:40} {spent:7.1f} s")
    if given.trial:
        return
    probes = {
        name: {"test_accuracy": one.test.accuracy, "ci95": one.test.ci95, "choice": one.choice.model_dump()}
        for name, one in result.subjects["encoder"].probes.items()
    }
    rounded = {part: round(spent, 1) for part, spent in seconds.items()}
    record("probe_time", {given.name: {"seconds": rounded, "probes": probes}}, seed=config.seed, add=True)


if __name__ == "__main__":
    main()

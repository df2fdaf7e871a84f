"""The time that the ruler and the watch add to a run, for recipes that restore generated images.

    python benchmarks/ruler.py
    python benchmarks/ruler.py --recipes denoise mask --steps 20
    python benchmarks/ruler.py --recipes denoise_cifar10 --source "parquet:PATH/TO/cifar10/train-*.parquet"
    python benchmarks/ruler.py --gpu

Short runs of three kinds alternate: without either, with the ruler, and with both. They take a few steps of the recipe,
and three panels. Processor time of one thread is counted, so other work on the machine is not. With ``--gpu`` the
network computes on the GPU, and seconds of the clock are counted, each time once the GPU is done. A step is timed in
the runs without, from the first panel on; measurements at a panel are timed where they happen. Medians over rounds are
scaled to the recipe's own length: what training computes before its first step, and the ruler at its first panel, once;
every further panel as often as the recipe has one. The watch is that of ``watch.data=shapes``, with its three tasks;
reading its images counts. That nothing is left out is seen from the whole short runs (``in_turn``). Results are written
to ``benchmarks/results/ruler.json``, under the name of the recipe, with ``_gpu`` for a GPU and ``_bf16`` for a
processor with fast bfloat16.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from record import record

from common.data import Images, Loader, build_source, load_images
from common.engine.loop import Periodic, learn
from common.machine.distributed import World
from common.machine.precision import resolve_precision
from common.recipes import stage_config
from common.runs.logs import setup_console
from common.runs.memory import MemoryRun
from pretrain.config import GradientPretraining
from pretrain.ruler.ruler import Ruler
from pretrain.ruler.watch import Watch, WatchConfig, open_watched

RECIPES = (
    *("denoise_demo", "colorize_demo", "denoise", "colorize", "mask", "mixed"),
    *("bottleneck", "deep_sparse_autoencoder", "linear_sparse_autoencoder"),
)
PANELS = 3  # of a short run
KINDS = {"without": (), "ruler": ("ruler",), "both": ("ruler", "watch")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--source", help="images in place of the recipe's own")
    parser.add_argument("--steps", type=int, default=30, help="steps of a short run")
    parser.add_argument("--rounds", type=int, default=2, help="short runs of each kind")
    parser.add_argument("--gpu", action="store_true", help="compute on the GPU")
    given = parser.parse_args()
    setup_console()
    if not given.gpu:
        torch.set_num_threads(1)
    device = torch.device("cuda", 0) if given.gpu else torch.device("cpu")
    fast = resolve_precision("auto", device) == torch.bfloat16
    suffix = "_gpu" if given.gpu else "_bf16" if fast else ""
    for name in given.recipes:
        found = cost(name, given.source, given.steps, given.rounds, device)
        record("ruler", {f"{name}{suffix}": found}, seed=0, add=True)


@dataclass
class Timed:
    """Seconds of one short run: in total, after the step of each panel, and for the measurements."""

    whole: float = 0.0
    steps: list[float] = field(default_factory=list)
    measured: dict[str, list[float]] = field(default_factory=dict)


def cost(recipe: str, source: str | None, steps: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Seconds of the recipe's training, and of the ruler and the watch in it."""
    changes = ["out=unused"] if source is None else ["out=unused", f"data.source={source}"]
    config = stage_config(GradientPretraining, recipe, changes)
    images = load_images(build_source(config.data.source), config.data.image_size, limit=config.data.limit)
    found = {kind: list[Timed]() for kind in KINDS}
    for _ in range(rounds):
        for kind, measures in KINDS.items():
            found[kind].append(short_run(config, images, steps, measures, device))

    every = steps // PANELS
    step = median((one.steps[-1] - one.steps[0]) / (every * (PANELS - 1)) for one in found["without"])
    before = median(one.steps[0] - every * step for one in found["without"])
    whole = config.steps or 0
    training, panels = before + whole * step, -(-whole // config.panels_every)
    measured = {name: scaled([one.measured[name] for one in found["both"]], panels, training) for name in KINDS["both"]}
    return {
        "steps": whole,
        "panels": panels,
        "training": {"before": round(before, 2), "step": round(step, 4), "seconds": round(training, 1)},
        **measured,
        "share": round(sum(one["share"] for one in measured.values()), 4),
        "timed_steps": every * PANELS,
        "in_turn": {kind: [round(one.whole, 2) for one in runs] for kind, runs in found.items()},
    }


def scaled(rounds: list[list[float]], panels: int, training: float) -> Mapping[str, float]:
    """Seconds of the first and of each further measurement, and the share of them all in the time of the training."""
    first = median(times[0] for times in rounds)
    further = median(seconds for times in rounds for seconds in times[1:])
    share = (first + (panels - 1) * further) / training
    return {"first": round(first, 2), "each_further": round(further, 2), "share": round(share, 4)}


def now(device: torch.device) -> float:
    """Seconds of one processor, or of the clock once the GPU has done what it was given."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def short_run(
    config: GradientPretraining, images: Images, steps: int, measures: tuple[str, ...], device: torch.device
) -> Timed:
    """Learn for a few steps with ``PANELS`` panels, each with these measurements."""
    every, here, timed = steps // PANELS, World(0, 1, device), Timed()
    learner = config.build(config.data.image_size, config.augment, here, config.seed)
    learner.attach(images)
    loader = Loader(learner.images, batch_size=config.batch_size, seed=config.seed)
    started = now(device)

    def after_steps(step: int) -> dict[str, float]:
        timed.steps.append(now(device) - started)
        return {}

    def watch() -> Watch:
        watched = open_watched(WatchConfig(data="shapes"), root=None, seed=config.seed)
        return Watch(learner.encoder, watched, learned=learned, workers=0, seed=config.seed)

    learned = min(config.panels_every, config.total_steps(loader.steps_per_epoch)) * config.batch_size
    makers: dict[str, Callable[[], Ruler | Watch]] = {"ruler": lambda: Ruler(learner, learned), "watch": watch}
    tasks = [Periodic(every, after_steps)]
    for name in measures:
        timed.measured[name] = []
        tasks.append(Periodic(every, clocked(makers[name], timed.measured[name], device)))
    short = config.model_copy(update={"steps": every * PANELS, "epochs": None})
    learn(learner, loader, short, MemoryRun(here), title=learner.title, periodic=tasks)
    timed.whole = now(device) - started
    return timed


def clocked(
    make: Callable[[], Ruler | Watch], seconds: list[float], device: torch.device
) -> Callable[[int], Mapping[str, float]]:
    """``show`` of what it makes, before the first panel, that notes the time of each."""
    made: list[Ruler | Watch] = []

    def show(step: int) -> Mapping[str, float]:
        started = now(device)
        if not made:
            made.append(make())
        found = made[0].show(step)
        seconds.append(now(device) - started)
        return found

    return show


if __name__ == "__main__":
    main()

"""The cost of the ruler and of the watch, as shares of the run that they measure: the shipped recipes of the demo.

    python benchmarks/ruler.py
    python benchmarks/ruler.py --recipes denoise mask --steps 200

Processor time of one thread is counted, so other work on the machine is not. A shorter run (``--steps``) is scaled
to the recipe's own length: what is computed once is counted once, and the measurement at every panel as often as the
recipe takes one. The watch is that of ``watch.data=shapes``: 1,000 images, three tasks. Results are written to
``benchmarks/results/ruler.json``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from record import record

from common.data import Loader, build_source, load_images
from common.engine.loop import learn
from common.machine.distributed import World
from common.recipes import stage_config
from common.runs.logs import setup_console
from common.runs.memory import MemoryRun
from pretrain.config import GradientPretraining
from pretrain.ruler.ruler import Ruler
from pretrain.ruler.watch import Watch, WatchConfig, open_watched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["denoise_demo", "colorize_demo"])
    parser.add_argument("--steps", type=int, default=60, help="steps of training that are timed")
    given = parser.parse_args()
    setup_console()
    torch.set_num_threads(1)
    record("ruler", {name: cost(name, given.steps) for name in given.recipes}, seed=0, add=True)


def cost(recipe: str, steps: int) -> dict[str, Any]:
    """Seconds of the recipe's training, and of the ruler and the watch in it."""
    config = stage_config(GradientPretraining, recipe, ["out=unused"])
    whole = config.steps or 0
    here = World(0, 1, torch.device("cpu"))
    learner = config.build(config.data.image_size, config.augment, here, config.seed)
    learner.attach(load_images(build_source(config.data.source), config.data.image_size))
    loader = Loader(learner.images, batch_size=config.batch_size, seed=config.seed)
    short = config.model_copy(update={"steps": steps})
    training = seconds(lambda: learn(learner, loader, short, MemoryRun(here), title=recipe)) * whole / steps
    learner.model.eval()
    measurements = -(-whole // config.panels_every)

    def share(show: Callable[[int], object]) -> dict[str, float]:
        first, each = seconds(lambda: show(steps)), seconds(lambda: show(steps + 1))
        total = first + (measurements - 1) * each
        return {"first": round(first, 2), "each_further": round(each, 2), "share": round(total / training, 4)}

    watched = open_watched(WatchConfig(data="shapes"), root=None, seed=config.seed)
    return {
        "steps": whole,
        "timed_steps": steps,
        "training_seconds": round(training, 2),
        "measurements": measurements,
        "ruler_seconds": share(Ruler(learner).show),
        "watch_seconds": share(Watch(learner.encoder, watched, workers=0, seed=config.seed).show),
    }


def seconds(work: Callable[[], object]) -> float:
    """Processor time that it takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()

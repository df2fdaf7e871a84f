"""The cost of the data path: a full training step fed by the loader, compared with one on a resident batch.

    python benchmarks/data_supply.py --cifar10 PATH/TO/cifar10

A step is augmentation, corruption, forward, backward and optimizer of the small CNN with the shipped denoising config.
Fed and resident steps alternate in pairs, and the median ratio of seven pairs is reported, so that drift in the
machine's speed affects both. Also measured: the share of a step that each corruption takes, the time to fill the cache,
and decoding of PNG files without a cache. Results are written to ``benchmarks/results/data_supply.json``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from record import record

from common.corruptions import Blur, Corruption, Gaussian, Gray, Holes, Jpeg, SaltPepper
from common.data import Batch, Loader, build_source, in_order, load_images
from common.encoders import build_encoder
from common.engine.gradient import weight_decay_groups
from common.machine.cores import usable_cores
from common.machine.layout import channels_last
from common.machine.precision import autocast, resolve_precision
from common.pixels import to_float
from common.recipes import stage_config
from common.runs.logs import setup_console
from pretrain.config import GradientPretraining
from pretrain.gradient.objective import Objective
from pretrain.gradient.pretexts import Colorize, Mask, Pretext

PAIRS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, help="folder with CIFAR-10 as train-*.parquet")
    parser.add_argument("--steps", type=int, default=20, help="steps in each half of a pair")
    given = parser.parse_args()
    setup_console()
    config = stage_config(GradientPretraining, "denoise", ["batch_size=256"])
    sources = {"shapes": "shapes"}
    if given.cifar10:
        sources["cifar10"] = f"parquet:{given.cifar10}/train-*.parquet"
    results: dict[str, Any] = {"supply": {}}
    for name, spec in sources.items():
        results["supply"][name] = supply(config, spec, given.steps)
    results["shares"] = shares(config)
    if given.cifar10:
        results["uncached_png"] = uncached(sources["cifar10"])
    record("data_supply", results, seed=config.seed)


def supply(config: GradientPretraining, spec: str, steps: int) -> dict[str, Any]:
    """Speed fed by the loader, relative to the speed on a resident batch: the median of alternating pairs."""
    started = time.perf_counter()
    images = load_images(build_source(spec), config.data.image_size, workers=usable_cores())
    filling = time.perf_counter() - started
    step = training_step(config)
    stream = Loader(images, batch_size=config.batch_size, seed=0).stream()
    resident = next(stream)

    def fed() -> None:
        for _ in range(steps):
            step(next(stream))

    def still() -> None:
        for _ in range(steps):
            step(resident)

    fed()
    still()
    pairs = [(seconds(still), seconds(fed)) for _ in range(PAIRS)]
    ratios = [resident_s / fed_s for resident_s, fed_s in pairs]
    return {
        "images": len(images),
        "cache_filling_seconds": round(filling, 2),
        "speed_relative_to_resident_batch": round(statistics.median(ratios), 4),
        "all_ratios": [round(ratio, 4) for ratio in ratios],
        "images_per_second": round(steps * config.batch_size / statistics.median(fed_s for _, fed_s in pairs)),
    }


def shares(config: GradientPretraining) -> dict[str, Any]:
    """Milliseconds of each corruption per batch, and as a share of the whole step with flip, crop and noise."""
    images = load_images(build_source("shapes"), config.data.image_size, limit=config.batch_size)
    batch = next(Loader(images, batch_size=config.batch_size, seed=0).stream())
    clean = to_float(batch.images)
    encoder = build_encoder(config.encoder, image_size=config.data.image_size)
    step = training_step(config)
    corruptions: list[Corruption] = [Gaussian(), SaltPepper(), Blur(), Jpeg(), Gray(), Holes()]
    pretexts: list[Pretext] = [Colorize(), Mask()]
    jobs: dict[str, Callable[[], object]] = {
        "flip_crop_gaussian": lambda: config.pretext.corrupt(config.augment(batch.images), encoder),
        **{one.kind: partial(one, clean) for one in corruptions},
        **{f"{one.kind} (pretext)": partial(one.corrupt, clean, encoder) for one in pretexts},
        "step": partial(step, batch),
    }
    for job in jobs.values():
        job()
    rounds = [{name: seconds(job, 3) / 3 for name, job in jobs.items()} for _ in range(PAIRS)]
    return {
        name: {
            "milliseconds": round(1000 * statistics.median(one[name] for one in rounds), 2),
            "share_of_step": round(statistics.median(one[name] / one["step"] for one in rounds), 4),
        }
        for name in rounds[0]
    }


def uncached(spec: str) -> dict[str, Any]:
    """Images per second when every PNG is decoded on demand."""
    workers = usable_cores()
    images = load_images(build_source(spec), 32, limit=10_000, cache="none")
    started = time.perf_counter()
    count = sum(len(batch.images) for batch in in_order(images, 256, workers))
    return {"workers": workers, "images_per_second": round(count / (time.perf_counter() - started))}


def training_step(config: GradientPretraining) -> Callable[[Batch], None]:
    """One full step of the loop: augment, corrupt, forward, backward, optimizer."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = resolve_precision(config.precision, device)
    encoder = build_encoder(config.encoder, image_size=config.data.image_size)
    model = Objective(encoder, config.decoder, config.pretext, augment=config.augment)
    channels_last(model, device)
    groups = weight_decay_groups(model, 0.05)
    optimizer = torch.optim.AdamW([{**group} for group in groups], lr=1e-3, fused=True)

    def step(batch: Batch) -> None:
        with autocast(device, dtype):
            losses = model(batch.images.to(device))
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def seconds(job: Callable[[], object], times: int = 1) -> float:
    """Wall-clock seconds for running a job ``times`` times."""
    started = time.perf_counter()
    for _ in range(times):
        job()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

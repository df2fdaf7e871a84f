"""What a network gains if its process keeps freed memory (``common/machine/allocation.py``), on a CPU.

    python benchmarks/allocation.py

Features of random images, batch by batch, as a probe and ``predict`` compute them: half of the processes keep freed
memory, half have glibc's defaults, in alternating pairs of fresh processes. The gain is the median over pairs of the
ratio of their speeds; ``system_share`` is the part of the processor's time that is spent in the system, most of it to
clear pages. Results: ``benchmarks/results/allocation.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from record import record

from common.encoders import EncoderConfig, build_encoder
from common.machine.allocation import USERS_OWN, keep_freed_memory
from common.machine.layout import channels_last
from common.machine.memory import readable_size
from common.machine.precision import autocast, resolve_precision

# encoder, side of the images, images per batch, batches
CASES: dict[str, tuple[dict[str, Any], int, int, int]] = {
    "small_cnn, 32 px": ({}, 32, 256, 24),
    "small_cnn, 64 px": ({}, 64, 256, 8),
    "resnet18, 128 px": ({"name": "timm/resnet18"}, 128, 64, 8),
    "vit_tiny, 224 px": ({"name": "timm/vit_tiny_patch16_224"}, 224, 64, 4),
}
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="pairs of processes (default: 5)")
    parser.add_argument("--child", choices=("kept", "default"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        if given.child == "kept":
            keep_freed_memory()
        print(json.dumps({name: measured(name) for name in CASES}))
        return
    pairs = [(child("kept"), child("default")) for _ in range(given.pairs)]
    record("allocation", {name: compared(name, pairs) for name in CASES}, seed=SEED)


def child(kind: str) -> dict[str, dict[str, float]]:
    """What one fresh process measured."""
    clean = {name: value for name, value in os.environ.items() if name not in USERS_OWN}
    done = subprocess.run(
        [sys.executable, __file__, "--child", kind], env=clean, check=True, capture_output=True, text=True
    )
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


def compared(name: str, pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    kept, default = ([pair[place][name] for pair in pairs] for place in (0, 1))
    ratios = [new["images_per_second"] / old["images_per_second"] for new, old in zip(kept, default, strict=True)]

    def middle(rows: list[dict[str, float]], key: str) -> float:
        return statistics.median(row[key] for row in rows)

    return {
        "images_per_second": round(middle(kept, "images_per_second"), 1),
        "images_per_second_by_default": round(middle(default, "images_per_second"), 1),
        "gain": round(statistics.median(ratios), 3),
        "all_gains": [round(ratio, 3) for ratio in ratios],
        "system_share": round(middle(kept, "system_share"), 3),
        "system_share_by_default": round(middle(default, "system_share"), 3),
        "peak_memory": readable_size(int(middle(kept, "peak"))),
        "peak_memory_by_default": readable_size(int(middle(default, "peak"))),
    }


def measured(name: str) -> dict[str, float]:
    """Speed, the system's part of the time, and the peak of the process so far."""
    settings, side, batch, batches = CASES[name]
    device = torch.device("cpu")
    torch.manual_seed(SEED)
    encoder = build_encoder(EncoderConfig(**settings), image_size=side).eval()
    channels_last(encoder, device)
    images = torch.rand(batch, 3, side, side)
    with torch.inference_mode(), autocast(device, resolve_precision("auto", device)):
        encoder(images)
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        for _ in range(batches):
            encoder(images)
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    system = after.ru_stime - before.ru_stime
    return {
        "images_per_second": batch * batches / seconds,
        "system_share": system / (system + after.ru_utime - before.ru_utime),
        "peak": 1024.0 * after.ru_maxrss,
    }


if __name__ == "__main__":
    main()

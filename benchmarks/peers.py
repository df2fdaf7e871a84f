"""Contrastive peers at equal time: the same network, trained by lightly for as many seconds, and the same probe.

    pip install lightly
    taskset -c 0 python benchmarks/peers.py --data PATH/TO/cifar10

First a shipped recipe of Retouch is run, by default ``colorize_cifar10``, and then each peer for as many seconds as its
training took. On one core, as above, neither gets more of the machine: lightly's two views per image are made by
processes that run next to the training.

SimCLR (Chen et al. 2020) and VICReg (Bardes et al. 2022) have lightly's transforms, heads and losses, and the rates of
lightly's own benchmarks: for SimCLR, SGD at 0.06 per 128 images with weight decay 5e-4; for VICReg, LARS at 0.3 per 256
images with weight decay 1e-4; momentum 0.9 and a cosine. The rate follows the clock, so that training ends exactly when
its time is up. The encoder is Retouch's ``small_cnn``, its features the mean of the last map, as for training with
labels. Nothing was tuned on the test images.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from record import record
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from common.data import build_source
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.encoders.provenance import Provenance
from common.engine.loop import Trained
from common.recipes import stage_config
from common.runs.logs import setup_console
from finetune.config import ProbeConfig
from finetune.probe import probe
from pretrain.config import PretrainConfig
from pretrain.run import pretrain

SIDE, BATCH, WARMUP = 32, 256, 0.02  # pixels; images; share of the time


class Views(Dataset[list[Tensor]]):
    """Two random views of every image."""

    def __init__(self, data: Path, transform: Callable[[Any], list[Tensor]]) -> None:
        self.source = build_source(f"parquet:{data}/train-*.parquet")
        self.transform = transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(self.source.image(index))


def parts(method: str, width: int) -> tuple[Callable[[Any], list[Tensor]], nn.Module, nn.Module]:
    """Transform, projection head and loss, as in lightly's CIFAR-10 benchmark: without blur and normalization."""
    from lightly.loss import NTXentLoss, VICRegLoss
    from lightly.models.modules.heads import SimCLRProjectionHead, VICRegProjectionHead
    from lightly.transforms import SimCLRTransform, VICRegTransform

    if method == "simclr":
        views = SimCLRTransform(input_size=SIDE, cj_strength=0.5, gaussian_blur=0.0, normalize=None)
        return views, SimCLRProjectionHead(width, width, 128), NTXentLoss(temperature=0.5)
    views = VICRegTransform(input_size=SIDE, cj_strength=0.5, gaussian_blur=0.0, solarize_prob=0.0, normalize=None)
    return views, VICRegProjectionHead(width, 2048, 2048, num_layers=2), VICRegLoss()


def optimizer_of(method: str, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of lightly's benchmarks, which say that VICReg diverges without LARS."""
    from lightly.utils.lars import LARS

    if method == "simclr":
        return torch.optim.SGD(model.parameters(), lr=0.06 * BATCH / 128, momentum=0.9, weight_decay=5e-4)
    lars: torch.optim.Optimizer = LARS(model.parameters(), lr=0.3 * BATCH / 256, momentum=0.9, weight_decay=1e-4)
    return lars


def train(method: str, data: Path, seconds: float, seed: int, folder: Path) -> int:
    """Train and export the encoder; returns the number of steps."""
    torch.manual_seed(seed)
    encoder = build_encoder(EncoderConfig(name="small_cnn"), image_size=SIDE)
    transform, head, loss = parts(method, encoder.layer_shapes[-1][0])
    model = nn.ModuleDict({"encoder": encoder, "head": head}).train()
    optimizer = optimizer_of(method, model)
    rate = optimizer.param_groups[0]["lr"]
    loader = DataLoader(
        Views(data, transform), BATCH, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True
    )

    def endless() -> Iterator[list[Tensor]]:
        while True:
            yield from loader

    started, step, value = time.monotonic(), 0, math.nan
    for first, second in endless():
        spent = (time.monotonic() - started) / seconds
        if spent >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate * min(spent / WARMUP, 0.5 * (1 + math.cos(math.pi * spent)))
        outputs = [head(encoder(views).mean((2, 3))) for views in (first, second)]
        total = loss(*outputs)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        step, value = step + 1, float(total.detach())
        if not math.isfinite(value):
            raise SystemExit(f"{method}: the loss is {value} at step {step}; nothing recorded")
        if step % 50 == 0:
            print(f"{method} step {step}, {spent:.0%} of the time, loss {value:.4f}", flush=True)
    export_encoder(encoder.eval(), folder, Provenance(pretext={"kind": method}, seed=seed))
    return step


def run_recipe(name: str, steps: int | None, data: Path, seed: int, folder: Path) -> Trained:
    """Pretrain with a shipped recipe of Retouch, for its own number of steps or another."""
    changes = [
        *([] if steps is None else [f"steps={steps}"]),
        f"out={folder}",
        f"data.source=parquet:{data}/train-*.parquet",
        f"seed={seed}",
        "overwrite=true",
        "wandb.mode=disabled",
    ]
    return pretrain(stage_config(PretrainConfig, name, changes)).training


def measured(data: Path, folder: Path) -> dict[str, Any]:
    """Probe ``folder/encoder`` like the other CIFAR-10 benchmarks."""
    changes = [
        f"out={folder}-probe",
        f"encoder={folder}/encoder",
        f"data.train=parquet:{data}/train-*.parquet",
        f"data.test=parquet:{data}/test-*.parquet",
        "baselines.random_init=false",
        "baselines.pixels=false",
        "damage=[]",
        "overwrite=true",
        "wandb.mode=disabled",
    ]
    [result] = probe(stage_config(ProbeConfig, "cifar10", changes)).results
    return {
        "test_accuracy": result.linear.test.accuracy,
        "ci95": result.linear.test.ci95,
        "knn_test_accuracy": result.subjects["encoder"].probes["knn"].test.accuracy,
        "choice": result.linear.choice.model_dump(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", default="colorize_cifar10")
    parser.add_argument("--steps", type=int, help="steps of the recipe, if its own would take too long")
    parser.add_argument("--methods", nargs="*", default=["simclr", "vicreg"], choices=["simclr", "vicreg"])
    parser.add_argument("--seconds", type=float, help="seconds for each peer; the recipe is not run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/peers"))
    given = parser.parse_args()
    setup_console()

    def keep(name: str, seconds: float, steps: int) -> None:
        folder = given.out / f"{name}-{given.seed}"
        entry = {"seconds": round(seconds, 1), "steps": steps, "cores": len(os.sched_getaffinity(0))}
        entry |= measured(given.data, folder)
        record("peers", {folder.name: entry}, seed=given.seed, add=True)

    seconds = given.seconds
    if seconds is None:
        folder = given.out / f"{given.recipe}-{given.seed}"
        trained = run_recipe(given.recipe, given.steps, given.data, given.seed, folder)
        seconds = trained.seconds
        keep(given.recipe, seconds, trained.step)
    for method in given.methods:
        steps = train(method, given.data, seconds, given.seed, given.out / f"{method}-{given.seed}" / "encoder")
        keep(method, seconds, steps)


if __name__ == "__main__":
    main()

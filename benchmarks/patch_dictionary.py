"""The classical single-layer network on CIFAR-10: patches as a dictionary, a threshold, pooling, a linear classifier.

    python benchmarks/patch_dictionary.py --data PATH/TO/cifar10             the shipped configuration
    python benchmarks/patch_dictionary.py --data PATH/TO/cifar10 --name grid2 fit.network.grid=2
    python benchmarks/patch_dictionary.py --data PATH/TO/cifar10 --bases     random, k-means, ... compared
    python benchmarks/patch_dictionary.py --data PATH/TO/cifar10 --speed     images per second, and the lower bound

The dictionary is learned without labels. The classifier's strength is chosen on 10% of the training set; the test set
is used once per run. ``--bases`` compares bases of ``ATOMS`` atoms, as many as PCA and ICA have, with the same
threshold and pooling. Results are added to ``benchmarks/results/patch_dictionary.json``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from record import record

from common.encoders.load import load_encoder
from common.machine.precision import autocast, resolve_precision
from common.recipes import stage_config
from common.runs.logs import setup_console
from finetune.config import ProbeConfig
from finetune.probe import probe
from pretrain.config import PretrainConfig
from pretrain.run import pretrain

BASES = ("random", "kmeans", "sparse_coding", "pca", "ica")
ATOMS = 108  # the dimension of a 6x6 color patch: the most that PCA and ICA can find
NARROW = "probe.l2=[0.0003,0.001,0.003,0.01,0.03,0.1]"  # few features need less regularization
ROUNDS = 7


def run(name: str, data: Path, out: Path, overrides: list[str], probing: Sequence[str] = ()) -> dict[str, Any]:
    """Learn one dictionary and classify with it; returns what is recorded. ``probing`` overrides its probe config."""
    started = time.monotonic()
    pretraining = stage_config(
        PretrainConfig,
        "patch_dictionary_best",
        [f"out={out}/{name}", f"data.source=parquet:{data}/train-*.parquet", "overwrite=true", *overrides],
    )
    pretrained = pretrain(pretraining)
    learned = time.monotonic() - started
    classifier = stage_config(
        ProbeConfig,
        "patch_dictionary_best",
        [
            f"out={out}/{name}-probe",
            f"encoder={pretrained.encoder}",
            f"data.train=parquet:{data}/train-*.parquet",
            f"data.test=parquet:{data}/test-*.parquet",
            "overwrite=true",
            *probing,
        ],
    )
    [result] = probe(classifier).results
    linear = result.linear
    return {
        "test_accuracy": linear.test.accuracy,
        "ci95": linear.test.ci95,
        "val_accuracy": linear.choice.val_accuracy,
        "l2": linear.choice.setting["l2"],
        "features": linear.choice.features,
        "code": None if result.code is None else result.code.model_dump(mode="json"),
        "baselines": {name: one.probes["linear"].test.accuracy for name, one in result.baselines.items()},
        "seconds_learning": round(learned, 1),
        "seconds_altogether": round(time.monotonic() - started, 1),
        "config": pretraining.method.model_dump(mode="json"),
        "steps": pretraining.steps,
        "batch_size": pretraining.batch_size,
    }


def speed(folder: Path) -> dict[str, Any]:
    """Images per second of the encoder and of its matrix product alone, at the same precision."""
    encoder = load_encoder(folder)
    dtype = resolve_precision("auto", torch.device("cpu"))
    images = torch.rand(128, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    args: Any = encoder.args
    positions, d = (32 - args.patch + 1) ** 2, 3 * args.patch**2
    rows, filters = torch.rand(positions, d + 1).to(dtype), torch.rand(d + 1, args.atoms).to(dtype)
    seconds: dict[str, list[float]] = {"encoder": [], "floor": []}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            started = time.perf_counter()
            with autocast(torch.device("cpu"), dtype):
                encoder.layers(images)
            seconds["encoder"].append((time.perf_counter() - started) / len(images))
            started = time.perf_counter()
            for _ in range(len(images)):
                rows @ filters
            seconds["floor"].append((time.perf_counter() - started) / len(images))
    encode, floor = (sorted(times)[ROUNDS // 2] for times in seconds.values())
    return {
        "atoms": args.atoms,
        "precision": str(dtype).removeprefix("torch."),
        "milliseconds_an_image": round(1000 * encode, 3),
        "images_per_second": round(1 / encode),
        "milliseconds_of_the_product_alone": round(1000 * floor, 3),
        "share_of_the_floor": round(floor / encode, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/patch_dictionary_cifar10"))
    parser.add_argument("--name", default="best")
    parser.add_argument("--bases", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the pretraining config")
    given = parser.parse_args()
    setup_console()
    if given.speed:
        record("patch_dictionary", {"speed": speed(given.out / given.name / "encoder")}, seed=0, add=True)
    elif given.bases:
        for basis in BASES:
            settings = [f"fit.learn={basis}", f"fit.network.atoms={ATOMS}", "fit.network.mirror=false"]
            if basis in ("random", "pca", "ica"):
                settings.append("steps=null")  # fitted on one sample
            entry = run(f"basis-{basis}", given.data, given.out, [*settings, *given.overrides], [NARROW])
            record("patch_dictionary", {f"basis-{basis}": entry}, seed=0, add=True)
    else:
        entry = run(given.name, given.data, given.out, given.overrides)
        record("patch_dictionary", {given.name: entry}, seed=0, add=True)


if __name__ == "__main__":
    main()

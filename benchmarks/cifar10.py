"""Linear-probe accuracy on CIFAR-10 after at most ten minutes of pretraining without labels, with baselines.

    python benchmarks/cifar10.py --data PATH/TO/cifar10 --kinds denoise colorize mask mixed
    python benchmarks/cifar10.py --data PATH/TO/cifar10 --kinds mask --seeds 1 2 --baselines-of mask-0

``--data`` holds ``train-*.parquet`` and ``test-*.parquet`` with columns ``image`` and ``label``. Each run uses its
shipped recipe, ``KIND_cifar10``. Layer, pooling and regularization strength are chosen on 10% of
the training set; the test set is used once. Results are added to ``benchmarks/results/cifar10.json``, one entry per
kind and seed.

The untrained twin is drawn from the seed of the probe: it is the same network, with the same results, for all encoders
of one architecture and view. ``--baselines-of`` takes its numbers from a recorded entry.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from record import RESULTS, record

from common.encoders.load import read_encoder_card
from common.recipes import stage_config
from common.runs.logs import setup_console
from finetune.config import ProbeConfig
from finetune.probe import probe
from pretrain.config import PretrainConfig
from pretrain.run import pretrain

BASELINES = ("random_init_test_accuracy", "random_init_layer", "random_init_features", "pixels_test_accuracy")


def run(
    kind: str, seed: int, data: Path, out: Path, overrides: list[str], recorded: dict[str, Any] | None
) -> dict[str, Any]:
    """Pretrain one kind and probe it, with ``recorded`` baselines if given; returns what is recorded."""
    folder = out / f"{kind}-{seed}"
    started = time.monotonic()
    pretraining = stage_config(
        PretrainConfig,
        f"{kind}_cifar10",
        [f"out={folder}", f"data.source=parquet:{data}/train-*.parquet", f"seed={seed}", "overwrite=true", *overrides],
    )
    pretrained = pretrain(pretraining)
    if pretrained.encoder is None:
        raise SystemExit("stopped before pretraining was done; nothing recorded")
    probing = stage_config(
        ProbeConfig,
        "cifar10",
        [
            f"out={folder}-probe",
            f"encoder={pretrained.encoder}",
            f"data.train=parquet:{data}/train-*.parquet",
            f"data.test=parquet:{data}/test-*.parquet",
            "overwrite=true",
            *([] if recorded is None else ["baselines.random_init=false", "baselines.pixels=false"]),
        ],
    )
    [result] = probe(probing).results
    if recorded is None:
        random_init = result.baselines["random_init"].probes["linear"]
        recorded = {
            "random_init_test_accuracy": random_init.test.accuracy,
            "random_init_layer": random_init.choice.layer,
            "random_init_features": random_init.choice.features,
            "pixels_test_accuracy": result.baselines["pixels"].probes["linear"].test.accuracy,
        }
    linear = result.linear
    return {
        "kind": kind,
        "seed": seed,
        "test_accuracy": linear.test.accuracy,
        "ci95": linear.test.ci95,
        "val_accuracy": linear.choice.val_accuracy,
        **recorded,
        "gain_over_random_init": linear.test.accuracy - recorded["random_init_test_accuracy"],
        "knn_test_accuracy": result.subjects["encoder"].probes["knn"].test.accuracy,
        "damaged": {name: score.accuracy for name, score in linear.damaged.items()},
        "layer": linear.choice.layer,
        "pooling": linear.choice.pooling,
        "l2": linear.choice.setting["l2"],
        "features": linear.choice.features,
        "parameters": read_encoder_card(pretrained.encoder).parameters,
        "steps": pretrained.training.steps,
        "batch_size": pretraining.batch_size,
        "pretraining_seconds": round(pretrained.training.seconds, 1),
        "all_seconds": round(time.monotonic() - started, 1),
        "config": pretraining.model_dump(mode="json", exclude={"out", "data", "wandb", "overwrite", "resume"}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", default=["denoise", "colorize", "mask", "mixed"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10"))
    parser.add_argument("--baselines-of", metavar="KIND-SEED", help="a recorded entry of the same view")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the pretraining config")
    given = parser.parse_args()
    setup_console()
    recorded = None
    if given.baselines_of:
        entry = json.loads((RESULTS / "cifar10.json").read_text(encoding="utf-8"))[given.baselines_of]
        recorded = {key: entry[key] for key in BASELINES} | {"baselines_of": given.baselines_of}
    for seed in given.seeds:
        for kind in given.kinds:
            entry = run(kind, seed, given.data, given.out, given.overrides, recorded)
            record("cifar10", {f"{kind}-{seed}": entry}, seed=seed, add=True)


if __name__ == "__main__":
    main()

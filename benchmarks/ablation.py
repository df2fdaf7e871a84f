"""What led to the CIFAR-10 recipe: one change at a time, compared on images held out from the training set.

    python benchmarks/ablation.py --data PATH/TO/cifar10 --list
    python benchmarks/ablation.py --data PATH/TO/cifar10 --only mask mask-crop

Encoders are pretrained on the first three of four training shards (37,500 images). All their maps are probed by ridge
regression, fitted on the same shards with its strength chosen on a tenth of them, and tested on the fourth shard
(12,500 images). The test set is not opened. Results are added to ``benchmarks/results/ablation.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from record import record

from common.recipes import stage_config
from common.runs.logs import setup_console
from finetune.config import ProbeConfig
from finetune.probe import probe
from pretrain.config import PretrainConfig
from pretrain.run import pretrain

STEPS = "steps=1500"

# name: the shipped config it starts from, and the changes
CHANGES: dict[str, tuple[str, list[str]]] = {
    "mask": ("mask", [STEPS]),
    "mask-long": ("mask", ["steps=6000"]),
    "mask-crop": ("mask", [STEPS, "augment.crop=[0.6,1.0]"]),
    "mask-75": ("mask", [STEPS, "pretext.ratio=0.75"]),
    "mask-normalized": ("mask", [STEPS, "pretext.normalize_patches=true"]),
    "colorize": ("colorize", [STEPS]),
    "colorize-regression": ("colorize", [STEPS, "pretext.objective=regression"]),
    "denoise": ("denoise", ["steps=3000"]),
    "denoise-unet": ("denoise", ["steps=3000", "decoder.kind=unet"]),
}


def run(name: str, data: Path, out: Path) -> dict[str, Any]:
    """Pretrain and probe one change; returns what is recorded."""
    config, changes = CHANGES[name]
    shards = sorted(data.glob("train-*.parquet"))
    if len(shards) != 4:
        raise SystemExit(f"{data} holds {len(shards)} train-*.parquet files, not 4")
    fitted = f"parquet:{data}/train-0[0-2]-*.parquet"
    pretraining = stage_config(
        PretrainConfig,
        f"{config}_cifar10",
        [f"out={out}/{name}", f"data.source={fitted}", "overwrite=true", "wandb.mode=disabled", *changes],
    )
    pretrained = pretrain(pretraining)
    if pretrained.encoder is None:
        raise SystemExit("stopped before pretraining was done; nothing recorded")
    probing = ProbeConfig.model_validate(
        {
            "out": out / f"{name}-probe",
            "overwrite": True,
            "encoder": pretrained.encoder,
            "data": {"train": fitted, "test": f"parquet:{data}/train-03-*.parquet"},
            "probe": {"kind": "ridge", "layers": ["all"], "poolings": ["avg+avg2+max"]},
            "knn": None,
            "baselines": {"random_init": False, "pixels": False},
            "damage": [],
            "properties": False,
            "feature_cache": False,
            "wandb": {"mode": "disabled"},
        }
    )
    [result] = probe(probing, show=False).results
    return {
        "config": f"pretrain/{config}_cifar10",
        "changes": changes,
        "held_out_accuracy": result.linear.test.accuracy,
        "ci95": result.linear.test.ci95,
        "l2": result.linear.choice.setting["l2"],
        "features": result.linear.choice.features,
        "pretraining_seconds": round(pretrained.training.seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(CHANGES), default=list(CHANGES), metavar="NAME")
    parser.add_argument("--list", action="store_true", help="name the changes and stop")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    given = parser.parse_args()
    if given.list:
        print(
            "\n".join(f"{name}: {config}_cifar10, {' '.join(changes)}" for name, (config, changes) in CHANGES.items())
        )
        return
    setup_console()
    for name in given.only:
        entry = run(name, given.data, given.out)
        print(f"{name}: {entry['held_out_accuracy']:.2%}")
        record("ablation", {name: entry}, seed=0, add=True)


if __name__ == "__main__":
    main()

"""All methods compared on ``shapes``: trained with the shipped config, frozen, and probed on the three tasks.

    python benchmarks/shapes.py
    python benchmarks/shapes.py --only denoise pca many_class

All but one learn without labels. ``many_class`` learns the 320 shape x color x texture classes with labels and is then
probed on the simple tasks that these classes are made of: transfer from a hard task to a simple one. Methods whose
config is for smaller images or patches of photographs learn from ``shapes`` at 16 px here. All follow one protocol;
results are added to ``benchmarks/results/shapes.json``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from record import record

from common.recipes import stage_config
from common.runs.logs import setup_console
from finetune.config import FinetuneConfig, ProbeConfig
from finetune.full import finetune
from finetune.probe import probe
from pretrain.config import PretrainConfig
from pretrain.run import pretrain

# at 32 px an image has thousands of numbers, most of them noise; these methods are compared at 16 px
SMALL = ["data.source=shapes", "data.image_size=16", "data.limit=20000"]
PRETRAINED: dict[str, list[str]] = {
    "denoise": [],
    "colorize": [],
    "mask": [],
    "mixed": [],
    "bottleneck": [],
    "deep_sparse_autoencoder": [],
    "patch_dictionary": [],
    "pca": [],
    "ica": SMALL,
    "cca": SMALL,
    "tca": SMALL,
    "sparse_coding": SMALL,
    "sparse_coding_l0": SMALL,
    "linear_sparse_autoencoder": SMALL,
}


def learn(name: str, out: Path) -> dict[str, Any]:
    """Train with a shipped config; returns what is recorded."""
    started = time.monotonic()
    if name == "many_class":
        supervised = stage_config(FinetuneConfig, "many_class", [f"out={out}", "overwrite=true"])
        result = finetune(supervised)
        if result is None:
            raise SystemExit("stopped before fine-tuning was done; nothing recorded")
        facts: dict[str, float] = {"test_accuracy_320_classes": result.tuned.test.accuracy}
        config = "finetune/many_class"
    else:
        unlabeled = stage_config(
            PretrainConfig,
            name,
            [f"out={out}", "overwrite=true", *PRETRAINED[name]],
        )
        facts = {"steps": pretrain(unlabeled).training.steps}
        config = f"pretrain/{name}"
    seconds = round(time.monotonic() - started, 1)
    return {"config": config, "changes": PRETRAINED.get(name, []), "seconds": seconds, **facts}


def measure(name: str, out: Path) -> dict[str, Any]:
    """Probe all three tasks with the shipped probe config, a smaller search and the linear probe only."""
    changes = [
        f"out={out}/{name}-probe",
        f"encoder={out}/{name}/encoder",
        "overwrite=true",
        "probe.layers=[each,all]",
        "probe.poolings=[avg+avg2+max]",
        "knn=null",
        "damage=[]",
        f"baselines.pixels={str(name == next(iter(PRETRAINED))).lower()}",  # the same for every encoder
    ]
    results = probe(stage_config(ProbeConfig, "linear", changes), show=False).results
    tasks = {
        result.task: {
            "test_accuracy": result.linear.test.accuracy,
            "ci95": result.linear.test.ci95,
            "n_train": result.linear.n_train,
            "n_test": result.linear.test.n,
            **result.linear.choice.model_dump(include={"layer", "pooling", "features"}),
            **result.linear.choice.setting,
            "baselines": {name: one.probes["linear"].test.accuracy for name, one in result.baselines.items()},
        }
        for result in results
    }
    code = results[0].code
    return {
        "view": results[0].encoder.view,
        "tasks": tasks,
        "code": None if code is None else code.model_dump(mode="json"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*PRETRAINED, "many_class"]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("runs/shapes"))
    given = parser.parse_args()
    setup_console()
    for name in given.only:
        entry = {**learn(name, given.out / name), **measure(name, given.out)}
        record("shapes", {name: entry}, seed=0, add=True)


if __name__ == "__main__":
    main()
